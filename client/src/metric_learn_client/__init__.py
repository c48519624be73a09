"""Client library of metric-learn-serving: images in, float32 [N, 2048] embeddings out."""

from __future__ import annotations

from metric_learn_client._version import __version__
from metric_learn_client.client import EmbeddingClient, EmbeddingResult
from metric_learn_client.errors import (
    DeadlineError,
    EndpointError,
    ImageFailure,
    ImagesFailedError,
    MetricLearnError,
    OverloadedError,
    RejectedError,
    ReplyError,
    UnreachableError,
)

__all__ = [
    "DeadlineError",
    "EmbeddingClient",
    "EmbeddingResult",
    "EndpointError",
    "ImageFailure",
    "ImagesFailedError",
    "MetricLearnError",
    "OverloadedError",
    "RejectedError",
    "ReplyError",
    "UnreachableError",
    "__version__",
]
