"""embed_dataset: a whole set of images into an output directory, resumable after anything."""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Optional, Union

import numpy as np

from metric_learn_client.jobs.errors import Stopped
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.options import InputSpec, JobOptions, RunOptions
from metric_learn_client.jobs.output.output import Output, open_output
from metric_learn_client.jobs.output.shard_files import read_stats
from metric_learn_client.jobs.output.summary import JobSummary, failure_column, summarise
from metric_learn_client.jobs.plan.plan import Plan
from metric_learn_client.jobs.prepare import IF_EXISTS, open_job
from metric_learn_client.jobs.work.engines import engine
from metric_learn_client.jobs.work.model import job_model, worker_spec
from metric_learn_client.jobs.work.pipeline import ShardTask
from metric_learn_client.jobs.work.worker import Connect, WorkerSpec


def run_job(
    output_dir: Union[str, Path],
    spec: InputSpec,
    options: JobOptions,
    run: RunOptions,
    connect: Connect,
    *,
    if_exists: str = "resume",
    retry_failed: bool = False,
    observer: Optional[Observer] = None,
    stop: Optional[threading.Event] = None,
) -> JobSummary:
    """Does what is missing of the job (with retry_failed: its failures again, whatever rows were added to the input
    or taken away meanwhile) and says what the directory holds.

    Raises RefusedError, InputError, OutputError; OutageError after max_outage_s without the service; RejectedError
    where it will not serve this caller; Stopped soon after `stop` was set by somebody. KeyboardInterrupt passes
    through. After each of them the shards that are committed stay, and the same call goes on.
    """
    if if_exists not in IF_EXISTS:
        raise ValueError(f"if_exists={if_exists!r}: is one of {', '.join(IF_EXISTS)}")
    if run.num_shards > 1 and if_exists != "resume":
        raise ValueError(f"{if_exists} does not go with num_shards: the other parts may be at work")
    observer = observer or Observer()
    stop = stop or threading.Event()
    output = open_output(output_dir)
    output.attach(run.max_outage_s, stop, observer.notice)
    output.check()
    with output.job_lock(run.num_shards, run.shard_index):
        model, limits = job_model(connect, run.max_outage_s, stop, observer)
        with output.plan_lock():
            plan, record = open_job(output, spec, options, model, if_exists, same_rows=not retry_failed)
        mine = list(range(run.shard_index, plan.shards, run.num_shards))
        output.prepare()
        output.recover(mine if run.num_shards > 1 else None)
        worker = worker_spec(output, options, run, connect, record.model, limits, len(plan.extents))
        tasks = list(_failed(output, plan, mine) if retry_failed else _missing(output, mine))
        return _run(output, plan, mine, worker, tasks, stop, observer)


def _run(
    output: Output,
    plan: Plan,
    mine: list[int],
    worker: WorkerSpec,
    tasks: list[ShardTask],
    stop: threading.Event,
    observer: Observer,
) -> JobSummary:
    before = summarise(output, plan, mine)
    redone = {task.shard: task.places for task in tasks if task.places is not None}
    again = sum(len(places) for places in redone.values())
    done = before.succeeded + before.failed - again
    observer.started(before.rows, done, before.failed - again, before.shards, before.done_shards)
    begun, started = time.monotonic(), time.time()
    sent = 0
    outcome = "interrupted"
    try:
        with closing(engine(worker.run.engine)(worker, tasks, stop, observer)) as shards:
            for stats in shards:
                sent += len(places) if (places := redone.get(stats["shard"])) is not None else stats["rows"]
                observer.committed(stats)
        outcome = "done"
    except Stopped:
        raise
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        observer.finished()
        elapsed_s = time.monotonic() - begun
        if tasks:
            _log_run(output, worker.run, outcome, started, elapsed_s, sent)
    return summarise(output, plan, mine, sent, elapsed_s)


def _missing(output: Output, mine: list[int]) -> Iterator[ShardTask]:
    committed = set(output.committed())
    return (ShardTask(shard) for shard in mine if shard not in committed)


def _failed(output: Output, plan: Plan, mine: list[int]) -> Iterator[ShardTask]:
    committed = set(output.committed())
    for shard in mine:
        if shard in committed and (stats := read_stats(output, shard))["failed"]:
            numbers = np.array(failure_column(output, stats, "row"), np.int64)
            yield ShardTask(shard, np.sort(numbers) - plan.span(shard)[0])


def _log_run(output: Output, run: RunOptions, outcome: str, started: float, elapsed_s: float, sent: int) -> None:
    line = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "elapsed_s": round(elapsed_s, 3),
        "outcome": outcome,
        "rows": sent,
        "rows_per_s": round(sent / elapsed_s, 2) if elapsed_s else 0.0,
        "engine": run.engine,
        "part": [run.shard_index, run.num_shards],
        "host": platform.node(),
    }
    output.log(json.dumps(line))
