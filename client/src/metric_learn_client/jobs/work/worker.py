"""One worker: a client, a reader and a pipeline over some shards. The same code in every engine.

Everything it needs is in WorkerSpec, which can be pickled, and in the output directory.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import pyarrow as pa

from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client._client.resizing import preprocessor
from metric_learn_client.jobs.errors import JobError, RowError
from metric_learn_client.jobs.inputs.input_rows import one_batch
from metric_learn_client.jobs.options import JobOptions, RunOptions
from metric_learn_client.jobs.output.output import Output
from metric_learn_client.jobs.output.seen import read_seen, write_seen
from metric_learn_client.jobs.output.shard_files import (
    RowFailure,
    ShardContent,
    ShardIdentity,
    read_shard,
    read_stats,
    write_shard,
)
from metric_learn_client.jobs.plan.plan import Plan, load
from metric_learn_client.jobs.work.pipeline import Pipeline, ShardRows, ShardTask
from metric_learn_client.jobs.work.reader import Reader
from metric_learn_client.jobs.work.sender import Patience, Sendable, Sender

Connect = Callable[[], EmbeddingClient]


@dataclass(frozen=True)
class WorkerSpec:
    """connect: makes a client; fingerprint, version: of the job's model; max_image_px: what the service decodes."""

    output: Output
    options: JobOptions
    run: RunOptions
    connect: Connect
    fingerprint: str
    version: str
    max_image_px: int
    extents: int
    generation: int = 0


def work(
    spec: WorkerSpec,
    tasks: Iterable[ShardTask],
    stop: threading.Event,
    progress: Callable[[int, int], None] = lambda rows, failed: None,
    notice: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """Does the tasks and yields the stats of each shard once it is committed. Ends early, raising, when `stop` is
    set, the service stays away, or a file cannot be written; what is committed stays."""
    spec.output.attach(spec.run.max_outage_s, stop, notice)
    plan = load_plan(spec.output, spec.extents, spec.generation)
    pipeline = make_pipeline(
        spec, plan, lambda shard: _write(plan, shard, spec), stop=stop, progress=progress, notice=notice
    )
    yield from pipeline.run(tasks)


def make_pipeline(
    spec: WorkerSpec,
    plan: Plan,
    write: Callable[[ShardRows], dict[str, Any]],
    *,
    stop: threading.Event,
    progress: Callable[[int, int], None],
    notice: Callable[[str], None],
) -> Pipeline:
    """A pipeline with a client of its own, which it closes when it ends."""
    client = spec.connect()
    return Pipeline(
        plan,
        Reader(plan, spec.run.max_image_bytes, spec.run.read_timeout_s),
        preparation(spec.options.preprocess, spec.run.max_image_bytes, spec.max_image_px, spec.run.sandbox),
        Sender(client, Patience(spec.run.max_outage_s, stop, notice), spec.fingerprint).send,
        write,
        run=spec.run,
        stop=stop,
        abort=client.close,
        progress=progress,
    )


def load_plan(output: Output, extents: int, generation: int) -> Plan:
    """The plan as far as job.json knows it. Raises JobError where it is gone."""
    plan = load(output.plan(), generation, extents)
    if plan is None:
        raise JobError(f"{output.name}: its plan is gone; run the command again without --retry-failed to make it anew")
    return plan


def rewrite(spec: WorkerSpec, plan: Plan, shard: int, merges: bool) -> dict[str, Any]:
    """Writes a shard of which no row is to be embedded: without the rows that are gone. Returns its stats."""
    nothing = np.empty(0, np.int64)
    task = ShardTask(shard, nothing, merges)
    return _write(plan, ShardRows(task, plan.read(shard).slice(0, 0), nothing), spec)


def preparation(where: str, max_image_bytes: int, max_image_px: int, sandbox: bool) -> Callable[[Any], Sendable]:
    """What is done to an image before it is sent: nothing, or the servable's own preprocessing."""
    if where == "server":
        return lambda image: image
    from metric_learn_client.preprocess import ImageError

    decode = preprocessor(max_image_bytes, max_image_px, sandbox)

    def prepare(image: Any) -> Sendable:
        if isinstance(image, RowError):
            return image
        try:
            (result,) = decode([image])
            return result()
        except ImageError as error:
            return RowError(error.code, error.message)

    return prepare


def _write(plan: Plan, shard: ShardRows, spec: WorkerSpec) -> dict[str, Any]:
    number = shard.task.shard
    first = plan.span(number)[0]
    content = _content(shard)
    seen = dict(zip(shard.numbers.tolist(), shard.seen))
    if shard.task.merges:
        gone = set((first + plan.gone(number)).tolist())
        content = _merged(spec.output, shard, content, gone)
        kept = read_seen(spec.output, number) or {}
        seen = {**{row: each for row, each in kept.items() if row not in gone}, **seen}
    extent = plan.extents[plan.extent_of(number)[0]]
    generation = plan.generation_of(number)
    identity = ShardIdentity(number, first, extent.sha256, spec.fingerprint, spec.version, generation)
    folder = spec.output.begin(number)
    try:
        stats = write_shard(folder, content, identity, spec.options)
        if not plan.in_sources:
            write_seen(folder, number, seen)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    spec.output.finish(number, folder)
    return stats


def _content(shard: ShardRows) -> ShardContent:
    places = shard.places()  # none where rows only go
    columns = [index for index, name in enumerate(shard.rows.schema.names) if not name.startswith("plan:")]
    fields = [shard.rows.schema.field(index) for index in columns]
    rows = shard.rows.take(pa.array(places))
    kept = pa.RecordBatch.from_arrays([rows.column(index) for index in columns], schema=pa.schema(fields))
    return ShardContent(shard.numbers[places], kept, shard.embeddings(), shard.failures)


def _merged(output: Output, shard: ShardRows, new: ShardContent, gone: set[int]) -> ShardContent:
    """The shard on the disk with the results of some of its rows replaced, and without those that are gone."""
    stats = read_stats(output, shard.task.shard)
    old = read_shard(output, stats)
    done_again = {*shard.numbers.tolist(), *gone}
    stay = ~np.isin(old.numbers, np.fromiter(done_again, np.int64))
    old = ShardContent(old.numbers[stay], old.rows.filter(pa.array(stay)), old.embeddings[stay], old.failures)
    failures: list[RowFailure] = [each for each in old.failures if each.row not in done_again] + list(new.failures)
    failures.sort(key=lambda each: each.row)
    if not len(old.numbers) or not len(new.numbers):
        kept = old if len(old.numbers) else new
        return dataclasses.replace(kept, failures=failures)
    numbers = np.concatenate([old.numbers, new.numbers])
    order = np.argsort(numbers, kind="stable")
    before = pa.Table.from_batches([old.rows]).cast(new.rows.schema)
    rows = pa.concat_tables([before, pa.Table.from_batches([new.rows])]).take(pa.array(order))
    return ShardContent(
        numbers[order],
        one_batch(rows),
        np.concatenate([old.embeddings, new.embeddings.astype(old.embeddings.dtype)])[order],
        failures,
    )
