"""The Python door to jobs: one function with the arguments of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Optional, Union

from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client.jobs.job import run_job
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.options import InputSpec, JobOptions, RunOptions
from metric_learn_client.jobs.output.summary import JobSummary
from metric_learn_client.jobs.work.worker import Connect
from metric_learn_client.option_fields import taken
from metric_learn_client.options import ClientOptions, Endpoints

Inputs = Union[str, Path, Sequence[Union[str, Path]]]


def embed_dataset(
    inputs: Inputs,
    output_dir: Union[str, Path],
    *,
    endpoint: Endpoints = ClientOptions.endpoints,
    deadline_s: float = ClientOptions.deadline_s,
    connect: Optional[Connect] = None,
    input_format: str = InputSpec.input_format,
    root: Optional[str] = None,
    glob: Optional[str] = None,
    path_column: Optional[str] = None,
    bytes_column: Optional[str] = None,
    columns: Optional[Sequence[str]] = None,
    limit: Optional[int] = None,
    shuffle_seed: Optional[int] = None,
    shard_size: int = JobOptions.shard_size,
    output_format: str = JobOptions.output_format,
    dtype: str = JobOptions.dtype,
    embedding_column: str = JobOptions.embedding_column,
    preprocess: str = JobOptions.preprocess,
    engine: str = RunOptions.engine,
    workers: int = RunOptions.workers,
    batch_size: int = RunOptions.batch_size,
    in_flight: int = RunOptions.in_flight,
    read_threads: int = RunOptions.read_threads,
    max_outage_s: float = RunOptions.max_outage_s,
    max_image_bytes: int = RunOptions.max_image_bytes,
    read_timeout_s: float = RunOptions.read_timeout_s,
    num_shards: int = RunOptions.num_shards,
    shard_index: int = RunOptions.shard_index,
    ray_address: Optional[str] = None,
    sandbox: bool = RunOptions.sandbox,
    if_exists: str = "resume",
    retry_failed: bool = False,
    sync_by: str = "time",
    observer: Optional[Observer] = None,
) -> JobSummary:
    """Embeds every image of `inputs` into files below `output_dir`; called again, it does what is missing.

    inputs: folders, globs, image files, lists, parquet tables, tar archives ("{000..150}.tar"), URLs, or "-". Every
        row ends in exactly one of the embeddings and the failures.
    output_dir: a directory for the files, on a file system with working locks; or s3://bucket/prefix.
    connect: makes the client in place of endpoint and deadline_s, for TLS and tokens; pickled for engines other than
        "local".
    if_exists: what becomes of what is there: "resume", "overwrite", "extend" (what was added to the input) or
        "sync" (what was added, changed or went away).
    sync_by: how "sync" tells a changed file: "time" (and size) or "digest".
    retry_failed: only the rows that failed, again.
    observer: is told of progress.
    All others: the fields of InputSpec, JobOptions and RunOptions in `metric_learn_client.jobs.options`, with their
        meaning, as the options of `metric-learn embed`.

    Returns what the directory holds. Raises ValueError for an option that cannot be, InputError, RefusedError
    (another job's directory, another model), OutputError, OutageError, RejectedError. Whatever is raised, committed
    shards stay and the same call goes on.
    """
    given = locals()
    names = [inputs] if isinstance(inputs, (str, Path)) else inputs
    options = {**given, "columns": None if columns is None else tuple(columns)}
    spec = InputSpec(tuple(str(name) for name in names), **taken(options, InputSpec))
    run = RunOptions(**taken(options, RunOptions))
    make = partial(EmbeddingClient, endpoint, deadline_s=deadline_s, batch_size=batch_size, max_in_flight=in_flight)
    return run_job(
        output_dir,
        spec,
        JobOptions(**taken(options, JobOptions)),
        run,
        connect or make,
        if_exists=if_exists,
        retry_failed=retry_failed,
        sync_by=sync_by,
        observer=observer,
    )
