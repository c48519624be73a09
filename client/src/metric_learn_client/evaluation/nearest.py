"""The K nearest images of some queries, exactly. Pure; for reports and for the truth that an index is held to."""

from __future__ import annotations

from typing import Optional

import numpy as np

from metric_learn_client.evaluation.screening import Screen
from metric_learn_client.evaluation.similarity import Doubles, Indices, Rows, similarity_of_pairs

QUERY_BLOCK_ROWS = 256


def nearest(queries: Rows, gallery: Rows, k: int, *, excluded: Optional[Indices] = None) -> tuple[Indices, Doubles]:
    """(images int64 [Q, k], similarity float64 [Q, k]), best first; equal ones by their place in the gallery.

    excluded: int64 [Q], an image that each query leaves out, -1 for none. Raises ValueError where k is too large.
    """
    available = gallery.count - (0 if excluded is None else 1)
    if not 1 <= k <= available:
        raise ValueError(f"k is {k}; there are {available} images to find")
    images, similarity = np.empty((queries.count, k), np.int64), np.empty((queries.count, k))
    screen = Screen(gallery)
    for start in range(0, queries.count, QUERY_BLOCK_ROWS):
        part = np.arange(start, min(start + QUERY_BLOCK_ROWS, queries.count))
        rough, _, slack = screen.compare(queries, part)
        if excluded is not None:
            some = np.flatnonzero(excluded[part] >= 0)
            rough[some, excluded[part][some]] = -np.inf
        least = np.partition(rough, rough.shape[1] - k, axis=1)[:, rough.shape[1] - k]
        row, image = np.nonzero(rough >= (least - 3 * slack).astype(np.float32)[:, None])
        exact = similarity_of_pairs(queries, part[row], gallery, image)
        order = np.lexsort((image, -exact, row))
        begin = np.searchsorted(row[order], np.arange(len(part)))
        chosen = order[(begin[:, None] + np.arange(k)).ravel()]
        images[part] = image[chosen].reshape(len(part), k)
        similarity[part] = exact[chosen].reshape(len(part), k)
    return images, similarity
