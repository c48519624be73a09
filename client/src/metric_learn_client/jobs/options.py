"""What a job is asked to do. Two kinds: what decides the files (JobOptions), and how to get there (RunOptions)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

from metric_learn_client import wire
from metric_learn_client.jobs.remote import READ_TIMEOUT_S

INPUT_FORMATS = ("auto", "files", "lines", "labels", "csv", "sop", "parquet", "tar")
OUTPUT_FORMATS = ("npy", "parquet")
DTYPES = ("float32", "float16")
ENGINES = ("local", "processes", "ray")
PREPROCESS = ("server", "local")
MAX_SHARDS = 100_000  # file names have five digits, and readers sort them as text


@dataclass(frozen=True)
class InputSpec:
    """Which rows there are. Everything here is part of the job's identity.

    inputs: folders, globs, image files, lists, tables, archives or URLs; "-" is standard input. root: what relative
    paths of a list are relative to (default: the list's folder). columns: columns, or for tar the extensions of
    text members, to keep; None keeps all of a table's and none of an archive's.
    """

    inputs: tuple[str, ...]
    input_format: str = "auto"
    root: Optional[str] = None
    glob: Optional[str] = None
    path_column: Optional[str] = None
    bytes_column: Optional[str] = None
    columns: Optional[tuple[str, ...]] = None
    limit: Optional[int] = None
    shuffle_seed: Optional[int] = None

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no input: name a folder, a list, a table, an archive or '-'")
        _one_of("input_format", self.input_format, INPUT_FORMATS)
        if self.limit is not None:
            _at_least("limit", self.limit, 1)
        if self.shuffle_seed is not None:
            _at_least("shuffle_seed", self.shuffle_seed, 0)


@dataclass(frozen=True)
class JobOptions:
    """What the output's files look like; part of the job's identity."""

    shard_size: int = 10_000  # rows
    output_format: str = "npy"
    dtype: str = "float32"
    embedding_column: str = "embedding"
    preprocess: str = "server"

    def __post_init__(self) -> None:
        _at_least("shard_size", self.shard_size, 1)
        _one_of("output_format", self.output_format, OUTPUT_FORMATS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("preprocess", self.preprocess, PREPROCESS)


@dataclass(frozen=True)
class RunOptions:
    """How this run goes about it. Free to change between runs: none of it shows in the files."""

    engine: str = "local"
    workers: int = 2  # processes, or Ray actors
    batch_size: int = 32  # images in one call
    in_flight: int = 8  # calls at one time, per worker
    read_threads: int = 8  # batches read (and with preprocess="local", prepared) at one time, per worker
    max_outage_s: float = 600.0
    max_image_bytes: int = wire.DEFAULT_MAX_IMAGE_BYTES  # larger files are not read; the service's own limit counts too
    read_timeout_s: float = READ_TIMEOUT_S  # for one image, or part of an archive, at a URL, tries included
    num_shards: int = 1  # parts that the job is divided into ...
    shard_index: int = 0  # ... and which of them this run does
    ray_address: Optional[str] = None
    sandbox: bool = False  # with preprocess="local": decode in processes of their own, as the server does

    def __post_init__(self) -> None:
        _one_of("engine", self.engine, ENGINES)
        for name in ("workers", "batch_size", "in_flight", "read_threads", "max_image_bytes", "num_shards"):
            _at_least(name, getattr(self, name), 1)
        if not self.max_outage_s >= 0:
            raise ValueError(f"max_outage_s={self.max_outage_s}: must be 0 or more seconds")
        if not 0 < self.read_timeout_s < float("inf"):
            raise ValueError(f"read_timeout_s={self.read_timeout_s}: must be more than 0 seconds")
        if not 0 <= self.shard_index < self.num_shards:
            raise ValueError(
                f"shard_index={self.shard_index}: with num_shards={self.num_shards} it is 0 to {self.num_shards - 1}"
            )


def spelled(name: str) -> str:
    """img, img/, ./img and .//img are one name; of a URL only the slash at its end does not count."""
    if "://" in name:
        return name.rstrip("/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return ("/" if name.startswith("/") else "") + "/".join(parts) or "."


def same_spelling(spec: InputSpec) -> InputSpec:
    """The same input, its names spelled in one way and each once: to compare, never to open."""
    inputs = tuple(dict.fromkeys(spelled(name) for name in spec.inputs))
    return dataclasses.replace(spec, inputs=inputs, root=None if spec.root is None else spelled(spec.root))


def as_json(options: Any) -> dict[str, Any]:
    """A dataclass of this module as JSON holds it: tuples become lists."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(options).items()
    }


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value}: is one of {', '.join(allowed)}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}={value}: must be {least} or more")
