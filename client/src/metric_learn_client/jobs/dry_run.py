"""What a job would do, and about how long it would take. Writes nothing to the output directory."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from metric_learn_client.errors import EndpointError
from metric_learn_client.jobs.inputs.skipped import as_line
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.options import InputSpec, JobOptions, RunOptions
from metric_learn_client.jobs.output.output import open_output
from metric_learn_client.jobs.plan.plan import Plan, build
from metric_learn_client.jobs.prepare import check_first_rows, open_checked
from metric_learn_client.jobs.scratch import Scratch
from metric_learn_client.jobs.work.model import check_preprocessing, check_sandbox, job_model, worker_spec
from metric_learn_client.jobs.work.pipeline import ShardTask
from metric_learn_client.jobs.work.worker import Connect, WorkerSpec, make_pipeline
from metric_learn_client.wire import EMBEDDING_DIM

PROBE_S = 5.0
_PROBE_ROWS = 4096  # fewer where PROBE_S ends first


@dataclass(frozen=True)
class Estimate:
    """rows, shards: of this part of the job; missing_*: what the output directory does not have yet. rows_per_s and
    seconds: from a probe with the job's own rows; None where the service does not answer, then `problem` says why;
    skipped: as in JobSummary."""

    rows: int
    shards: int
    missing_rows: int
    missing_shards: int
    output_bytes: int
    rows_per_s: Optional[float]
    seconds: Optional[float]
    problem: Optional[str] = None
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        head = (
            f"{self.rows} rows in {self.shards} shards; to do: {self.missing_rows} rows in {self.missing_shards} "
            f"shards, about {_size(self.output_bytes)} of embeddings"
        )
        if self.skipped:
            head += f"\n{as_line(self.skipped)}"
        if self.seconds is None or self.rows_per_s is None:
            return f"{head}\nno estimate of the time: {self.problem}"
        return f"{head}\nabout {_duration(self.seconds)} at {self.rows_per_s:.1f} rows/s"


def dry_run(
    output_dir: Union[str, Path], spec: InputSpec, options: JobOptions, run: RunOptions, connect: Connect
) -> Estimate:
    """Counts the rows, and sends some of them for PROBE_S. Raises InputError."""
    check_sandbox(options, run)
    output = open_output(output_dir)
    committed = set(output.committed())
    with closing(Scratch()) as scratch:
        plan = build(open_checked(spec, options), spec, options.shard_size, scratch.folder)
        check_first_rows(plan)
        mine = range(run.shard_index, plan.shards, run.num_shards)
        missing = [shard for shard in mine if shard not in committed]
        missing_rows = sum(plan.span(shard)[1] for shard in missing)
        rate: Optional[float] = None
        problem: Optional[str] = None
        try:
            model = job_model(connect, 0.0, threading.Event(), Observer())
            check_preprocessing(options, model)
            worker = worker_spec(output, options, run, connect, model, model.version, plan)
            rate = _probe(worker, plan, missing[0] if missing else 0) * (run.workers if run.engine != "local" else 1)
        except EndpointError as error:
            problem = str(error)
    return Estimate(
        rows=sum(plan.span(shard)[1] for shard in mine),
        shards=len(mine),
        missing_rows=missing_rows,
        missing_shards=len(missing),
        output_bytes=missing_rows * EMBEDDING_DIM * np.dtype(options.dtype).itemsize,
        rows_per_s=None if rate is None else round(rate, 2),
        seconds=None if not rate else round(missing_rows / rate, 1),
        problem=problem,
        skipped=plan.skipped,
    )


class _Enough(Exception):
    pass


def _probe(worker: WorkerSpec, plan: Plan, shard: int) -> float:
    """Rows per second of one worker."""
    started = time.monotonic()
    rows = 0

    def progress(more: int, _failed: int) -> None:
        nonlocal rows
        rows += more
        if time.monotonic() - started > PROBE_S:
            raise _Enough

    places = np.arange(min(_PROBE_ROWS, plan.span(shard)[1]), dtype=np.int64)
    with suppress(_Enough):
        pipeline = make_pipeline(
            worker, plan, lambda _: {}, stop=threading.Event(), progress=progress, notice=lambda _: None
        )
        for _ in pipeline.run([ShardTask(shard, places)]):
            pass
    return rows / (time.monotonic() - started)


def _size(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
