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
from metric_learn_client.options import DEFAULT_DEADLINE_S, DEFAULT_ENDPOINT

Inputs = Union[str, Path, Sequence[Union[str, Path]]]


def embed_dataset(
    inputs: Inputs,
    output_dir: Union[str, Path],
    *,
    endpoint: str = DEFAULT_ENDPOINT,
    deadline_s: float = DEFAULT_DEADLINE_S,
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
    sandbox: bool = False,
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
    columns: columns of a table to keep (None: all); of archives, text members, as ("txt", "json").
    if_exists: what becomes of what is there: "resume", "overwrite", "extend" (what was added to the input) or
        "sync" (what was added, changed or went away).
    sync_by: how "sync" tells a changed file: "time" (and size) or "digest".
    retry_failed: only the rows that failed, again.
    observer: is told of progress.
    All others: as the options of `metric-learn embed`.

    Returns what the directory holds. Raises ValueError for an option that cannot be, InputError, RefusedError
    (another job's directory, another model), OutputError, OutageError, RejectedError. Whatever is raised, committed
    shards stay and the same call goes on.
    """
    names = [inputs] if isinstance(inputs, (str, Path)) else inputs
    spec = InputSpec(
        inputs=tuple(str(name) for name in names),
        input_format=input_format,
        root=root,
        glob=glob,
        path_column=path_column,
        bytes_column=bytes_column,
        columns=None if columns is None else tuple(columns),
        limit=limit,
        shuffle_seed=shuffle_seed,
    )
    run = RunOptions(
        engine=engine,
        workers=workers,
        batch_size=batch_size,
        in_flight=in_flight,
        read_threads=read_threads,
        max_outage_s=max_outage_s,
        max_image_bytes=max_image_bytes,
        read_timeout_s=read_timeout_s,
        num_shards=num_shards,
        shard_index=shard_index,
        ray_address=ray_address,
        sandbox=sandbox,
    )
    make = partial(EmbeddingClient, endpoint, deadline_s=deadline_s, batch_size=batch_size, max_in_flight=in_flight)
    return run_job(
        output_dir,
        spec,
        JobOptions(shard_size, output_format, dtype, embedding_column, preprocess),
        run,
        connect or make,
        if_exists=if_exists,
        retry_failed=retry_failed,
        sync_by=sync_by,
        observer=observer,
    )
