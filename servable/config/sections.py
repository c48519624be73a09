"""The configuration's sections: every key with its type, range, default and meaning. The gateway takes them as is.

Units are in the names (`_s`, `_px`, `_bytes`, `_mb`), else in the meaning. A relative path starts at the repository.
The table of keys in servable/README.md is written from here (servable/config/key_table.py). What depends on several
keys is checked where it is used: servable/gateway/preparation.py, servable/doctor/consistency.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from metric_learn_client.wire import (
    DEFAULT_MAX_IMAGE_BYTES,
    DEFAULT_MAX_IMAGE_PX,
    DEFAULT_MAX_INSTANCES,
    DEFAULT_MAX_REQUEST_BYTES,
    MAX_MESSAGE_BYTES,
)
from servable.config.addresses import parse_address

# Half of what MindSpore Serving takes in one message: its 512 MB also hold the tensors' envelopes.
MOST_REQUEST_BYTES = MAX_MESSAGE_BYTES // 2
ASCEND_START_S = 900.0  # every batch size is compiled for the chip at every start; no figure from a device is known
REPOSITORY = Path(__file__).resolve().parents[2]


def _absolute(path: Path) -> Path:
    return path if path.is_absolute() else REPOSITORY / path


def _address(value: str) -> str:
    parse_address(value)
    return value


_Address = Annotated[str, AfterValidator(_address)]
_AddressOrNone = Annotated[  # YAML reads a value that is not there as None
    str,
    BeforeValidator(lambda value: "" if value is None else value),
    AfterValidator(lambda value: value and _address(value)),
]
_PathFromRepository = Annotated[Path, AfterValidator(_absolute)]
_BatchSize = Annotated[int, Field(ge=1)]
_DeviceId = Annotated[int, Field(ge=0)]
_VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python would take true for 1."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        a_list = get_origin(wanted) is tuple
        given = value if isinstance(value, (list, tuple, set)) else (value,)
        if (a_list or wanted in (int, float)) and any(isinstance(each, bool) for each in given):
            raise ValueError(f"must be a {'list of numbers' if a_list else 'number'}, not true or false")
        return value


class ModelSection(_Section):
    """Which exported versions are served."""

    directory: Path = Field(
        default=Path("servable/metric_learn"),
        description="exported versions, one folder each; a relative path starts at the repository",
    )
    version: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="the default version, of callers that name none; 0 = the highest there is",
    )
    versions: tuple[_VersionNumber, ...] = Field(
        default=(), description="all versions that are served at once; empty = the default alone"
    )

    @property
    def root(self) -> Path:
        return _absolute(self.directory)


class BackendSection(_Section):
    """MindSpore Serving and the runtime under it."""

    target: Literal["cpu", "ascend310", "ascend910"] = Field(
        default="cpu", description="the device; `ascend310` is 310 and 310P, `ascend910` 910A; never falls back to CPU"
    )
    engine_python: Optional[_PathFromRepository] = Field(
        default=None,
        description="the Python 3.9 that runs MindSpore Serving; without a value that of the environment `engine` "
        "beside the server's own (`.venv/engine`)",
    )
    device_ids: tuple[_DeviceId, ...] = Field(default=(0,), description="Ascend devices, one worker each")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes; on CPU each holds the weights, and one a core gives some 10 % more images/s but a "
        "slower lone image (`tests/benchmarks`); on Ascend none is needed beyond the devices, and there must be none "
        "beside several",
    )
    threads: int = Field(default=0, ge=0, le=1024, description="of the network, per worker; 0 = cores / workers")
    preprocess_threads: int = Field(
        default=0, ge=0, le=1024, description="decoder processes, per worker; 0 = cores / workers"
    )
    precision_mode: Literal["force_fp16", "allow_fp32_to_fp16", "must_keep_origin_dtype", "allow_mix_precision"] = (
        Field(
            default="force_fp16",
            description="Ascend: how its compiler treats float32 operators, in CANN's names; `force_fp16` computes all "
            "in float16",
        )
    )
    aipp: bool = Field(
        default=False,
        description="Ascend: the chip's own unit normalises pixels (`export convert --aipp`); not tried on a device",
    )
    # See metric_learn/batching.py.
    run_overhead_images: float = Field(
        default=0.2,
        ge=0,
        le=64,
        description="what a run of the network costs beside its images, in images; decides batches against padding",
    )
    batch_sizes: tuple[_BatchSize, ...] = Field(
        default=(),
        description="the MindIRs that are loaded, some 0.5 GB each on CPU; must hold 1; empty = all that the version "
        "has",
    )
    start_timeout_s: float = Field(
        default=120.0,
        gt=0,
        le=3600,
        description="from start to serving; without a value 120 on a CPU, 900 on Ascend, which compiles",
    )

    @property
    def processes(self) -> int:
        """Of MindSpore Serving, for each version: one for a device, and the rest of `workers` beside them."""
        return self.workers if self.target == "cpu" else max(self.workers, len(self.device_ids))

    @model_validator(mode="before")
    @classmethod
    def _time_to_compile(cls, values: Any) -> Any:
        if isinstance(values, dict) and str(values.get("target", "cpu")).startswith("ascend"):
            return {"start_timeout_s": ASCEND_START_S, **values}
        return values


class ServerSection(_Section):
    """Addresses, the private directory, the end."""

    address: _Address = Field(
        default="127.0.0.1:5500",
        description="gRPC: `host:port`, `[ipv6]:port` or `unix:/path`; port 0 takes a free one",
    )
    http_address: _Address = Field(
        default="127.0.0.1:5501",
        description="`/livez` `/readyz` `/metrics`: plain HTTP without secrets; `host:port` or `[ipv6]:port`",
    )
    api_address: _AddressOrNone = Field(
        default="127.0.0.1:5502",
        description="the API over HTTP/1.1, with gRPC's TLS, tokens and limits: `host:port`, `[ipv6]:port` or "
        "`unix:/path`; empty = off",
    )
    rest_status_always_200: bool = Field(
        default=False,
        description="failures under `/model/` say 200, as MindSpore Serving's own REST does; for programs that read "
        "`error_msg` alone",
    )
    run_dir: Path = Field(
        default=Path(tempfile.gettempdir()) / f"metric-learn-serving-{os.getuid()}",
        description="private (0700), of one server, and no link: sockets, MindSpore Serving's log, control socket; "
        "absolute, no spaces, at most 77 bytes; the folders above it belong to this user or to root",
    )
    reflection: bool = Field(
        default=False, description="gRPC server reflection: callers may ask for the messages; open to everybody"
    )
    when_down: Literal["wait", "fail"] = Field(
        default="wait",
        description="calls while MindSpore Serving is down `wait` up to their deadline or `fail` with UNAVAILABLE and "
        "a hint",
    )
    drain_notice_s: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="after SIGTERM: not ready, but still taking calls, until load balancers have noticed",
    )
    drain_s: float = Field(
        default=20.0, ge=0, le=3600, description="after that: how long calls in flight may take to end"
    )


class LimitsSection(_Section):
    """How much one image, one call and all calls together may hold."""

    max_image_bytes: int = Field(
        default=DEFAULT_MAX_IMAGE_BYTES,
        ge=1,
        le=MOST_REQUEST_BYTES,
        description="a larger image is that image's `E_TOO_LARGE`; at most max_request_bytes",
    )
    # Enforced by the servable; told to clients by GetModel.
    max_image_px: int = Field(
        default=DEFAULT_MAX_IMAGE_PX,
        ge=1,
        le=1_000_000_000,
        description="the same, by its header, before anything is decoded",
    )
    max_instances: int = Field(
        default=DEFAULT_MAX_INSTANCES,
        ge=1,
        le=65536,
        description="images in one call; at most max_in_flight_instances",
    )
    max_request_bytes: int = Field(
        default=DEFAULT_MAX_REQUEST_BYTES,
        ge=1,
        le=MOST_REQUEST_BYTES,
        description="of one call; at most max_in_flight_bytes",
    )
    max_in_flight_calls: int = Field(
        default=512,
        ge=1,
        le=1_000_000,
        description="calls accepted and not yet answered; beyond: RESOURCE_EXHAUSTED at once",
    )
    max_in_flight_instances: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="the same, in images; keep it below throughput x deadline (cpu.yaml: 512)",
    )
    max_in_flight_bytes: int = Field(default=256 * 1024 * 1024, ge=1, le=2**40, description="the same, in bytes")
    # Beyond max_in_flight_bytes, peak memory is that of so many of the largest bodies that callers send.
    max_reading_calls: int = Field(
        default=32,
        ge=1,
        le=1_000_000,
        description="bodies of more than 256 KB that are received over gRPC at one time, a quarter of them on one "
        "connection",
    )
    max_streams_per_connection: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="HTTP/2 streams of a connection; about twice the calls that one client has at a time",
    )
    max_connections: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="connections on `server.address`, and as many on `server.api_address`; fewer where the descriptors "
        "(`ulimit -Hn`) do not suffice",
    )


class DeadlinesSection(_Section):
    """Budget of a call; the caller's own counts when it is shorter."""

    default_s: float = Field(default=30.0, gt=0, le=3600, description="of a call without a deadline; at most max_s")
    max_s: float = Field(default=120.0, gt=0, le=3600, description="no call takes longer")
    read_body_s: float = Field(
        default=20.0, gt=0, le=3600, description="a body that takes longer to arrive ends its call"
    )


