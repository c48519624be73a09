"""The same ranking by FAISS' exact inner-product search (extra [search]): float32, ties as FAISS leaves them.

For hosts where FAISS is the faster one, and as a second opinion. A first relevant image below the searched depth has
the rank gallery + 1.
"""

from __future__ import annotations

import numpy as np

from metric_learn_client.evaluation.ranking import Ranking, relevant_counts
from metric_learn_client.evaluation.similarity import Indices, Rows

QUERY_BLOCK_ROWS = 4096


def rank_by_faiss(
    queries: Rows, gallery: Rows, query_labels: Indices, gallery_labels: Indices, *, self_excluded: bool, depth: int
) -> Ranking:
    """depth: how many places are searched; at least the largest R is, so that all metrics can be computed."""
    import faiss

    counts = relevant_counts(query_labels, gallery_labels, self_excluded)
    depth = min(gallery.count, max(depth, int(counts.max())) + int(self_excluded))
    units = gallery.values * gallery.inverse_norms[:, None].astype(np.float32)
    first = np.zeros(queries.count, np.int64)
    hits = np.zeros(queries.count, np.int64)
    average = np.zeros(queries.count)
    for start in range(0, queries.count, QUERY_BLOCK_ROWS):
        part = np.arange(start, min(start + QUERY_BLOCK_ROWS, queries.count))
        rows = queries.values[part] * queries.inverse_norms[part, None].astype(np.float32)
        _, found = faiss.knn(rows, units, depth, metric=faiss.METRIC_INNER_PRODUCT)
        for row, query in zip(found, part):
            others = row[row != query] if self_excluded else row
            places = np.flatnonzero(gallery_labels[others] == query_labels[query]) + 1
            if not counts[query]:
                continue
            first[query] = places[0] if places.size else gallery.count + 1
            inside = places[places <= counts[query]]
            hits[query] = inside.size
            average[query] = (np.arange(1, inside.size + 1) / inside).sum() / counts[query]
    return Ranking(counts, first, hits, average)
