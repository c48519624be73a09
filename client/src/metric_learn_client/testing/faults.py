"""What can go wrong in a FakeServable, as plain settings that a test changes while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from metric_learn_client import wire


@dataclass
class Limits:
    """What the fake says in GetModel, and enforces."""

    max_instances: int = wire.DEFAULT_MAX_INSTANCES
    max_request_bytes: int = wire.DEFAULT_MAX_REQUEST_BYTES
    max_image_bytes: int = wire.DEFAULT_MAX_IMAGE_BYTES
    max_image_px: int = wire.DEFAULT_MAX_IMAGE_PX


@dataclass
class Faults:
    """All off by default. They strike Predict calls; `Faults()` assigned to `FakeServable.faults` ends them."""

    delay_s: float = 0.0  # every answer comes so much later
    out_of_order: bool = False  # calls are answered in another order than they came: each after 0..20 ms
    black_hole: bool = False  # never answers anything, health included; ends when the caller gives up
    status: Optional[str] = None  # a gRPC status by name, "UNAVAILABLE"
    details: str = "switched on by a test"
    retry_after_ms: Optional[int] = None  # the retry hint beside `status`
    in_band: Optional[tuple[int, str]] = None  # (error_code, text) for the whole call, inside a reply
    reordered_rows: bool = False  # rows of a reply reversed: a broken server, which no client can notice
    missing_rows: int = 0  # so many rows too few
    short_rows: bool = False  # embeddings of the wrong size
    fingerprint: Optional[str] = None  # another fingerprint than GetModel's
    max_in_flight: Optional[int] = None  # more calls at once get RESOURCE_EXHAUSTED with a hint of 20 ms
    calls: Optional[int] = None  # strike this many calls, then none; None: until switched off
