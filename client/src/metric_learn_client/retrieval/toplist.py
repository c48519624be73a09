"""The first R places of each query, put together from its relevant images and the others that can be there. Pure."""

from __future__ import annotations

import numpy as np

from metric_learn_client.retrieval.similarity import Doubles, Indices

Pairs = tuple[Indices, Indices, Doubles]  # query, image, similarity


def hits_among_first_r(relevant: Pairs, others: Pairs, counts: Indices) -> tuple[Indices, Doubles]:
    """(relevant images among the first R, average precision of the first R) of every query.

    relevant: all pairs of a query and an image of its class; others: at least those pairs of two classes that are
    among a query's first R; counts int64 [Q]: the R of each.
    """
    owner = np.concatenate([relevant[0], others[0]])
    image = np.concatenate([relevant[1], others[1]])
    similarity = np.concatenate([relevant[2], others[2]])
    hit = np.zeros(len(owner), bool)
    hit[: len(relevant[0])] = True
    order = np.lexsort((image, -similarity, owner))
    owner, hit = owner[order], hit[order]
    begin = np.searchsorted(owner, owner)
    place = np.arange(len(owner)) - begin + 1
    found = np.cumsum(hit)
    found = found - (found[begin] - hit[begin])
    inside = hit & (place <= counts[owner])
    hits = np.bincount(owner[inside], minlength=len(counts)).astype(np.int64)
    precision = np.bincount(owner[inside], found[inside] / place[inside], minlength=len(counts))
    return hits, precision / np.maximum(1, counts)
