"""What a job is asked to do. Two kinds: what decides the files (JobOptions), and how to get there (RunOptions)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

from metric_learn_client import wire
from metric_learn_client.jobs.remote import READ_TIMEOUT_S
from metric_learn_client.option_fields import check_options, option

_INPUT_FORMATS = ("auto", "files", "lines", "labels", "csv", "sop", "parquet", "tar")
IF_EXISTS = ("resume", "overwrite", "extend", "sync")  # what becomes of what the output directory holds
SYNC_BY = ("time", "digest")  # how "sync" tells a changed file
MAX_SHARDS = 100_000  # file names have five digits, and readers sort them as text


@dataclass(frozen=True)
class InputSpec:
    """Which rows there are: `inputs` are folders, globs, image files, lists, tables, archives or URLs; "-" is standard
    input. Everything here is part of the job's identity."""

    inputs: tuple[str, ...]
    input_format: str = option("auto", "what the inputs are", choices=_INPUT_FORMATS)
    root: Optional[str] = option(
        None, "folder or URL that relative paths of a list belong to (default: the list's folder)"
    )
    glob: Optional[str] = option(None, "which names below a folder, as '**/*.jpg' (default: jpg, jpeg, png, webp, bmp)")
    path_column: Optional[str] = option(None, "column of image paths in a table or CSV")
    bytes_column: Optional[str] = option(None, "column of encoded images in a parquet table")
    columns: Optional[tuple[str, ...]] = option(
        None,
        "columns of a table to keep (default: all); of archives, text members (default: none), as txt and json. On the"
        " command line with commas between",
    )
    limit: Optional[int] = option(None, "rows to embed at most", at_least=1)
    shuffle_seed: Optional[int] = option(None, "take the rows in a random order that this number decides", at_least=0)

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no input: name a folder, a list, a table, an archive or '-'")
        check_options(self)


@dataclass(frozen=True)
class JobOptions:
    """What the output's files look like; part of the job's identity."""

    shard_size: int = option(10_000, "rows per output file", at_least=1)
    output_format: str = option("npy", "npy and parquet metadata, or parquet", choices=("npy", "parquet"))
    dtype: str = option("float32", "of the embeddings in the files", choices=("float32", "float16"))
    embedding_column: str = option("embedding", "its name with --format parquet")
    preprocess: str = option("server", "decode and resize on the server or here", choices=("server", "local"))

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class RunOptions:
    """How this run goes about it. Free to change between runs: none of it shows in the files."""

    engine: str = option("local", "one process, several, or Ray", choices=("local", "processes", "ray"))
    workers: int = option(2, "processes or Ray actors", at_least=1)
    batch_size: int = option(32, "images per call", at_least=1)
    in_flight: int = option(8, "calls at one time, per worker", at_least=1)
    read_threads: int = option(
        8, "batches read (with --preprocess local, prepared too) at one time, per worker", at_least=1
    )
    max_outage_s: float = option(600.0, "seconds to wait for the service", at_least=0)
    max_image_bytes: int = option(
        wire.DEFAULT_MAX_IMAGE_BYTES, "larger files are not read; the service's own limit counts too", at_least=1
    )
    read_timeout_s: float = option(
        READ_TIMEOUT_S, "seconds for one image, or part of an archive, at a URL, tries included", above=0
    )
    num_shards: int = option(1, "parts that the job is divided into, for Slurm and Kubernetes", at_least=1)
    shard_index: int = option(0, "which part this run does, from 0", at_least=0)
    ray_address: Optional[str] = option(
        None, "of a running Ray cluster (default: RAY_ADDRESS, else one is started here)"
    )
    sandbox: bool = option(False, "with --preprocess local: decode in processes of their own, as the server does")

    def __post_init__(self) -> None:
        check_options(self)
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError(f"ray_address={self.ray_address!r}: it needs engine='ray'; now it is {self.engine!r}")
        if self.shard_index >= self.num_shards:
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
