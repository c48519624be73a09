"""One evaluation: embeddings and labels in, numbers with their protocol and verdicts out. No printing, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from metric_learn_client.evaluation.embedding_set import EmbeddingSet
from metric_learn_client.evaluation.metrics import DEFAULT_KS, Metrics, retrieval_metrics
from metric_learn_client.evaluation.protocol import PUBLISHED_RECALL_AT_1, PUBLISHED_TOLERANCE, SELF, SPLIT, Protocol
from metric_learn_client.evaluation.ranking import DEFAULT_MEMORY_MB

_EXACT = "cosine similarity, computed in float64; equal ones by their place in the gallery"
_FAISS = "cosine similarity by FAISS in float32; equal ones as FAISS leaves them"


@dataclass(frozen=True)
class Check:
    """A bar that the numbers were held to."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Evaluation:
    """queries and labels of what was measured; gallery is the queries' own set unless it has one."""

    queries: EmbeddingSet
    labels: Sequence[Any]
    gallery: Optional[EmbeddingSet]
    gallery_labels: Optional[Sequence[Any]]
    protocol: Protocol
    metrics: Metrics
    order: str
    checks: tuple[Check, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def dropped(self) -> int:
        """Rows without an embedding, of queries and gallery, that were left out."""
        return self.queries.dropped + (self.gallery.dropped if self.gallery is not None else 0)

    def as_dict(self) -> dict[str, Any]:
        identity = self.queries.identity
        return {
            "protocol": {"name": self.protocol.name, "description": self.protocol.sentence},
            "metrics": self.metrics.as_dict(),
            "checks": [vars(check) for check in self.checks],
            "passed": self.passed,
            "data": {
                "queries": self.queries.source,
                "gallery": self.gallery.source if self.gallery is not None else self.queries.source,
                "rows_without_embedding": self.dropped,
            },
            "model": vars(identity),
            "order": self.order,
        }


def evaluate(
    queries: EmbeddingSet,
    labels: Sequence[Any],
    gallery: Optional[EmbeddingSet] = None,
    gallery_labels: Optional[Sequence[Any]] = None,
    *,
    protocol: Optional[Protocol] = None,
    ks: Sequence[int] = DEFAULT_KS,
    memory_mb: int = DEFAULT_MEMORY_MB,
    faiss: bool = False,
    least_recall_at_1: Optional[float] = None,
) -> Evaluation:
    """Raises ValueError, see retrieval_metrics."""
    metrics = retrieval_metrics(
        queries.embeddings,
        np.asarray(labels),
        None if gallery is None else gallery.embeddings,
        None if gallery_labels is None else np.asarray(gallery_labels),
        ks=ks,
        memory_mb=memory_mb,
        faiss=faiss,
    )
    chosen = protocol or (SELF if gallery is None else SPLIT)
    is_published = chosen.name == "sop-half" and queries.identity.weights == "published"
    checks = [_published(metrics)] if is_published else []
    if least_recall_at_1 is not None:
        value = metrics.precision_at_1
        passed = value >= least_recall_at_1
        text = f"Recall@1 {value:.4f} is {'at least' if passed else 'below'} the wanted {least_recall_at_1:.4f}"
        checks.append(Check("least-recall-at-1", passed, text))
    return Evaluation(
        queries, labels, gallery, gallery_labels, chosen, metrics, _FAISS if faiss else _EXACT, tuple(checks)
    )


def _published(metrics: Metrics) -> Check:
    difference = metrics.precision_at_1 - PUBLISHED_RECALL_AT_1
    passed = abs(difference) <= PUBLISHED_TOLERANCE
    text = (
        f"Recall@1 {metrics.precision_at_1:.4f} is {'the' if passed else 'not the'} published "
        f"{PUBLISHED_RECALL_AT_1} (difference {difference:+.4f}, tolerance {PUBLISHED_TOLERANCE})"
    )
    return Check("published-recall-at-1", passed, text)


def as_text(evaluation: Evaluation) -> str:
    metrics = evaluation.metrics
    lines = [f"protocol    {evaluation.protocol.sentence}"]
    lines.append(
        f"data        {metrics.queries:,} queries, {metrics.gallery:,} gallery images, {metrics.classes:,} classes"
    )
    identity = evaluation.queries.identity
    lines.append(
        f"model       {identity.weights or 'unknown'} weights, fingerprint {(identity.fingerprint or 'unknown')[:16]}"
    )
    lines.append("")
    lines += [f"Recall@{k:<8} {value:.4f}" for k, value in metrics.recall.items()]
    lines.append(f"precision@1     {metrics.precision_at_1:.4f}")
    lines.append(f"R-precision     {metrics.r_precision:.4f}")
    lines.append(f"MAP@R           {metrics.map_at_r:.4f}")
    if metrics.without_match:
        lines.append(f"{metrics.without_match:,} queries have no other image of their class; they count as misses")
    if evaluation.dropped:
        lines.append(f"{evaluation.dropped:,} rows have no embedding and were left out")
    if evaluation.queries.identity.weights == "stand-in":
        lines.append("stand-in weights: the numbers say nothing of the model's quality and are compared with nothing")
    lines += ["", *(f"{'PASS' if check.passed else 'FAIL'}: {check.text}" for check in evaluation.checks)]
    return "\n".join(lines).rstrip()
