"""The rank of every relevant image of every query, exactly, without sorting the gallery. Pure.

Order: similarity (retrieval.similarity) downwards; equal ones by their place in the gallery, first one first. What
decides a metric is only how many images stand before a relevant one, so pairs are counted against the similarity of
the relevant ones. Bounds (retrieval.bounds) settle nearly all pairs; the few left are computed one by one. Every
decision is made on the same number however the work is cut, so block size and threads change nothing in the result.

Queries with more than Work.many relevant images would need too many pairs; their gallery is sorted (retrieval.sorting).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from metric_learn_client.retrieval.blas import single_threaded_blas
from metric_learn_client.retrieval.counting import Counting
from metric_learn_client.retrieval.relevance import relevance_of
from metric_learn_client.retrieval.similarity import Doubles, Indices, Rows
from metric_learn_client.retrieval.sorting import rank_by_sorting
from metric_learn_client.retrieval.work import Work


@dataclass(frozen=True)
class Ranking:
    """Per query: relevant int64 (R), first_rank int64 (1 is best; 0 where R is 0), hits int64 (relevant ones among the
    first R) and average_precision float64 (of the first R, 0..1)."""

    relevant: Indices
    first_rank: Indices
    hits: Indices
    average_precision: Doubles


def rank(
    queries: Rows, gallery: Rows, query_labels: Indices, gallery_labels: Indices, *, self_excluded: bool, work: Work
) -> Ranking:
    """Ranks all queries. self_excluded: query n is image n of the gallery, and is left out of its own ranking."""
    relevance = relevance_of(query_labels, gallery_labels, self_excluded)
    made = Ranking(
        relevance.counts,
        np.zeros(queries.count, np.int64),
        np.zeros(queries.count, np.int64),
        np.zeros(queries.count),
    )
    few = np.flatnonzero((relevance.counts > 0) & (relevance.counts <= work.many))
    many = np.flatnonzero(relevance.counts > work.many)
    with single_threaded_blas(), ThreadPoolExecutor(work.thread_count()) as pool:
        if few.size:
            counting = Counting(queries, gallery, query_labels, gallery_labels, relevance, few, self_excluded, pool)
            _store(made, few, *counting.run(work))
        if many.size:

            def sort(block: Indices) -> None:
                _store(made, block, *rank_by_sorting(queries, gallery, relevance, block, self_excluded))

            list(pool.map(sort, work.blocks(many, gallery.count)))
    return made


def _store(made: Ranking, block: Indices, first: Indices, hits: Indices, average: Doubles) -> None:
    made.first_rank[block], made.hits[block], made.average_precision[block] = first, hits, average
