"""The server's configuration: read once, checked whole, then frozen. Flag > environment > file > default."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

ENVIRONMENT_PREFIX = "METRIC_LEARN_"
REPOSITORY = Path(__file__).resolve().parent.parent


class ConfigError(Exception):
    """One line: file, key, value and what is allowed. Exit code 2."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelSection(_Section):
    """directory holds the exported versions; a relative path starts at the repository."""

    directory: Path = Path("servable/metric_learn")
    version: int = Field(0, ge=0, description="0 = the highest exported")


class BackendSection(_Section):
    target: Literal["cpu", "ascend310", "ascend910"] = "cpu"
    device_ids: tuple[int, ...] = (0,)
    workers: int = Field(1, ge=1, le=64)
    threads: int = Field(0, ge=0, le=1024, description="of the network, per worker; 0 = cores / workers")
    preprocess_threads: int = Field(0, ge=0, le=1024, description="per worker; 0 = cores / workers")
    precision_mode: Literal["force_fp16", "allow_fp32_to_fp16", "must_keep_origin_dtype", "allow_mix_precision"] = (
        "force_fp16"
    )
    # What a run of the network costs beside its images, in units of one image; see metric_learn/batching.py.
    run_overhead_images: float = Field(0.2, ge=0, le=64)
    start_timeout_s: float = Field(120.0, gt=0, le=3600)


class ServerSection(_Section):
    address: str = "127.0.0.1:5500"
    http_address: str = "127.0.0.1:5501"
    run_dir: Path = Path(tempfile.gettempdir()) / f"metric-learn-serving-{os.getuid()}"

    @field_validator("address", "http_address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise ValueError("must be host:port with a port of 1 to 65535")
        if host not in ("127.0.0.1", "localhost"):
            raise ValueError("must be on 127.0.0.1: MindSpore Serving alone must not be exposed")
        return value


class LimitsSection(_Section):
    max_image_bytes: int = Field(32 * 1024 * 1024, ge=1, le=512 * 1024 * 1024)
    max_image_px: int = Field(50_000_000, ge=1, le=1_000_000_000)


class Config(_Section):
    """The whole configuration. Keys are `section.key`; units are in their names."""

    model: ModelSection = ModelSection()
    backend: BackendSection = BackendSection()
    server: ServerSection = ServerSection()
    limits: LimitsSection = LimitsSection()


def load_config(path: Path, flags: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Config:
    """Reads YAML, then METRIC_LEARN_SECTION__KEY, then `section.key=value` flags. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a configuration such as configs/cpu.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must hold sections (model, backend, server, limits), not {document!r}")
    origin: dict[str, str] = {}
    for name, value in sorted(environment.items()):
        section, found, key = name[len(ENVIRONMENT_PREFIX) :].lower().partition("__")
        if name.startswith(ENVIRONMENT_PREFIX) and found:
            _put(document, section, key, value, f"environment {name}", origin)
    for flag in flags:
        dotted, found, value = flag.partition("=")
        section, dot, key = dotted.partition(".")
        if not (found and dot and section and key):
            raise ConfigError(f"--set {flag}: must be section.key=value")
        _put(document, section, key, value, f"--set {dotted}", origin)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_one_line(error, path, origin)) from error


def _put(document: dict[Any, Any], section: str, key: str, value: str, source: str, origin: dict[str, str]) -> None:
    target = document.setdefault(section, {})
    if not isinstance(target, dict):
        raise ConfigError(f"{source}: section {section} of the file is not a mapping")
    try:
        target[key] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: {value!r} is not a value") from error
    origin[f"{section}.{key}"] = source


def _one_line(error: ValidationError, path: Path, origin: Mapping[str, str]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    source = origin.get(key, str(path))
    if first["type"] == "extra_forbidden":
        known = Config.model_fields if len(first["loc"]) == 1 else _section_keys(str(first["loc"][0]))
        return f"{source}: unknown key {key}; known: {', '.join(known)}"
    return f"{source}: {key} = {first['input']!r}: {first['msg']}"


def _section_keys(section: str) -> list[str]:
    annotation = Config.model_fields[section].annotation
    return list(annotation.model_fields) if annotation is not None and issubclass(annotation, BaseModel) else []
