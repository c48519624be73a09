"""The configuration's sections: keys, types, ranges, defaults. What depends on several keys is in servable/doctor.

Units are in the names (`_s`, `_px`, `_bytes`, `_mb`). A relative path starts at the repository.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from metric_learn_client.wire import (
    DEFAULT_MAX_IMAGE_BYTES,
    DEFAULT_MAX_IMAGE_PX,
    DEFAULT_MAX_INSTANCES,
    DEFAULT_MAX_REQUEST_BYTES,
    MAX_MESSAGE_BYTES,
)
from servable.address import parse_address

REPOSITORY = Path(__file__).resolve().parent.parent


def _absolute(path: Path) -> Path:
    return path if path.is_absolute() else REPOSITORY / path


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ModelSection(_Section):
    """Which exported versions are served."""

    directory: Path = Path("servable/metric_learn")
    version: int = Field(
        default=0, ge=0, le=2**31 - 1, description="the default version; 0 = the highest that is there"
    )
    versions: tuple[int, ...] = Field(default=(), description="all that are served at once; empty = the default alone")

    @property
    def root(self) -> Path:
        return _absolute(self.directory)


class BackendSection(_Section):
    """MindSpore Serving and the runtime under it."""

    target: Literal["cpu", "ascend310", "ascend910"] = "cpu"
    device_ids: tuple[int, ...] = (0,)
    workers: int = Field(
        default=1, ge=1, le=64, description="processes; on Ascend those beyond the devices run Python only"
    )
    threads: int = Field(default=0, ge=0, le=1024, description="of the network, per worker; 0 = cores / workers")
    preprocess_threads: int = Field(
        default=0, ge=0, le=1024, description="decoder processes per worker; 0 = cores / workers"
    )
    precision_mode: Literal["force_fp16", "allow_fp32_to_fp16", "must_keep_origin_dtype", "allow_mix_precision"] = (
        "force_fp16"
    )
    # What a run of the network costs beside its images, in units of one image; see metric_learn/batching.py.
    run_overhead_images: float = Field(default=0.2, ge=0, le=64)
    batch_sizes: tuple[int, ...] = Field(
        default=(), description="the MindIRs that are loaded; empty = all of a version"
    )
    start_timeout_s: float = Field(default=120.0, gt=0, le=3600)


class ServerSection(_Section):
    """Addresses, the private directory, the end."""

    address: str = "127.0.0.1:5500"  # host:port, [ipv6]:port or unix:/path
    http_address: str = "127.0.0.1:5501"  # /livez /readyz /metrics, without TLS and without secrets
    run_dir: Path = Path(tempfile.gettempdir()) / f"metric-learn-serving-{os.getuid()}"
    when_down: Literal["wait", "fail"] = "wait"  # calls while MindSpore Serving is down
    drain_notice_s: float = Field(default=0.0, ge=0, le=600, description="not ready, but still taking calls")
    drain_s: float = Field(
        default=20.0, ge=0, le=3600, description="how long calls in flight may take to end after SIGTERM"
    )

    @field_validator("address", "http_address")
    @classmethod
    def _form(cls, value: str) -> str:
        parse_address(value)
        return value


class LimitsSection(_Section):
    """How much one image, one call and all calls together may hold."""

    max_image_bytes: int = Field(default=DEFAULT_MAX_IMAGE_BYTES, ge=1, le=MAX_MESSAGE_BYTES)
    max_image_px: int = Field(default=DEFAULT_MAX_IMAGE_PX, ge=1, le=1_000_000_000)
    max_instances: int = Field(default=DEFAULT_MAX_INSTANCES, ge=1, le=65536)
    max_request_bytes: int = Field(default=DEFAULT_MAX_REQUEST_BYTES, ge=1, le=MAX_MESSAGE_BYTES)
    max_in_flight_calls: int = Field(default=512, ge=1, le=1_000_000)
    max_in_flight_instances: int = Field(default=1024, ge=1, le=1_000_000)
    max_in_flight_bytes: int = Field(default=256 * 1024 * 1024, ge=1, le=2**40)
    max_reading_calls: int = Field(default=32, ge=1, le=1_000_000)
    max_streams_per_connection: int = Field(default=1024, ge=1, le=1_000_000)


class DeadlinesSection(_Section):
    """Budget of a call; the caller's own counts when it is shorter."""

    default_s: float = Field(default=30.0, gt=0, le=3600)
    max_s: float = Field(default=120.0, gt=0, le=3600)
    read_body_s: float = Field(default=20.0, gt=0, le=3600)


class SecuritySection(_Section):
    """TLS, mutual TLS, bearer tokens. Files are read again when they change."""

    tls_certificate: Optional[Path] = None  # PEM, the leaf first
    tls_private_key: Optional[Path] = None  # PEM, not encrypted
    tls_client_ca: Optional[Path] = None  # callers must show a certificate of this CA
    tokens_file: Optional[Path] = None  # one token a line
    allow_insecure: bool = False  # plain text on an address that other machines can reach

    @field_validator("tls_certificate", "tls_private_key", "tls_client_ca", "tokens_file")
    @classmethod
    def _from_repository(cls, value: Optional[Path]) -> Optional[Path]:
        return None if value is None else _absolute(value)


class ReadinessSection(_Section):
    """The golden image's way through the whole pipeline."""

    interval_s: float = Field(default=2.0, ge=0.05, le=600)
    deadline_s: float = Field(default=5.0, gt=0, le=600)
    forced_interval_s: float = Field(default=60.0, gt=0, le=86400)
    max_cost_share: float = Field(default=0.02, gt=0, le=1, description="of one backend's time")
    max_relative_distance: float = Field(default=2e-2, gt=0, le=0.5)
    failures_before_replace: int = Field(default=2, ge=1, le=1000)


class SupervisionSection(_Section):
    """How MindSpore Serving is kept running."""

    max_failures: int = Field(
        default=5, ge=1, le=100_000, description="in a row without stable_s of service between them"
    )
    stable_s: float = Field(default=30.0, ge=0, le=86400)
    backoff_initial_s: float = Field(
        default=0.5, ge=0, le=600, description="before the second restart in a row; then doubled"
    )
    backoff_max_s: float = Field(default=30.0, ge=0, le=3600)
    worker_lost_s: float = Field(
        default=20.0, ge=0, le=3600, description="a lost worker beside others has this long to return"
    )


class LogSection(_Section):
    """The server's log goes to stderr, MindSpore Serving's to run_dir/mindspore_serving.log."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True  # a line for each call
    backend_max_mb: int = Field(
        default=16, ge=1, le=10_000, description="of MindSpore Serving's log, rotated file included"
    )


class TracingSection(_Section):
    """OpenTelemetry spans."""

    enabled: bool = False
    otlp_endpoint: str = "http://127.0.0.1:4317"


class Config(_Section):
    """The whole configuration. Keys are `section.key`."""

    model: ModelSection = ModelSection()
    backend: BackendSection = BackendSection()
    server: ServerSection = ServerSection()
    limits: LimitsSection = LimitsSection()
    deadlines: DeadlinesSection = DeadlinesSection()
    security: SecuritySection = SecuritySection()
    readiness: ReadinessSection = ReadinessSection()
    supervision: SupervisionSection = SupervisionSection()
    log: LogSection = LogSection()
    tracing: TracingSection = TracingSection()

    _file: Optional[Path] = PrivateAttr(None)
    _origin: Mapping[str, str] = PrivateAttr(default_factory=dict)

    def origin(self, key: str) -> str:
        """Where `section.key` was set, for messages: a flag, a variable, else the file."""
        return self._origin.get(key) or (str(self._file) if self._file else "configuration")
