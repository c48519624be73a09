"""Retrieval metrics: what each is, and the one function that computes them all. Pure.

Recall@K        share of queries with a same-label image among their K nearest (Oh Song et al., CVPR 2016, section 5)
precision@1     the same as Recall@1 by definition; named because others report it
R-precision     same-label images among the R nearest, divided by R, where R counts the query's same-label images
MAP@R           mean over the first R places of the precision at each place that holds a same-label image, zero for
                the others (Musgrave et al., A Metric Learning Reality Check, ECCV 2020, section 3.2)

Order and ties: evaluation.ranking. A query without any same-label image counts as a miss in every metric, as the model
zoo's routine counts it; `without_match` says how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client.evaluation.ranking import DEFAULT_MEMORY_MB, Ranking, rank
from metric_learn_client.evaluation.similarity import Indices, rows_of

DEFAULT_KS = (1, 10, 100, 1000)  # Oh Song et al., CVPR 2016, for Stanford Online Products


@dataclass(frozen=True)
class Metrics:
    """All shares 0..1. recall: K -> Recall@K, only for K below the images a query can find; ranking: per query."""

    recall: dict[int, float]
    precision_at_1: float
    r_precision: float
    map_at_r: float
    queries: int
    gallery: int
    classes: int
    without_match: int
    ranking: Ranking

    def as_dict(self) -> dict[str, Any]:
        return {
            "recall": {str(k): value for k, value in self.recall.items()},
            "precision_at_1": self.precision_at_1,
            "r_precision": self.r_precision,
            "map_at_r": self.map_at_r,
            "queries": self.queries,
            "gallery": self.gallery,
            "classes": self.classes,
            "queries_without_match": self.without_match,
        }


def retrieval_metrics(
    queries: npt.ArrayLike,
    query_labels: Sequence[Any] | npt.NDArray[Any],
    gallery: Optional[npt.ArrayLike] = None,
    gallery_labels: Optional[Sequence[Any] | npt.NDArray[Any]] = None,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    memory_mb: int = DEFAULT_MEMORY_MB,
    faiss: bool = False,
) -> Metrics:
    """All metrics at once. Without a gallery, the queries are the gallery and each leaves itself out.

    queries [Q, D] and gallery [N, D]: any finite rows, normalised here; labels: one each, of any sortable kind.
    memory_mb: of one block of queries; changes no result.
    faiss: rank by FAISS in float32 (evaluation.faiss_ranking) in place of the exact order above.
    Raises ValueError where shapes do not fit, a row is zero or not finite, or a K is below 1.
    """
    self_excluded = gallery is None
    query_rows = rows_of(queries, "queries")
    if gallery is None:
        gallery_rows, gallery_labels = query_rows, query_labels
    else:
        gallery_rows = rows_of(gallery, "gallery")
        if gallery_labels is None:
            raise ValueError("a gallery needs gallery_labels")
    assert gallery_labels is not None
    for rows, labels, name in (
        (query_rows, query_labels, "queries"),
        (gallery_rows, gallery_labels, "gallery images"),
    ):
        if rows.count != len(labels):
            raise ValueError(f"{rows.count} {name} have {len(labels)} labels")
    if query_rows.dim != gallery_rows.dim:
        raise ValueError(f"queries have {query_rows.dim} dimensions, the gallery {gallery_rows.dim}")
    reachable = gallery_rows.count - int(self_excluded)
    if not query_rows.count or reachable < 1:
        raise ValueError(f"{query_rows.count} queries and {reachable} images to find: nothing to measure")
    if any(k < 1 for k in ks):
        raise ValueError(f"K is {min(ks)}; it must be at least 1")
    query_codes, gallery_codes = class_numbers(query_labels, gallery_labels)
    if faiss:
        from metric_learn_client.evaluation.faiss_ranking import rank_by_faiss

        ranking = rank_by_faiss(
            query_rows, gallery_rows, query_codes, gallery_codes, self_excluded=self_excluded, depth=max(ks)
        )
    else:
        ranking = rank(
            query_rows, gallery_rows, query_codes, gallery_codes, self_excluded=self_excluded, memory_mb=memory_mb
        )
    return _summary(ranking, gallery_rows.count, reachable, len(np.unique(query_codes)), ks)


def class_numbers(
    query_labels: Sequence[Any] | npt.NDArray[Any], gallery_labels: Sequence[Any] | npt.NDArray[Any]
) -> tuple[Indices, Indices]:
    """The classes of queries and gallery as numbers from 0. Labels are the same class where they are equal in one array
    of NumPy: the text "1" and the number 1 are, and all that are not a number."""
    _, codes = np.unique(np.concatenate([np.asarray(query_labels), np.asarray(gallery_labels)]), return_inverse=True)
    codes = codes.ravel().astype(np.int64)
    return codes[: len(query_labels)], codes[len(query_labels) :]


def _summary(ranking: Ranking, gallery: int, reachable: int, classes: int, ks: Sequence[int]) -> Metrics:
    found = ranking.first_rank > 0
    recall = {
        k: float(np.count_nonzero(found & (ranking.first_rank <= k)) / len(found))
        for k in sorted(set(ks))
        if k <= reachable
    }
    at_1 = float(np.count_nonzero(ranking.first_rank == 1) / len(found))
    return Metrics(
        recall=recall,
        precision_at_1=at_1,
        r_precision=float(np.mean(ranking.hits / np.maximum(1, ranking.relevant))),
        map_at_r=float(np.mean(ranking.average_precision)),
        queries=len(found),
        gallery=gallery,
        classes=classes,
        without_match=int(np.count_nonzero(ranking.relevant == 0)),
        ranking=ranking,
    )
