"""embed_dataset: a whole set of images into an output directory, resumable after anything."""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Optional, Union

import numpy as np
import pyarrow as pa

from metric_learn_client.jobs.errors import OutputError, RefusedError, Stopped
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.inputs.input_rows import Input
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.options import IF_EXISTS, SYNC_BY, InputSpec, JobOptions, RunOptions
from metric_learn_client.jobs.output import record as records
from metric_learn_client.jobs.output.output import Output, open_output
from metric_learn_client.jobs.output.seen import Seen, read_seen
from metric_learn_client.jobs.output.shard_files import read_stats
from metric_learn_client.jobs.output.summary import JobSummary, failure_column, summarise
from metric_learn_client.jobs.plan.plan import Plan, check_places, may_have_moved
from metric_learn_client.jobs.plan.sync import Found, find_changes
from metric_learn_client.jobs.prepare import open_job
from metric_learn_client.jobs.work.engines import engine
from metric_learn_client.jobs.work.model import check_sandbox, job_model, worker_spec
from metric_learn_client.jobs.work.pipeline import ShardTask
from metric_learn_client.jobs.work.reader import Reader
from metric_learn_client.jobs.work.worker import Connect, WorkerSpec, rewrite
from metric_learn_client.option_fields import check_choice
from metric_learn_client.wire import EMBEDDING_DIM

_FIRST_FILES = 100  # of those that were embedded, that are looked at before a job goes on


def run_job(
    output_dir: Union[str, Path],
    spec: InputSpec,
    options: JobOptions,
    run: RunOptions,
    connect: Connect,
    *,
    if_exists: str = "resume",
    retry_failed: bool = False,
    sync_by: str = "time",
    observer: Optional[Observer] = None,
    stop: Optional[threading.Event] = None,
) -> JobSummary:
    """Does what is missing of the job (with retry_failed: its failures again, whatever rows were added to the input
    or taken away meanwhile) and says what the directory holds.

    Raises RefusedError; InputError, also at the end, for a table or an archive that was written anew while it was
    read; OutputError; OutageError after max_outage_s without the service; RejectedError where it will not serve this
    caller; Stopped soon after `stop` was set by somebody. KeyboardInterrupt passes through. After each of them the
    shards that are committed stay, and the same call goes on.
    """
    check_choice("if_exists", if_exists, IF_EXISTS)
    check_choice("sync_by", sync_by, SYNC_BY)
    if retry_failed and if_exists != "resume":
        raise ValueError(f"retry_failed does not go with if_exists={if_exists!r}: do the one, then the other")
    if run.num_shards > 1 and if_exists != "resume":
        raise ValueError(f"{if_exists} does not go with num_shards: the other parts may be at work")
    if sync_by != "time" and if_exists != "sync":
        raise ValueError(f"sync_by={sync_by!r} (--sync-by) says how --sync tells a changed file: it needs --sync")
    check_sandbox(options, run)
    observer = observer or Observer()
    stop = stop or threading.Event()
    output = open_output(output_dir)
    output.attach(run.max_outage_s, stop, observer.notice)
    output.check()
    with output.job_lock(run.num_shards, run.shard_index):
        model = job_model(connect, run.max_outage_s, stop, observer)
        with output.plan_lock():
            find = partial(_changes, output, run, sync_by)
            same_rows = not retry_failed
            plan, record, sync = open_job(output, spec, options, model, if_exists, same_rows, find)
        mine = list(range(run.shard_index, plan.shards, run.num_shards))
        output.recover(mine if run.num_shards > 1 else None)
        committed = output.committed()
        if if_exists == "resume" and same_rows and committed:
            _check_files(output, run, plan, committed[0])
        worker = worker_spec(output, options, run, connect, model, record.model["version"], plan)
        tasks = list(_tasks(output, plan, mine, committed, retry_failed))
        _check_space(output, options, plan, tasks)
        before = summarise(output, plan, mine, committed)
        summary = _run(output, plan, mine, before, worker, tasks, stop, observer)
        if not summary.complete and not retry_failed:
            raise OutputError(
                f"{output.name}: only {summary.done_shards} of {summary.shards} shards are there although all were "
                "written: somebody removed the others; run the same command again: it goes on"
            )
        if tasks and may_have_moved(plan):
            check_places(open_input(records.spec_of(record)), plan)
        return replace(summary, sync=sync)


