"""Ranks of queries with few relevant images: count what stands before them, in tiles of the matrix of pairs. Pure.

Each query has two similarities that matter. `best` is that of its first relevant image; how many other images stand
before it is its rank. `cut` is one that R images are known to reach, so that nothing below it can be among the first
R. A tile's bounds settle most pairs against both; the rest is computed pair by pair. Where queries and gallery are
the same, a tile serves its rows and its columns, which halves the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metric_learn_client.int8_kernel import REACH, UNSURE, int8_kernel
from metric_learn_client.retrieval import bounds as bounding
from metric_learn_client.retrieval.bounds import Bounds
from metric_learn_client.retrieval.quantised import Comparison, margins_of, quantisable, quantise, set_thresholds
from metric_learn_client.retrieval.relevance import Relevance
from metric_learn_client.retrieval.similarity import (
    STEP,
    Doubles,
    Indices,
    Rows,
    rough_similarity_of_pairs,
    similarity_of_pairs,
)
from metric_learn_client.retrieval.toplist import hits_among_first_r
from metric_learn_client.retrieval.work import Work

SAMPLE_ROWS, SAMPLE_QUERIES = 2048, 512
# Cost of one undecided pair in multiplications of the matrix product; measured: 1 us against 180 GFLOP/s on 2 cores.
PAIR_COST = 45_000
POOLED_PAIRS = 4096
HARD = 0.03  # a query of which more pairs than this stay undecided is computed with every dimension


@dataclass(frozen=True)
class _Settled:
    """What a tile adds: images before the first relevant one, by query; and images that may reach their query's cut,
    with their similarity from below and from above."""

    queries: Indices
    ahead: Indices
    owner: Indices
    image: Indices
    least: Doubles
    most: Doubles


class Counting:
    def __init__(
        self,
        queries: Rows,
        gallery: Rows,
        query_labels: Indices,
        gallery_labels: Indices,
        relevance: Relevance,
        few: Indices,
        self_excluded: bool,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.queries, self.gallery, self.relevance, self.few = queries, gallery, relevance, few
        self.query_labels, self.gallery_labels = query_labels, gallery_labels
        self.self_excluded, self.pool = self_excluded, pool
        owner, image = relevance.pairs(few)
        similarity = self._similarity(owner, image)
        order = np.lexsort((image, -similarity, owner))
        self.owner, self.image, self.similarity = owner, image[order], similarity[order]
        self.start = np.zeros(queries.count + 1, np.int64)
        self.start[few + 1] = relevance.counts[few]
        np.cumsum(self.start, out=self.start)
        self.best = np.full(queries.count, np.inf)
        self.cut = np.full(queries.count, np.inf)
        self.best[few] = self.similarity[self.start[few]]
        self.cut[few] = self.similarity[self.start[few + 1] - 1]
        self.first_image = np.zeros(queries.count, np.int64)
        self.first_image[few] = self.image[self.start[few]]

    def run(self, work: Work) -> tuple[Indices, Indices, Doubles]:
        """(first rank, hits among the first R, average precision of the first R) of each of `few`."""
        mean = bounding.mean_unit_row(self.gallery)
        ahead = np.zeros(self.queries.count, np.int64)
        parts: list[_Settled] = []
        for done in self._settled(mean, work):
            ahead[done.queries] += done.ahead
            parts.append(done)
        owner, image, similarity = self._nearest(parts)
        mine, others = (self.owner, self.image, self.similarity), (owner, image, similarity)
        hits, average = hits_among_first_r(mine, others, self.relevance.counts)
        return ahead[self.few] + 1, hits[self.few], average[self.few]

    def _settled(self, mean: Doubles, work: Work) -> Iterator[_Settled]:
        comparison = self._comparison(mean)
        if comparison is not None and comparison.pays():
            yield from self._compare(comparison, work)
            return
        easy, hard, bounds = self._plan(mean, work)
        if bounds is not None and easy.size:
            yield from self._count(easy, easy, bounds, work)
        if not hard.size:
            return
        right = bounding.project(self.gallery, mean, None, self.pool)
        if self.queries is self.gallery and 2 * hard.size > self.queries.count:
            yield from self._count(hard, hard, bounding.make_bounds(right, right, mean, self.gallery.dim), work)
            return
        some = bounding.take(self.queries, hard)
        full = bounding.make_bounds(bounding.project(some, mean, None, self.pool), right, mean, self.gallery.dim)
        yield from self._count(hard, np.arange(len(hard)), full, work)

    def _comparison(self, mean: Doubles) -> Comparison | None:
        """What the compiled kernel compares; None where it is not there or not for these rows."""
        kernel = int8_kernel()
        if kernel is None or not (quantisable(self.queries) and quantisable(self.gallery)):
            return None
        own = np.arange(self.gallery.count) if self.self_excluded else np.full(self.gallery.count, -1)
        right = quantise(kernel, self.gallery, mean, self.gallery_labels, own, self.pool)
        if self.queries is self.gallery and 2 * self.few.size > self.queries.count:
            left, best, start = right, self.best, self.start
        else:
            some = bounding.take(self.queries, self.few)
            own = self.few if self.self_excluded else np.full(self.few.size, -1)
            left = quantise(kernel, some, mean, self.query_labels[self.few], own, self.pool)
            best, start = self.best[self.few], np.append(self.start[self.few], self.start[-1])
        margins = margins_of(left, right, mean)
        set_thresholds(left, best, start, self.similarity, margins.offset)
        return Comparison(kernel, left, right, margins)

    def _compare(self, comparison: Comparison, work: Work) -> Iterator[_Settled]:
        """Settles all of `few` by integers, float32 where these leave a pair open, and exactly where that does."""
        index = np.arange(self.queries.count) if comparison.left is comparison.right else self.few
        nothing = self.few[:0], self.few[:0], self.best[:0], self.best[:0]
        tiles = list(comparison.tiles(work.rows()))
        offset, spread = comparison.margins.offset, comparison.margins.spread
        low_cut = comparison.left.arrays["low_cut"]
        for (rows, columns, both), made in zip(tiles, self.pool.map(comparison.compare, tiles)):
            yield _Settled(index[slice(*rows)], made.ahead_rows.astype(np.int64), *nothing)
            if both:
                yield _Settled(index[slice(*columns)], made.ahead_columns.astype(np.int64), *nothing)
            row, image = made.open["query"].astype(np.int64), made.open["image"].astype(np.int64)
            unsure = (made.open["open"] & UNSURE) > 0
            ahead = self._ahead(index, row[unsure], image[unsure])
            kept = ((made.open["open"] & REACH) > 0) & (made.open["middle"] + spread >= low_cut[row])
            middle = made.open["middle"][kept] + offset
            yield _Settled(index, ahead, index[row[kept]], image[kept], middle - spread, middle + spread)

    def _count(self, queries: Indices, rows: Indices, bounds: Bounds, work: Work) -> Iterator[_Settled]:
        """Settles these queries; rows: theirs in bounds.left."""
        if self.queries is not self.gallery or rows is not queries or 2 * queries.size <= self.queries.count:
            blocks = work.blocks(np.arange(len(queries)), self.gallery.count)
            yield from self.pool.map(lambda block: self._wide(queries[block], rows[block], bounds), blocks)
            return
        count = self.queries.count
        wanted = np.zeros(count, bool)
        wanted[queries] = True
        side = work.rows()
        cuts = [np.arange(start, min(start + side, count)) for start in range(0, count, side)]
        tiles = [(rows, columns) for n, rows in enumerate(cuts) for columns in cuts[n:]]
        for pair in self.pool.map(lambda tile: self._tile(tile[0], tile[1], wanted, bounds), tiles):
            yield from pair

    def _plan(self, mean: Doubles, work: Work) -> tuple[Indices, Indices, Bounds | None]:
        """(queries that the bounds settle, all others, the bounds); raises `cut` by what a sample holds."""
        nobody = self.few[:0]
        sizes = [n for n in bounding.SUBSPACES if 4 * n <= self.gallery.dim and 4 * n <= self.gallery.count]
        if not sizes:
            return nobody, self.few, None
        rng = np.random.default_rng(2)
        sample = np.sort(rng.choice(self.gallery.count, min(self.gallery.count, SAMPLE_ROWS), replace=False))
        basis = bounding.principal_directions(self.gallery, mean, sizes[-1])
        right = bounding.project(self.gallery, mean, basis, self.pool)
        left = right if self.queries is self.gallery else bounding.project(self.queries, mean, basis, self.pool)
        sampled = bounding.take_projected(right, sample)
        near = bounding.make_bounds(left, sampled, mean, sizes[-1])
        blocks = list(work.blocks(self.few, len(sample)))
        list(self.pool.map(lambda block: self._tighten(block, near, sample), blocks))
        share = 0.5 if self.queries is self.gallery else 1.0  # of the matrix of pairs that is computed
        few = np.sort(rng.choice(self.few, min(self.few.size, SAMPLE_QUERIES), replace=False))
        best = (share * self.gallery.dim, 0)
        for size in sizes:
            trial = bounding.make_bounds(bounding.take_projected(left, few), sampled, mean, size)
            undecided = self._undecided(few, slice(None), trial)
            hard = float((undecided > HARD).mean())
            pairs = PAIR_COST * float(np.where(undecided > HARD, 0, undecided).mean())
            rest = self.gallery.dim * (hard if hard <= 0.5 else share)
            best = min(best, (share * size + pairs + rest, size))
        if not best[1]:
            return nobody, self.few, None
        trial = bounding.make_bounds(left, sampled, mean, best[1])
        shares = np.concatenate(list(self.pool.map(lambda block: self._undecided(block, block, trial), blocks)))
        bounds = bounding.make_bounds(left, right, mean, best[1])
        return self.few[shares <= HARD], self.few[shares > HARD], bounds

    def _tighten(self, block: Indices, near: Bounds, sample: Indices) -> None:
        """Raises a query's cut to the R-th largest of what its relevant images and the sample's nearest reach."""
        upper = bounding.product(near.left[block], near.right)
        relevant = self.relevance.counts[block]
        most = int(min(relevant.max(), len(sample)))
        close = np.argpartition(upper, len(sample) - most, axis=1)[:, len(sample) - most :]
        owner, image = np.repeat(block, most), sample[close.ravel()]
        similarity = similarity_of_pairs(self.queries, owner, self.gallery, image)
        other = self.query_labels[owner] != self.gallery_labels[image]
        known = np.where(other, similarity, -np.inf).reshape(len(block), most)
        mine = np.full((len(block), int(relevant.max())), -np.inf)
        place = np.arange(mine.shape[1])
        own = place < relevant[:, None]
        mine[own] = self.similarity[(self.start[block, None] + place)[own]]
        both = -np.sort(-np.concatenate([mine, known], axis=1), axis=1)
        self.cut[block] = both[np.arange(len(block)), relevant - 1]

    def _undecided(self, block: Indices, rows: Indices | slice, bounds: Bounds) -> Doubles:
        """Share of the bounds' gallery that stays undecided, per query of the block; rows: theirs in the bounds."""
        upper = bounding.product(bounds.left[rows], bounds.right)
        low = _below(np.minimum(self.best[block], self.cut[block]) - bounds.offset - bounds.slack)
        share: Doubles = np.count_nonzero(upper >= low[:, None], axis=1) / upper.shape[1]
        return share

    def _wide(self, block: Indices, rows: Indices, bounds: Bounds) -> _Settled:
        upper = bounding.product(bounds.left[rows], bounds.right)
        return self._settle(block, np.arange(self.gallery.count), upper, bounds)

    def _tile(
        self, rows: Indices, columns: Indices, wanted: npt.NDArray[np.bool_], bounds: Bounds
    ) -> Iterator[_Settled]:
        upper = bounding.product(bounds.left[rows], bounds.right[columns])
        made = [self._settle(rows[wanted[rows]], columns, upper[wanted[rows]], bounds)]
        if rows[0] != columns[0]:
            turned = np.ascontiguousarray(upper.T)
            made.append(self._settle(columns[wanted[columns]], rows, turned[wanted[columns]], bounds))
        return iter(made)

    def _settle(self, block: Indices, images: Indices, upper: npt.NDArray[np.float32], bounds: Bounds) -> _Settled:
        """block [n] queries, images [m] consecutive ones of the gallery, upper [n, m]."""
        best, cut = self.best[block], self.cut[block]
        low = _below(best - bounds.offset - bounds.slack)
        low_cut = _below(cut - bounds.offset - bounds.slack)
        if bounds.exact:  # the bound is the similarity: what is clearly before the first relevant one only counts
            above = upper > -_below(-(best - bounds.offset + bounds.slack))[:, None]
            ahead = np.count_nonzero(above, axis=1)
            if self.self_excluded:
                inside = np.flatnonzero((block >= images[0]) & (block <= images[-1]))
                ahead[inside] -= above[inside, block[inside] - images[0]]
            row, image, _ = self._others(block, images, (upper >= low[:, None]) & ~above, upper)
            ahead = ahead + self._ahead(block, row, image)
            row, image, value = self._others(block, images, upper >= low_cut[:, None], upper)
            middle, slack = value.astype(np.float64) + bounds.offset, bounds.slack
        else:
            row, image, _ = self._others(block, images, upper >= np.minimum(low, low_cut)[:, None], upper)
            middle, slack = rough_similarity_of_pairs(self.queries, block[row], self.gallery, image)
            ahead = np.bincount(row[middle > best[row] + slack], minlength=len(block))
            unsure = np.abs(middle - best[row]) <= slack
            ahead = ahead + self._ahead(block, row[unsure], image[unsure])
            kept = middle + slack >= cut[row]
            row, image, middle = row[kept], image[kept], middle[kept]
        return _Settled(block, ahead, block[row], image, middle - slack, middle + slack)

    def _ahead(self, block: Indices, row: Indices, image: Indices) -> Indices:
        """How many of these pairs stand before their query's first relevant image, per row of the tile; exactly."""
        similarity = similarity_of_pairs(self.queries, block[row], self.gallery, image)
        best = self.best[block[row]]
        tie = (similarity == best) & (image < self.first_image[block[row]])
        return np.bincount(row[(similarity > best) | tie], minlength=len(block))

    def _others(
        self, block: Indices, images: Indices, mask: npt.NDArray[np.bool_], upper: npt.NDArray[np.float32]
    ) -> tuple[Indices, Indices, npt.NDArray[np.float32]]:
        """(row of the tile, image, value) of the pairs in the mask that are of two classes; drops the query itself."""
        wanted = np.flatnonzero(mask)
        row, column = np.divmod(wanted, len(images))
        image = images[column]
        other = self.query_labels[block[row]] != self.gallery_labels[image]
        return row[other], image[other], upper.ravel()[wanted[other]]

    def _nearest(self, parts: list[_Settled]) -> tuple[Indices, Indices, Doubles]:
        """(query, image, similarity) of all other-class images that can be among a query's first R."""
        owner = np.concatenate([part.owner for part in parts])
        image = np.concatenate([part.image for part in parts])
        least = np.concatenate([part.least for part in parts])
        most = np.concatenate([part.most for part in parts])
        # R images are known to reach the R-th largest of the lower ends: what cannot reach it is out.
        owners = np.concatenate([self.owner, owner])
        order = np.lexsort((-np.concatenate([self.similarity, least]), owners))
        begin = np.searchsorted(owners[order], self.few)
        last = order[begin + self.relevance.counts[self.few] - 1]
        reached = np.full(self.queries.count, np.inf)
        reached[self.few] = np.concatenate([self.similarity, least])[last]
        kept = most >= reached[owner] - STEP
        owner, image = owner[kept], image[kept]
        return owner, image, self._similarity(owner, image)

    def _similarity(self, owner: Indices, image: Indices) -> Doubles:
        """Of pairs of one query and one image, on all threads."""
        parts = [slice(start, start + POOLED_PAIRS) for start in range(0, max(1, len(owner)), POOLED_PAIRS)]
        done = self.pool.map(
            lambda part: similarity_of_pairs(self.queries, owner[part], self.gallery, image[part]), parts
        )
        return np.concatenate(list(done))


def _below(values: Doubles) -> npt.NDArray[np.float32]:
    """The float32 next below each float64: rounding must not lose a pair."""
    below: npt.NDArray[np.float32] = np.nextafter(values.astype(np.float32), np.float32(-np.inf))
    return below
