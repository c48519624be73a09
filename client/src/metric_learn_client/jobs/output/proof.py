"""Proof that an output directory is what it says: every file read again, every row accounted for. Writes nothing.

It may run beside the job. What a run committed and could not put in place any more (see directory) counts as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import pyarrow as pa

from metric_learn_client.jobs.errors import InputError, OutputError
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.output import record as records
from metric_learn_client.jobs.output.output import Output, open_output
from metric_learn_client.jobs.output.shard_files import ShardContent, digest_of, read_shard, read_stats
from metric_learn_client.jobs.plan.changes import Rows
from metric_learn_client.jobs.plan.plan import Plan, known_rows, load

_TRIES = 3  # a shard that --retry-failed replaces while it is being read
# Unit norm to the precision of the file's numbers: 2048 roundings of 2^-24 or 2^-11, and some room.
_NORM_TOLERANCE = {"float32": 1e-4, "float16": 2e-3}


@dataclass(frozen=True)
class Verification:
    """What was read. problems: one sentence each; none means that every shard that is there is whole and right.
    input_rows: of the input as it is now, None where it was not listed; not_compared: why it could not be."""

    output_dir: str
    rows: int
    shards: int
    done_shards: int
    succeeded: int
    failed: int
    problems: tuple[str, ...]
    input_rows: Optional[int] = None
    not_compared: str = ""

    @property
    def complete(self) -> bool:
        return self.done_shards == self.shards

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "complete": self.complete}


def verify(output_dir: Union[str, Path], *, with_input: bool = False) -> Verification:
    """Reads everything below `output_dir`; with_input: lists the input again, too, and looks whether each of its rows
    is one of the job's. Raises JobError where there is no job."""
    output = open_output(output_dir)
    record = records.read_there(output)
    # None in a copy without the hidden folders: rows can be counted, not compared with the input's
    plan = load(output.plan(), record.generation, len(record.extents))
    spans = list(_spans(record))
    problems: list[str] = []
    succeeded = failed = expected = current = 0
    for shard in output.committed():
        if shard >= len(spans):
            problems.append(f"shard {shard}: the job has {len(spans)} shards")
            continue
        found, stats = _shard(output, record, plan, shard, spans[shard])
        problems += found
        succeeded += stats.get("succeeded", 0)
        failed += stats.get("failed", 0)
        generation = stats.get("generation", 0)
        gone = 0 if plan is None else len(plan.gone(shard, generation))
        expected += spans[shard][1] - gone
        current += plan is None or generation == plan.generation_of(shard)
    if not problems and succeeded + failed != expected and (plan is not None or not record.generation):
        problems.append(f"{succeeded} embedded and {failed} failed are not the {expected} rows of the shards")
    input_rows, not_compared = None, ""
    if with_input:
        try:
            input_rows, missing = _compared(record, plan)
            problems += [missing] if missing else []
        except InputError as error:
            not_compared = str(error)
    return Verification(
        output_dir=output.name,
        rows=sum(count for _, count, _ in spans) if plan is None else sum(map(plan.count, range(plan.shards))),
        shards=len(spans),
        done_shards=current,
        succeeded=succeeded,
        failed=failed,
        problems=tuple(problems),
        input_rows=input_rows,
        not_compared=not_compared,
    )


def _compared(record: records.JobRecord, plan: Optional[Plan]) -> tuple[int, str]:
    """(rows of the input as it is now, what is wrong with them). Raises InputError where it cannot be listed."""
    spec = records.spec_of(record)
    if "-" in spec.inputs:
        raise InputError("it was standard input, which cannot be read again")
    source = open_input(spec)
    source.root = source.root if plan is None else plan.root
    planned = sum(extent["rows"] for extent in record.extents)
    planned -= 0 if plan is None else int(plan.changes.gone.sum())
    if plan is None or spec.limit is not None:
        listed = sum(batch.num_rows for batch in source.batches())
        wanted = listed if spec.limit is None else min(listed, spec.limit)
        return listed, f"the input has {wanted} rows for the job, which has {planned}" if wanted > planned else ""
    count = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for batch in source.batches():
            count += batch.num_rows
            yield batch

    added = sum(batch.num_rows for batch in known_rows(plan, source).added(counted(), source.sources))
    return count, f"{added} rows of the input are none of the job's: --extend embeds them" if added else ""


def _spans(record: records.JobRecord) -> Iterator[tuple[int, int, str]]:
    """(first row, rows, digest of the input) of every shard that the job has."""
    first = 0
    for extent in record.extents:
        left = extent["rows"]
        for _ in range(extent["shards"]):
            count = min(record.options["shard_size"], left)
            yield first, count, extent["sha256"]
            first, left = first + count, left - count


