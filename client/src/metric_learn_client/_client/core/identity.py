"""Which model the embeddings come from: what the server says of it, and the guard against mixing two of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from metric_learn_client import wire
from metric_learn_client._client.core.codec import parse
from metric_learn_client.errors import IdentityError


@dataclass(frozen=True)
class ModelLimits:
    """What one call, and one image of it, may be. The client keeps below them."""

    max_instances: int = wire.DEFAULT_MAX_INSTANCES
    max_request_bytes: int = wire.DEFAULT_MAX_REQUEST_BYTES
    max_image_bytes: int = wire.DEFAULT_MAX_IMAGE_BYTES
    max_image_px: int = wire.DEFAULT_MAX_IMAGE_PX


@dataclass(frozen=True)
class ModelInfo:
    """The model behind an endpoint. weights: "published", "custom" or "stand-in"; dim: length of an embedding;
    fingerprint: sha256 over all that decides the embedding space; versions: those that are served."""

    name: str
    version: int
    fingerprint: str
    dim: int
    weights: str
    preprocessing: str
    limits: ModelLimits
    methods: tuple[str, ...]
    server_version: str
    versions: tuple[int, ...]


@dataclass(frozen=True)
class Origin:
    """What a reply says of the model that made it; None where the server says nothing (a bare MindSpore Serving)."""

    fingerprint: Optional[str]
    version: Optional[int]


def origin_of(trailing: Mapping[str, str]) -> Origin:
    version = trailing.get(wire.METADATA_VERSION, "")
    return Origin(trailing.get(wire.METADATA_FINGERPRINT) or None, int(version) if version.isdigit() else None)


def decode_model(body: bytes) -> ModelInfo:
    """Raises ReplyError."""
    reply = parse(wire.GetModelReply, body)
    assumed = ModelLimits()
    return ModelInfo(
        name=reply.name,
        version=reply.version,
        fingerprint=reply.fingerprint,
        dim=reply.dim,
        weights=reply.weights,
        preprocessing=reply.preprocessing,
        limits=ModelLimits(
            reply.max_instances or assumed.max_instances,
            reply.max_request_bytes or assumed.max_request_bytes,
            reply.max_image_bytes or assumed.max_image_bytes,
            reply.max_image_px or assumed.max_image_px,
        ),
        methods=tuple(reply.methods),
        server_version=reply.server_version,
        versions=tuple(reply.versions),
    )


class Guard:
    """Refuses a fingerprint that is not the expected one, or, unless allowed, not the first one seen."""

    def __init__(self, expected: Optional[str], *, allow_change: bool) -> None:
        self._expected = expected
        self._allow_change = allow_change
        self._first: Optional[str] = None
        self._lock = threading.Lock()

    def copy(self) -> Guard:
        """For a forked child: the same memory, a lock of its own."""
        guard = Guard(self._expected, allow_change=self._allow_change)
        guard._first = self._first
        return guard

    def check(self, fingerprint: Optional[str], endpoint: str) -> None:
        """Raises IdentityError."""
        if self._expected is not None and fingerprint != self._expected:
            raise IdentityError(
                f"{endpoint} serves fingerprint {fingerprint or 'unknown (it says none)'}, expected_fingerprint is"
                f" {self._expected}: its embeddings cannot be compared with those"
            )
        if fingerprint is None or self._allow_change:
            return
        with self._lock:
            self._first = self._first or fingerprint
            first = self._first
        if fingerprint != first:
            raise IdentityError(
                f"{endpoint} now answers with fingerprint {fingerprint}, before with {first}: the model was changed;"
                " embed everything again with a new client, or set allow_fingerprint_change=True"
            )