def _run(
    output: Output,
    plan: Plan,
    mine: list[int],
    before: JobSummary,
    worker: WorkerSpec,
    tasks: list[ShardTask],
    stop: threading.Event,
    observer: Observer,
) -> JobSummary:
    redone = {task.shard: task.places for task in tasks if task.places is not None and task.merges}
    again = sum(len(places) for places in redone.values())
    done = before.succeeded + before.failed - again
    observer.started(before.rows, done, before.failed - again, before.shards, before.done_shards)
    begun, started = time.monotonic(), time.time()
    sent = 0
    outcome = "interrupted"
    try:
        for task in tasks:
            if task.places is not None and not len(task.places):
                observer.committed(rewrite(worker, plan, task.shard, task.merges))
        asked = [task for task in tasks if task.places is None or len(task.places)]
        with closing(engine(worker.run.engine)(worker, asked, stop, observer)) as shards:
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
    return replace(summarise(output, plan, mine, output.committed()), sent=sent, elapsed_s=elapsed_s)


def _check_space(output: Output, options: JobOptions, plan: Plan, tasks: list[ShardTask]) -> None:
    """Raises RefusedError where not even the embeddings of the shards that are missing have room."""
    rows = sum(plan.count(task.shard) for task in tasks if not task.merges)
    row_bytes = EMBEDDING_DIM * np.dtype(options.dtype).itemsize
    free = output.free_bytes()
    if free is not None and rows * row_bytes > free:
        raise RefusedError(
            f"{output.name}: {rows} rows of {row_bytes} bytes are {rows * row_bytes / 1e6:.1f} MB of embeddings, and "
            f"{free / 1e6:.1f} MB are free; free some space, or take --dtype float16 or another directory"
        )


def _tasks(
    output: Output, plan: Plan, mine: list[int], committed: list[int], retry_failed: bool
) -> Iterator[ShardTask]:
    """What is missing, or with retry_failed the failures; in both cases also what a sync left to do."""
    there = set(committed)
    for shard in mine:
        if shard not in there:
            if not retry_failed:
                yield ShardTask(shard, plan.there(shard) if len(plan.gone(shard)) else None)
            continue
        if not retry_failed and not plan.generation_of(shard):
            continue
        stats = read_stats(output, shard)
        generation = stats.get("generation", 0)
        places = plan.changed(shard, generation)
        if retry_failed and stats["failed"]:
            failed = np.array(failure_column(output, stats, "row"), np.int64) - plan.span(shard)[0]
            places = np.setdiff1d(np.union1d(places, failed), plan.gone(shard))
        if len(places) or generation != plan.generation_of(shard):
            yield ShardTask(shard, places, merges=True)


def _check_files(output: Output, run: RunOptions, plan: Plan, shard: int) -> None:
    """Raises RefusedError where no picture of the first that were embedded, in `shard`, has the size that it had: other
    files under the same names, of which a run that goes on would take some for embedded."""
    if plan.in_sources:
        return
    with suppress(OutputError):  # damaged, or not to be read: nothing to compare with
        seen = read_seen(output, shard)
        stats = read_stats(output, shard)
        first = plan.span(shard)[0]
        failed = failure_column(output, stats, "row") if stats["failed"] else []
        others = {*failed, *(first + plan.gone(shard)), *(first + plan.changed(shard, stats.get("generation", 0)))}
        _check_sizes(output, run, plan, shard, {row: each for row, each in (seen or {}).items() if row not in others})


def _check_sizes(output: Output, run: RunOptions, plan: Plan, shard: int, seen: dict[int, Seen]) -> None:
    rows = list(seen)[:_FIRST_FILES]
    there = plan.read(shard).take(pa.array(np.array(rows, np.int64) - plan.span(shard)[0]))
    now = Reader(plan, run.max_image_bytes, run.read_timeout_s).look(there)
    sizes = [(seen[row].size, each.size) for row, each in zip(rows, now)]
    compared = [then != after for then, after in sizes if then is not None and after is not None]
    if compared and all(compared):
        raise RefusedError(
            f"{output.name}: the files have other sizes than when they were embedded, as "
            f"{there.column('image_path')[0].as_py()!r}: --sync embeds anew what changed; for another folder with the "
            "same names, name another directory"
        )


def _changes(output: Output, run: RunOptions, by: str, plan: Plan, source: Input) -> Found:
    """What of the plan's rows changed since they were embedded. Shards that are not there have nothing to compare."""
    committed = set(output.committed())
    reader = Reader(plan, run.max_image_bytes, run.read_timeout_s)

    def seen_of(shard: int) -> Optional[dict[int, Seen]]:
        return read_seen(output, shard) if shard in committed else {}

    return find_changes(plan, source, seen_of, lambda rows: reader.look(rows, digests=by == "digest"), by)


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