def _shard(
    output: Output, record: records.JobRecord, plan: Optional[Plan], shard: int, span: tuple[int, int, str]
) -> tuple[list[str], dict[str, Any]]:
    """(what is wrong with it, its stats)"""
    problems: list[str] = []
    before: dict[str, Any] = {}
    for _ in range(_TRIES):
        try:
            before = read_stats(output, shard)
        except OutputError as error:
            return [str(error)], {}
        try:
            problems = [f"shard {shard}: {text}" for text in _check(output, record, plan, before, span)]
        except (OutputError, OSError, ValueError, KeyError) as error:
            problems = [f"shard {shard}: {error}"]
        if not problems or (_same(output, shard, before) and not output.replacing(shard)):
            break
    return problems, before


def _same(output: Output, shard: int, stats: dict[str, Any]) -> bool:
    try:
        return read_stats(output, shard) == stats
    except OutputError:
        return False


def _check(
    output: Output, record: records.JobRecord, plan: Optional[Plan], stats: dict[str, Any], span: tuple[int, int, str]
) -> Iterator[str]:
    first, count, sha256 = span
    for name, written in stats["files"].items():
        try:
            with output.open(name, stats["shard"]) as file:
                found = digest_of(file)
        except FileNotFoundError:
            yield f"{name} is missing"
            return
        if found != written:
            yield f"{name} is not the file that was written: its bytes changed"
            return
    there: Optional[Rows] = None  # a copy without the plan, after a --sync: how many rows are gone is not known
    if plan is not None:
        there = first + np.setdiff1d(np.arange(count), plan.gone(stats["shard"], stats.get("generation", 0)))
    elif not record.generation:
        there = np.arange(first, first + count)
    expected = {
        "first_row": first,
        "rows": stats["rows"] if there is None else len(there),
        "input_sha256": sha256,
        "fingerprint": record.model["fingerprint"],
        "dtype": record.options["dtype"],
        "dim": record.model["dim"],
    }
    for key, value in expected.items():
        if stats[key] != value:
            yield f"{key} is {stats[key]}, the job's is {value}"
    content = read_shard(output, stats)
    if (len(content.numbers), len(content.failures)) != (stats["succeeded"], stats["failed"]):
        yield f"{len(content.numbers)} embedded and {len(content.failures)} failed; the stats say otherwise"
    yield from _rows(content, first, count, there, plan, stats["shard"])
    yield from _embeddings(content, stats)


def _rows(
    content: ShardContent, first: int, count: int, there: Optional[Rows], plan: Optional[Plan], shard: int
) -> Iterator[str]:
    failed = [failure.row for failure in content.failures]
    numbers = np.concatenate([content.numbers, np.array(failed, np.int64)])
    there = np.unique(numbers) if there is None else there
    if not np.array_equal(np.sort(numbers), there) or np.any((there < first) | (there >= first + count)):
        less = ", but for those that are gone" if len(there) < count else ""
        yield f"its rows are not {first} to {first + count - 1}{less}, each once"
        return
    if np.any(np.diff(content.numbers) < 0):
        yield "its embeddings are not in the order of the input"
    if plan is not None:
        planned = plan.read(shard).column(0).to_pylist()
        paths = content.rows.column(0).to_pylist()
        wrong = [row for row, path in zip(content.numbers.tolist(), paths) if planned[row - first] != path]
        wrong += [failure.row for failure in content.failures if planned[failure.row - first] != failure.image_path]
        if wrong:
            yield f"row {wrong[0]} is not the input's ({len(wrong)} rows are not)"


def _embeddings(content: ShardContent, stats: dict[str, Any]) -> Iterator[str]:
    shape = (stats["succeeded"], stats["dim"])
    if content.embeddings.shape != shape or content.embeddings.dtype != np.dtype(stats["dtype"]):
        yield f"embeddings are {content.embeddings.dtype} {content.embeddings.shape}, not {stats['dtype']} {shape}"
        return
    norms = np.sqrt(np.einsum("ij,ij->i", content.embeddings, content.embeddings, dtype=np.float64))
    bad = np.flatnonzero(~(np.abs(norms - 1.0) <= _NORM_TOLERANCE[stats["dtype"]]))
    if len(bad):
        yield f"the embedding of row {content.numbers[bad[0]]} has norm {norms[bad[0]]:g} ({len(bad)} have not norm 1)"
