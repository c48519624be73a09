"""metric_learn.v1.ModelService/GetModel: what is served here, and what a call may carry."""

from __future__ import annotations

import grpc
from google.protobuf.message import DecodeError

from metric_learn_client import __version__
from metric_learn_client.wire import SERVABLE_NAME, GetModelReply, GetModelRequest
from servable.config.sections import LimitsSection
from servable.gateway.backends import Backends, Served, UnknownVersion
from servable.gateway.call.methods import METHODS
from servable.gateway.errors import CallError, invalid, unavailable

RETRY_AFTER_START_MS = 1000


def resolve(backends: Backends, version: int, field: str) -> Served:
    """The version asked for, 0 = the default. Raises CallError (NOT_FOUND)."""
    try:
        return backends.resolve(version)
    except UnknownVersion:
        served = ", ".join(str(each.version) for each in backends.all())
        raise CallError(
            grpc.StatusCode.NOT_FOUND,
            f"{version} is not served; served: {served}; 0 is the default, {backends.default_version}",
            field=field,
        ) from None


def describe_model(body: bytes, backends: Backends, limits: LimitsSection) -> bytes:
    """GetModelRequest -> GetModelReply.

    Raises CallError: INVALID_ARGUMENT for another model, NOT_FOUND, UNAVAILABLE before the first start.
    """
    try:
        request = GetModelRequest.FromString(body)
    except DecodeError:
        raise invalid("request", "the body is not a GetModelRequest") from None
    if request.name not in ("", SERVABLE_NAME):
        raise invalid("name", f"{request.name[:64]!r}; this server serves {SERVABLE_NAME!r}")
    served = resolve(backends, request.version, "version")
    backend = served.backend
    if backend is None:
        raise unavailable(f"version {served.version} is being started", RETRY_AFTER_START_MS)
    reply = GetModelReply(
        name=SERVABLE_NAME,
        version=served.version,
        fingerprint=backend.fingerprint,
        dim=backend.embedding_dim,
        weights=backend.weights,
        preprocessing=backend.preprocessing,
        max_instances=limits.max_instances,
        max_request_bytes=limits.max_request_bytes,
        max_image_bytes=limits.max_image_bytes,
        max_image_px=limits.max_image_px,
        methods=sorted(METHODS),
        server_version=__version__,
        versions=[each.version for each in backends.all()],
    )
    encoded: bytes = reply.SerializeToString()
    return encoded
