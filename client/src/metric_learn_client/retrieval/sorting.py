"""Ranks of queries with many relevant images: the gallery sorted, near ties settled one pair at a time. Pure."""

from __future__ import annotations

import numpy as np

from metric_learn_client.retrieval.relevance import Relevance
from metric_learn_client.retrieval.similarity import STEP, Doubles, Indices, Rows, similarity_of_pairs

DOUBLE_ROUNDOFF = 2.0**-53
GALLERY_BLOCK_ROWS = 8192


def sorted_gallery(queries: Rows, gallery: Rows, block: Indices, self_excluded: bool) -> tuple[Indices, Doubles]:
    """(order int64 [n, N], similarity float64 [n, N] in that order); the query itself comes last, with -inf."""
    similarity = np.empty((len(block), gallery.count))
    left = queries.values[block] * queries.inverse_norms[block, None]
    for start in range(0, gallery.count, GALLERY_BLOCK_ROWS):
        part = slice(start, start + GALLERY_BLOCK_ROWS)
        similarity[:, part] = left @ (gallery.values[part] * gallery.inverse_norms[part, None]).T
    if self_excluded:
        similarity[np.arange(len(block)), block] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")
    ordered = np.take_along_axis(similarity, order, axis=1)
    # Values closer than the rounding of such a product have no order yet: compute those as the definition says.
    with np.errstate(invalid="ignore"):  # -inf minus -inf
        near = ordered[:, :-1] - ordered[:, 1:] <= 4 * (gallery.dim + 8) * DOUBLE_ROUNDOFF + STEP
    unsure = np.zeros(ordered.shape, bool)
    unsure[:, :-1] |= near
    unsure[:, 1:] |= near
    row, place = np.nonzero(unsure & np.isfinite(ordered))
    if row.size:
        image = order[row, place]
        similarity[row, image] = similarity_of_pairs(queries, block[row], gallery, image)
        order = np.argsort(-similarity, axis=1, kind="stable")
        ordered = np.take_along_axis(similarity, order, axis=1)
    return order.astype(np.int64), ordered


def rank_by_sorting(
    queries: Rows, gallery: Rows, relevance: Relevance, block: Indices, self_excluded: bool
) -> tuple[Indices, Indices, Doubles]:
    """(first rank, hits among the first R, average precision of the first R) of each query of the block."""
    order, _ = sorted_gallery(queries, gallery, block, self_excluded)
    first = np.zeros(len(block), np.int64)
    hits = np.zeros(len(block), np.int64)
    average = np.zeros(len(block))
    place = np.empty(gallery.count, np.int64)
    for row, query in enumerate(block):
        place[order[row]] = np.arange(1, gallery.count + 1)
        ranks = np.sort(place[relevance.of(int(query))])
        inside = ranks[ranks <= len(ranks)]
        first[row], hits[row] = ranks[0], len(inside)
        if inside.size:  # summed in the order that retrieval.ranking sums in
            average[row] = np.cumsum(np.arange(1, len(inside) + 1) / inside)[-1] / len(ranks)
    return first, hits, average