class SecuritySection(_Section):
    """TLS, mutual TLS, bearer tokens. Files are read again when they change."""

    tls_certificate: Optional[_PathFromRepository] = Field(
        default=None, description="PEM, leaf first; read again when it changes"
    )
    tls_private_key: Optional[_PathFromRepository] = Field(
        default=None, description="PEM without passphrase, not readable by everybody; read again when it changes"
    )
    tls_client_ca: Optional[_PathFromRepository] = Field(
        default=None,
        description="PEM, one CA or several; set: callers must show a certificate of a CA in it that has not expired",
    )
    tokens_file: Optional[_PathFromRepository] = Field(
        default=None,
        description="bearer tokens, one a line, all valid, `#` starts a comment; not readable by everybody; read "
        "again when it changes",
    )
    allow_insecure: bool = Field(
        default=False, description="plain text on an address that others can reach (a mesh encrypts it)"
    )


class ReadinessSection(_Section):
    """The golden picture's way through the whole pipeline."""

    interval_s: float = Field(
        default=2.0, ge=0.05, le=600, description="between golden pictures, unless traffic succeeds"
    )
    deadline_s: float = Field(default=5.0, gt=0, le=600, description="of the golden picture")
    # Only the golden picture proves that the numbers are right.
    forced_interval_s: float = Field(
        default=60.0, gt=0, le=86400, description="traffic stands in for the golden picture no longer than this"
    )
    max_cost_share: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="share of one backend's time that golden pictures may take: a slow one is asked less often",
    )
    # Float16 devices included: with stand-in weights tests/unit/servable/gateway/test_golden.py holds both sides.
    max_relative_distance: float = Field(
        default=0.008,
        gt=0,
        le=0.5,
        description="to the golden embedding, as a share of how far from it the picture's negative is",
    )
    failures_before_replace: int = Field(
        default=2, ge=1, le=1000, description="in a row; then MindSpore Serving is replaced"
    )


