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

from metric_learn_client.retrieval import bounds as bounding
from metric_learn_client.retrieval.bounds import Bounds
from metric_learn_client.retrieval.relevance import Relevance
from metric_learn_client.retrieval.similarity import Doubles, Indices, Rows, similarity_of_pairs
from metric_learn_client.retrieval.work import Work

SAMPLE_ROWS, SAMPLE_QUERIES = 2048, 1024
# Cost of one undecided pair in multiplications of the matrix product; measured: 2.6 us against 180 GFLOP/s on 2 cores.
PAIR_COST = 120_000
HARD = 0.01  # a query of which more pairs than this stay undecided is computed with every dimension


@dataclass(frozen=True)
class _Settled:
    """What a tile adds: images before the first relevant one, by query; and images that reach their query's cut."""

    queries: Indices
    ahead: Indices
    owner: Indices
    image: Indices
    similarity: Doubles


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
    ) -> None:
        self.queries, self.gallery, self.relevance, self.few = queries, gallery, relevance, few
        self.query_labels, self.gallery_labels = query_labels, gallery_labels
        self.self_excluded = self_excluded
        owner, image = relevance.pairs(few)
        similarity = similarity_of_pairs(queries, owner, gallery, image)
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

    def run(self, pool: ThreadPoolExecutor, work: Work) -> tuple[Indices, Indices, Doubles]:
        """(first rank, hits among the first R, average precision of the first R) of each of `few`."""
        mean = bounding.mean_unit_row(self.gallery)
        ahead = np.zeros(self.queries.count, np.int64)
        parts: list[_Settled] = []
        for done in self._settled(mean, pool, work):
            ahead[done.queries] += done.ahead
            parts.append(done)
        hits, average = self._top(
            np.concatenate([part.owner for part in parts]),
            np.concatenate([part.image for part in parts]),
            np.concatenate([part.similarity for part in parts]),
        )
        return ahead[self.few] + 1, hits[self.few], average[self.few]

    def _settled(self, mean: Doubles, pool: ThreadPoolExecutor, work: Work) -> Iterator[_Settled]:
        easy, hard, bounds = self._plan(mean, pool, work)
        if bounds is not None:
            blocks = work.blocks(easy, self.gallery.count)
            yield from pool.map(lambda block: self._wide(block, block, bounds), blocks)
        if not hard.size:
            return
        right = bounding.project(self.gallery, mean, None)
        if self.queries is self.gallery and 2 * hard.size > self.queries.count:
            full = bounding.make_bounds(right, right, mean, self.gallery.dim)
            wanted = np.zeros(self.queries.count, bool)
            wanted[hard] = True
            rows = work.rows()
            tiles = [
                (np.arange(i, min(i + rows, len(wanted))), np.arange(j, min(j + rows, len(wanted))))
                for i in range(0, len(wanted), rows)
                for j in range(i, len(wanted), rows)
            ]
            for pair in pool.map(lambda tile: self._tile(tile[0], tile[1], wanted, full), tiles):
                yield from pair
            return
        some = self.queries if hard.size == self.queries.count else bounding.take(self.queries, hard)
        full = bounding.make_bounds(bounding.project(some, mean, None), right, mean, self.gallery.dim)
        blocks = work.blocks(np.arange(len(hard)), self.gallery.count)
        yield from pool.map(lambda rows: self._wide(hard[rows], rows, full), blocks)

    def _plan(self, mean: Doubles, pool: ThreadPoolExecutor, work: Work) -> tuple[Indices, Indices, Bounds | None]:
        """(queries that the bounds settle, all others, the bounds); raises `cut` by what a sample holds."""
        nobody = self.few[:0]
        sizes = [n for n in bounding.SUBSPACES if 4 * n <= self.gallery.dim and 4 * n <= self.gallery.count]
        if not sizes:
            return nobody, self.few, None
        rng = np.random.default_rng(2)
        sample = np.sort(rng.choice(self.gallery.count, min(self.gallery.count, SAMPLE_ROWS), replace=False))
        basis = bounding.principal_directions(self.gallery, mean, sizes[-1])
        right = bounding.project(self.gallery, mean, basis)
        left = right if self.queries is self.gallery else bounding.project(self.queries, mean, basis)
        sampled = bounding.take_projected(right, sample)
        near = bounding.make_bounds(left, sampled, mean, sizes[-1])
        blocks = list(work.blocks(self.few, len(sample)))
        list(pool.map(lambda block: self._tighten(block, near, sample), blocks))
        dense = self.gallery.dim / 2 if self.queries is self.gallery else self.gallery.dim
        few = np.sort(rng.choice(self.few, min(self.few.size, SAMPLE_QUERIES), replace=False))
        best = (float(dense), 0)
        for size in sizes:
            trial = bounding.make_bounds(bounding.take_projected(left, few), sampled, mean, size)
            undecided = self._undecided(few, slice(None), trial)
            hard = undecided > HARD
            pairs = PAIR_COST * float(np.where(hard, 0, undecided).mean())
            rest = float(hard.mean())
            best = min(best, (size + pairs + (self.gallery.dim * rest if rest <= 0.5 else dense), size))
        if not best[1]:
            return nobody, self.few, None
        trial = bounding.make_bounds(left, sampled, mean, best[1])
        shares = np.concatenate(list(pool.map(lambda block: self._undecided(block, block, trial), blocks)))
        bounds = bounding.make_bounds(left, right, mean, best[1])
        return self.few[shares <= HARD], self.few[shares > HARD], bounds

    def _tighten(self, block: Indices, near: Bounds, sample: Indices) -> None:
        """Raises a query's cut to the R-th largest of what its relevant images and the sample's nearest reach."""
        upper = near.left[block] @ near.right.T
        most = int(min(self.relevance.counts[block].max(), len(sample)))
        close = np.argpartition(-upper, most - 1, axis=1)[:, :most]
        owner, image = np.repeat(block, most), sample[close.ravel()]
        similarity = similarity_of_pairs(self.queries, owner, self.gallery, image)
        other = self.query_labels[owner] != self.gallery_labels[image]
        known = np.where(other, similarity, -np.inf).reshape(len(block), most)
        for row, query in enumerate(block):
            mine = self.similarity[self.start[query] : self.start[query + 1]]
            both = np.concatenate([mine, known[row]])
            self.cut[query] = np.partition(both, len(both) - len(mine))[len(both) - len(mine)]

    def _undecided(self, block: Indices, rows: Indices | slice, bounds: Bounds) -> Doubles:
        """Share of the bounds' gallery that stays undecided, per query of the block; rows: theirs in the bounds."""
        upper = bounds.left[rows] @ bounds.right.T
        low = _below(np.minimum(self.best[block], self.cut[block]) - bounds.offset - bounds.slack)
        share: Doubles = np.count_nonzero(upper >= low[:, None], axis=1) / upper.shape[1]
        return share

    def _wide(self, block: Indices, rows: Indices, bounds: Bounds) -> _Settled:
        upper = bounds.left[rows] @ bounds.right.T
        return self._settle(block, np.arange(self.gallery.count), upper, bounds)

    def _tile(
        self, rows: Indices, columns: Indices, wanted: npt.NDArray[np.bool_], bounds: Bounds
    ) -> Iterator[_Settled]:
        upper = bounds.left[rows] @ bounds.right[columns].T
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
            surely = -_below(-(best - bounds.offset + bounds.slack))
            above = upper > surely[:, None]
            ahead = np.count_nonzero(above, axis=1)
            if self.self_excluded:
                inside = np.flatnonzero((block >= images[0]) & (block <= images[-1]))
                ahead[inside] -= above[inside, block[inside] - images[0]]
            wanted = np.flatnonzero(((upper >= low[:, None]) & ~above) | (upper >= low_cut[:, None]))
            counts = ~above.ravel()[wanted]
        else:
            ahead = np.zeros(len(block), np.int64)
            wanted = np.flatnonzero(upper >= np.minimum(low, low_cut)[:, None])
            counts = np.ones(len(wanted), bool)
        row, column = np.divmod(wanted, len(images))
        image = images[column]
        other = self.query_labels[block[row]] != self.gallery_labels[image]  # drops the query itself, too
        row, image, counts = row[other], image[other], counts[other]
        similarity = similarity_of_pairs(self.queries, block[row], self.gallery, image)
        tie = (similarity == best[row]) & (image < self.first_image[block[row]])
        before = ((similarity > best[row]) | tie) & counts
        ahead = ahead + np.bincount(row[before], minlength=len(block))
        kept = similarity >= cut[row]
        return _Settled(block, ahead, block[row[kept]], image[kept], similarity[kept])

    def _top(self, owner: Indices, image: Indices, similarity: Doubles) -> tuple[Indices, Doubles]:
        """Hits and average precision among the first R of every query, from all images that can be there."""
        owners = np.concatenate([self.owner, owner])
        images = np.concatenate([self.image, image])
        values = np.concatenate([self.similarity, similarity])
        hit = np.zeros(len(owners), bool)
        hit[: len(self.owner)] = True
        order = np.lexsort((images, -values, owners))
        owners, hit = owners[order], hit[order]
        begin = np.searchsorted(owners, owners)
        place = np.arange(len(owners)) - begin + 1
        found = np.cumsum(hit)
        found = found - (found[begin] - hit[begin])
        inside = hit & (place <= self.relevance.counts[owners])
        hits = np.bincount(owners[inside], minlength=self.queries.count)
        precision = np.bincount(owners[inside], found[inside] / place[inside], minlength=self.queries.count)
        return hits.astype(np.int64), precision / np.maximum(1, self.relevance.counts)


def _below(values: Doubles) -> npt.NDArray[np.float32]:
    """The float32 next below each float64: rounding must not lose a pair."""
    below: npt.NDArray[np.float32] = np.nextafter(values.astype(np.float32), np.float32(-np.inf))
    return below
