"""Client library of metric-learn-serving: images in, float32 [N, 2048] embeddings out.

The names below are imported when they are used, so that a process that needs `wire` or `preprocess` alone, such as a
serving worker, loads neither gRPC nor the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from metric_learn_client._version import __version__

if TYPE_CHECKING:
    from metric_learn_client._client.aio import AsyncEmbeddingClient
    from metric_learn_client._client.client import EmbeddingClient
    from metric_learn_client._client.core.identity import ModelInfo, ModelLimits
    from metric_learn_client.errors import (
        AuthenticationError,
        ClosedError,
        DeadlineError,
        EndpointError,
        IdentityError,
        ImageFailure,
        ImagesFailedError,
        MetricLearnError,
        OverloadedError,
        RejectedError,
        ReplyError,
        ServerError,
        UnreachableError,
    )
    from metric_learn_client.inputs import ImageInput
    from metric_learn_client.options import TlsOptions
    from metric_learn_client.results import EmbeddingResult

__all__ = [
    "AsyncEmbeddingClient",
    "AuthenticationError",
    "ClosedError",
    "DeadlineError",
    "EmbeddingClient",
    "EmbeddingResult",
    "EndpointError",
    "IdentityError",
    "ImageFailure",
    "ImageInput",
    "ImagesFailedError",
    "MetricLearnError",
    "ModelInfo",
    "ModelLimits",
    "OverloadedError",
    "RejectedError",
    "ReplyError",
    "ServerError",
    "TlsOptions",
    "UnreachableError",
    "__version__",
]

_HOMES = {
    "_client.aio": ("AsyncEmbeddingClient",),
    "_client.client": ("EmbeddingClient",),
    "_client.core.identity": ("ModelInfo", "ModelLimits"),
    "inputs": ("ImageInput",),
    "options": ("TlsOptions",),
    "results": ("EmbeddingResult",),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