class SupervisionSection(_Section):
    """How MindSpore Serving is kept running."""

    max_failures: int = Field(
        default=5,
        ge=1,
        le=100_000,
        description="in a row without `stable_s` of service between them; one more and the server gives up (exit 4); "
        "ends with images in them do not count, unless a device's worker ended in a run of the network",
    )
    stable_s: float = Field(default=30.0, ge=0, le=86400, description="of service: earlier failures are forgotten")
    backoff_initial_s: float = Field(
        default=0.5,
        ge=0,
        le=600,
        description="before the second start in a row (the first is at once), then doubled; at most backoff_max_s",
    )
    backoff_max_s: float = Field(default=30.0, ge=0, le=3600, description="its limit")
    worker_lost_s: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="with several workers: how long MindSpore Serving may take to bring a lost one back",
    )
    device_check_s: float = Field(
        default=10.0,  # some 35 images' time each, with sizes 1 and 16: 0.7 % of a device of 500 images/s
        ge=1,
        le=86400,
        description="Ascend: a device that answers proves itself this often, with the golden picture in every place of "
        "every batch size",
    )
    device_row_check_s: float = Field(
        default=0.5,  # one image's time each for a batch size and its models: 3 x 2 ms on a device of 500 images/s
        ge=0,
        le=86400,
        description="Ascend: full batches of a device go out for so long without the golden picture in one of their "
        "places; batches with a place free always have it there, and with 0 every one has",
    )
    device_hang_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Ascend: a run that takes longer ends its worker; three times that until its device is proved",
    )


class LogSection(_Section):
    """The server's log goes to stderr, MindSpore Serving's to run_dir/mindspore_serving.log."""

    format: Literal["text", "json"] = Field(default="text", description="of the server's log, on stderr")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lines below it are not written"
    )
    access: bool = Field(default=True, description="a line for each call")
    backend_max_mb: int = Field(
        default=16, ge=1, le=10_000, description="of MindSpore Serving's log, its rotated half included"
    )


class TracingSection(_Section):
    """OpenTelemetry spans."""

    enabled: bool = Field(default=False, description="OpenTelemetry spans")
    otlp_endpoint: str = Field(
        default="http://127.0.0.1:4317",
        description="where they go, OTLP over gRPC: `http://host:port`, or `https://` for TLS",
    )


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
