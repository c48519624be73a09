"""What an operator may set of the gateway. Values only: no file is read and no socket opened here.

The defaults are the ones to keep on one CPU host; `server configuration` maps the YAML keys onto these names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from metric_learn_client.wire import (
    DEFAULT_MAX_IMAGE_BYTES,
    DEFAULT_MAX_IMAGE_PX,
    DEFAULT_MAX_INSTANCES,
    DEFAULT_MAX_REQUEST_BYTES,
    MAX_MESSAGE_BYTES,
)

WHEN_DOWN = ("wait", "fail")
LOG_FORMATS = ("json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class LimitSettings:
    """How much one call, and all calls together, may hold."""

    max_instances: int = DEFAULT_MAX_INSTANCES  # images in one call
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES
    max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES  # a larger image is that image's E_TOO_LARGE
    max_image_px: int = DEFAULT_MAX_IMAGE_PX  # enforced by the servable; told to clients by GetModel
    # All calls that are accepted and not yet answered. Over it: RESOURCE_EXHAUSTED at once.
    max_in_flight_calls: int = 512
    max_in_flight_instances: int = 1024
    max_in_flight_bytes: int = 256 * 1024 * 1024
    # Bodies being received at one time: gRPC buffers a body before its size is known to us, so peak memory is
    # about max_in_flight_bytes + max_reading_calls x the largest body that callers send.
    max_reading_calls: int = 32
    max_streams_per_connection: int = 256
    max_connections: int = 1024

    def __post_init__(self) -> None:
        _positive(self, *self.__dataclass_fields__)
        _at_most(self, "max_request_bytes", MAX_MESSAGE_BYTES // 2)
        _at_most(self, "max_instances", self.max_in_flight_instances)
        _at_most(self, "max_request_bytes", self.max_in_flight_bytes)


@dataclass(frozen=True)
class DeadlineSettings:
    """Budget of a call. The caller's own deadline counts when it is shorter than `max_s`."""

    default_s: float = 30.0  # for callers that set none
    max_s: float = 120.0
    read_body_s: float = 20.0  # a body that takes longer to arrive ends its call

    def __post_init__(self) -> None:
        _positive(self, *self.__dataclass_fields__)


@dataclass(frozen=True)
class TlsSettings:
    """PEM files, read at start and again whenever one of them changes."""

    certificate: Path  # leaf first, then its intermediates
    private_key: Path
    client_ca: Optional[Path] = None  # set: mutual TLS; a client must show a certificate of this CA and no other


@dataclass(frozen=True)
class AuthSettings:
    """Bearer tokens: one a line, `#` starts a comment, all of them valid; read again when the file changes."""

    tokens_file: Path


@dataclass(frozen=True)
class LogSettings:
    format: str = "text"
    level: str = "info"
    access: bool = True  # one line for each call

    def __post_init__(self) -> None:
        _one_of(self, "format", LOG_FORMATS)
        _one_of(self, "level", LOG_LEVELS)


@dataclass(frozen=True)
class ReadinessSettings:
    """The golden image's way through the whole pipeline."""

    interval_s: float = 2.0
    deadline_s: float = 5.0
    max_relative_distance: float = 2e-2  # float16 devices included; wrong preprocessing is off by 0.1 and more
    # Real traffic that succeeded within `interval_s` stands in for the golden image, but never longer than this:
    # only the golden image proves that the numbers are right.
    forced_interval_s: float = 60.0
    max_cost_share: float = 0.02  # of one backend's time: a slow backend is asked less often
    failures_before_replace: int = 2  # in a row; then the supervisor is told

    def __post_init__(self) -> None:
        _positive(self, *self.__dataclass_fields__)


@dataclass(frozen=True)
class TracingSettings:
    """OpenTelemetry spans; needs the packages of the `tracing` extra."""

    enabled: bool = False
    otlp_endpoint: str = "http://127.0.0.1:4317"


@dataclass(frozen=True)
class GatewaySettings:
    """Everything the gateway needs to know, except the backends."""

    address: str = "127.0.0.1:5500"  # "host:port", "[ipv6]:port" or "unix:/path"; port 0 takes a free one
    http_address: str = "127.0.0.1:5501"  # /livez, /readyz, /metrics: plain HTTP without secrets
    # Between "not ready" and the end of new calls, when the server stops: load balancers need the time to notice.
    drain_notice_s: float = 0.0
    when_down: str = "wait"  # while the backend is down a call waits up to its deadline, or fails at once
    allow_insecure: bool = False  # plain text on an address that others can reach
    limits: LimitSettings = field(default_factory=LimitSettings)
    deadlines: DeadlineSettings = field(default_factory=DeadlineSettings)
    readiness: ReadinessSettings = field(default_factory=ReadinessSettings)
    log: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    tls: Optional[TlsSettings] = None
    auth: Optional[AuthSettings] = None

    def __post_init__(self) -> None:
        _one_of(self, "when_down", WHEN_DOWN)


def _positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not value > 0:
            raise ValueError(f"{type(settings).__name__}.{name} is {value}; it must be above 0")


def _at_most(settings: object, name: str, most: int) -> None:
    value = getattr(settings, name)
    if value > most:
        raise ValueError(f"{type(settings).__name__}.{name} is {value}; the most is {most}")


def _one_of(settings: object, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(settings, name)
    if value not in allowed:
        raise ValueError(f"{type(settings).__name__}.{name} is {value!r}; allowed are {', '.join(allowed)}")
