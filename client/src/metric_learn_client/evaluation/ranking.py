"""The rank of the relevant images of every query, exactly. Pure.

Order: similarity (evaluation.similarity) downwards; equal ones by their place in the gallery, first one first. A block
of queries is compared with the whole gallery in float32 (evaluation.screening); what is too near to decide is computed
pair by pair. Every decision is made on the same number however the work is cut, so the size of a block changes nothing
in the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_learn_client.evaluation.screening import Screen, Screened
from metric_learn_client.evaluation.similarity import Doubles, Floats, Indices, Rows, similarity_of_pairs

DEFAULT_MEMORY_MB = 512  # of one block, beside the embeddings and one factor as large as the gallery
_BYTES_PER_PAIR = 12  # of a block: the product, its partitioned copy, masks
MOST_ROWS = 1024  # of a block: enough for the matrix product's full speed


@dataclass(frozen=True)
class Ranking:
    """Per query: relevant int64 (R), first_rank int64 (1 is best; 0 where R is 0), hits int64 (relevant ones among the
    first R) and average_precision float64 (of the first R, 0..1)."""

    relevant: Indices
    first_rank: Indices
    hits: Indices
    average_precision: Doubles


@dataclass(frozen=True)
class _Task:
    """queries and gallery with their labels, 0.."""

    queries: Rows
    gallery: Rows
    query_labels: Indices
    gallery_labels: Indices
    members: list[Indices]  # the gallery's images of each label

    def exact(self, query: Indices, image: Indices) -> Doubles:
        return similarity_of_pairs(self.queries, query, self.gallery, image)


def rank(
    queries: Rows,
    gallery: Rows,
    query_labels: Indices,
    gallery_labels: Indices,
    *,
    self_excluded: bool,
    memory_mb: int = DEFAULT_MEMORY_MB,
) -> Ranking:
    """Ranks all queries; relevant are the images of the query's label, without the query itself. labels: 0, 1, ...

    self_excluded: query n is image n, and left out of its own ranking.
    """
    order = np.argsort(gallery_labels, kind="stable")
    labels = np.arange(1 + int(max(query_labels.max(), gallery_labels.max())))
    members = np.split(order, np.searchsorted(gallery_labels[order], labels[1:]))
    task = _Task(queries, gallery, query_labels, gallery_labels, members)
    counts = relevant_counts(query_labels, gallery_labels, self_excluded)
    zero = np.zeros(queries.count, np.int64)
    made = Ranking(counts, zero, zero.copy(), np.zeros(queries.count))
    todo = np.flatnonzero(counts)
    todo = todo[np.argsort(counts[todo], kind="stable")]  # a block looks at as many places as its largest R
    screen = Screen(gallery)
    rows = max(1, min(MOST_ROWS, memory_mb * 2**20 // (_BYTES_PER_PAIR * gallery.count)))
    for start in range(0, len(todo), rows):
        block = todo[start : start + rows]
        screened = screen.compare(queries, block)
        if self_excluded:
            screened.values[np.arange(len(block)), block] = -np.inf
        made.first_rank[block] = _first_ranks(task, block, screened)
        made.hits[block], made.average_precision[block] = _first_places(task, block, screened, counts[block])
    return made


def relevant_counts(query_labels: Indices, gallery_labels: Indices, self_excluded: bool) -> Indices:
    """int64 [Q]: how many images of the gallery each query should find."""
    ordered = np.sort(gallery_labels)
    begin, end = (np.searchsorted(ordered, query_labels, side) for side in ("left", "right"))
    return (end - begin - int(self_excluded)).astype(np.int64)


def _first_ranks(task: _Task, block: Indices, screened: Screened) -> Indices:
    """1 + the images that stand before the best relevant one, of each query of the block."""
    values, offset, slack = screened
    best, first = np.empty(len(block)), np.empty(len(block), np.int64)
    for row, query in enumerate(block):
        images = task.members[task.query_labels[query]]
        rough = values[row, images]
        images = images[rough >= rough.max() - 2 * slack[row]]  # never the query itself, which is -inf
        exact = task.exact(np.full(len(images), query), images)
        best[row], first[row] = exact.max(), images[exact.argmax()]  # argmax: the first of equal ones
    low, high = _float32_around(best - offset, slack)
    sure = np.count_nonzero(values > high[:, None], axis=1)
    owner, image = np.nonzero((values >= low[:, None]) & (values <= high[:, None]))
    exact = task.exact(block[owner], image)
    before = (exact > best[owner]) | ((exact == best[owner]) & (image < first[owner]))
    ranks: Indices = 1 + sure + np.bincount(owner[before], minlength=len(block))
    return ranks


def _first_places(task: _Task, block: Indices, screened: Screened, counts: Indices) -> tuple[Indices, Doubles]:
    """(relevant images among the first R, average precision of the first R) of each query of the block."""
    values, offset, slack = screened
    last = values.shape[1] - int(counts.max())
    least = np.partition(values, last, axis=1)[:, last]
    row, image = np.nonzero(values >= _float32_around(least.astype(np.float64), 2 * slack)[0][:, None])
    similarity = values[row, image] + offset[row]
    order = np.lexsort((-similarity, row))
    row, image, similarity = row[order], image[order], similarity[order]
    near = np.zeros(len(row) + 1, bool)  # the place before is closer than rounding
    near[1:-1] = (row[1:] == row[:-1]) & (similarity[:-1] - similarity[1:] <= 2 * slack[row[1:]])
    unsure = np.flatnonzero(near[:-1] | near[1:])
    similarity[unsure] = task.exact(block[row[unsure]], image[unsure])
    order = np.lexsort((image, -similarity, row))
    row, image = row[order], image[order]
    begin = np.searchsorted(row, row)
    place = np.arange(len(row)) - begin + 1
    hit = task.gallery_labels[image] == task.query_labels[block[row]]
    found = np.cumsum(hit)
    found -= (found - hit)[begin]
    inside = hit & (place <= counts[row])
    hits = np.bincount(row[inside], minlength=len(block)).astype(np.int64)
    precision = np.bincount(row[inside], found[inside] / place[inside], len(block))
    return hits, precision / counts


def _float32_around(middle: Doubles, width: Doubles) -> tuple[Floats, Floats]:
    """middle - width and middle + width, rounded outwards."""
    low, high = (middle - width).astype(np.float32), (middle + width).astype(np.float32)
    return np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))
