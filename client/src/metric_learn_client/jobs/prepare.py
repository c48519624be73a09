"""Before the first row is sent: is this the job that the directory holds, and which rows does it have?"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import chain, islice
from typing import Any, Callable, Optional, Union

import pyarrow as pa

from metric_learn_client._client.core.identity import ModelInfo
from metric_learn_client.jobs.errors import InputError, JobError, RefusedError
from metric_learn_client.jobs.inputs.input_kinds import open_input
from metric_learn_client.jobs.inputs.input_rows import Input, planned_schema
from metric_learn_client.jobs.options import InputSpec, JobOptions
from metric_learn_client.jobs.output import record as records
from metric_learn_client.jobs.output.durable import output_errors
from metric_learn_client.jobs.output.output import Output
from metric_learn_client.jobs.output.record import JobRecord
from metric_learn_client.jobs.plan.plan import Plan, build, check_kind, check_places, listing_of, load
from metric_learn_client.jobs.plan.sync import Found
from metric_learn_client.jobs.storage import place_of
from metric_learn_client.jobs.work.model import check_preprocessing
from metric_learn_client.printable import escaped

_FLOAT16_SINCE = 15  # pyarrow writes half floats to parquet
_FIRST_ROWS = 100
Find = Callable[[Plan, Input], Found]


def open_job(
    output: Output,
    spec: InputSpec,
    options: JobOptions,
    model: ModelInfo,
    if_exists: str,
    same_rows: bool,
    find: Find,
) -> tuple[Plan, JobRecord, Optional[dict[str, int]]]:
    """The plan and the record, made or found, and what a sync found; same_rows: refuse an input that has other rows
    now; find: what changed of a plan's rows.

    Raises RefusedError with the difference, InputError, OutputError. A list, table or archive that looks as it did is
    not listed again; folders and standard input are, without planning them.
    """
    _check_possible(options)
    record = None if if_exists == "overwrite" else records.read(output)
    if record is None:
        check_preprocessing(options, model)
        source = open_checked(spec, options)
        if output.read(records.NAME) is not None:
            output.clear()
        with output_errors(output.plan()):
            plan = build(source, spec, options.shard_size, output.plan())
        check_first_rows(plan)
        output.save_plan()
        record = records.new_record(spec, options, model, plan)
        records.write(output, record)
        return plan, record, _counted(0, 0, plan.rows, 0) if if_exists == "sync" else None
    records.check(output, record, spec, options, model)
    check_preprocessing(options, model)
    spec = records.spec_of(record)  # `img` goes on as `img/` where it began so: its paths are spelled like that
    stored = _stored(output, record)
    if if_exists in ("extend", "sync"):
        if spec.limit is not None:
            raise RefusedError(f"--{if_exists} does not go with --limit")
        if stored is None:
            raise JobError(f"{output.name}: its plan is gone: without it --{if_exists} cannot tell what changed")
        if if_exists == "sync":
            return _synced(output, spec, options, record, stored, find)
        return (*_with_new_rows(output, spec, options, record, stored, after_sync=False), None)
    if not same_rows and stored is not None:
        if stored.in_sources:
            check_places(open_input(spec), stored)
        return stored, record, None
    return _found(output, spec, record, stored), record, None


def _check_possible(options: JobOptions) -> None:
    """Raises RefusedError for files that the installed pyarrow cannot write."""
    half_in_parquet = options.output_format == "parquet" and options.dtype == "float16"
    if half_in_parquet and int(pa.__version__.split(".")[0]) < _FLOAT16_SINCE:
        raise RefusedError(
            f"--format parquet with --dtype float16 needs pyarrow {_FLOAT16_SINCE} or newer; here is "
            f"{pa.__version__}: pip install -U pyarrow, or take --format npy"
        )


def open_checked(spec: InputSpec, options: JobOptions) -> Input:
    """The input. Raises InputError, also where the output would have two columns of one name."""
    source = open_input(spec)
    column = options.embedding_column
    if options.output_format == "parquet" and column in ("row", *planned_schema(source.columns).names):
        raise InputError(
            f"--embedding-column {column}: the output has another column of this name; choose another one, or keep "
            "other columns of the input with --columns"
        )
    return source


def check_first_rows(plan: Plan) -> None:
    """Raises InputError where none of the first hundred pictures that a list or table names is there: before a million
    rows fail one by one, or, of a plan whose pictures were there, lose their embeddings. A shorter list says the same
    by its failures."""
    columns = (zip(*(rows.column(name).to_pylist() for name in ("image_path", "plan:raw"))) for rows in plan.batches())
    names = [] if plan.kind == "files" or plan.in_sources else list(islice(chain.from_iterable(columns), _FIRST_ROWS))
    if len(names) < _FIRST_ROWS:
        return
    places = [place_of(plan.root, name, raw) for name, raw in names]
    if any(map(_may_be_there, places)):
        return
    first = escaped(os.fsencode(places[0]))
    raise InputError(
        f"none of the first {_FIRST_ROWS} pictures is there; the first would be {first!r}. Say with "
        "--root which folder the paths begin in, with --path-column which column they are, or with --input-format "
        "what the lines are"
    )


def _may_be_there(place: Union[str, bytes]) -> bool:
    """A URL, which is not asked here, may be."""
    return isinstance(place, str) or (b"\0" not in place and os.path.lexists(place))


def _found(output: Output, spec: InputSpec, record: JobRecord, stored: Optional[Plan]) -> Plan:
    """The plan, once its input is seen to be what it was."""
    source = open_input(spec)
    if stored is None:
        if len(record.extents) > 1 or record.generation:
            raise JobError(
                f"{output.name}: the plan is gone, and a job that was extended or followed changes by --sync cannot be "
                "planned anew: --overwrite begins anew"
            )
        with output_errors(output.plan()):
            stored = build(source, spec, record.options["shard_size"], output.plan())
        output.save_plan()
        listing = stored.listing
    else:
        signature = source.signature()
        unchanged = signature is not None and signature == (stored.signature or [])[: len(signature)]
        listing = stored.listing if unchanged else listing_of(source, spec)
    if listing != record.input["sha256"]:
        raise RefusedError(
            f"{output.name} holds another job: the input's rows changed (digest was {record.input['sha256'][:12]}, "
            f"now {listing[:12]}). --extend embeds what was added, --sync follows every change, --overwrite begins anew"
        )
    check_places(source, stored)
    return stored


def _synced(
    output: Output, spec: InputSpec, options: JobOptions, record: JobRecord, stored: Plan, find: Find
) -> tuple[Plan, JobRecord, dict[str, int]]:
    if "-" in spec.inputs:
        raise RefusedError("--sync lists the input again, and standard input cannot be read twice")
    source = open_input(spec)
    check_kind(source, stored)
    signature = source.signature()
    found = find(stored, source)
    there = sum(map(stored.count, range(stored.shards)))
    if not stored.in_sources and 0 < there == len(found.gone):
        raise InputError(
            f"none of the job's {there} rows is in the input any more; is its disk mounted? Nothing was removed; where "
            "it is meant so, --overwrite begins anew"
        )
    before = stored
    if len(found.changed) or len(found.gone):
        generation = stored.generation + 1
        changes = stored.changes.and_then(generation, found.changed, found.gone)
        before = replace(stored, changes=changes, generation=generation, _open={})
    check_first_rows(before)
    plan, record = _with_new_rows(output, spec, options, record, before, after_sync=True, compared=signature)
    added = plan.rows - stored.rows
    return plan, record, _counted(len(found.changed), len(found.gone), added, found.unchanged)


def _counted(changed: int, removed: int, added: int, unchanged: int) -> dict[str, int]:
    return {"changed": changed, "removed": removed, "added": added, "unchanged": unchanged}


def _with_new_rows(
    output: Output,
    spec: InputSpec,
    options: JobOptions,
    record: JobRecord,
    before: Plan,
    after_sync: bool,
    compared: Optional[list[Any]] = None,
) -> tuple[Plan, JobRecord]:
    """Plan and record with the rows of the input that `before` does not have."""
    with output_errors(output.plan()):
        plan = build(open_checked(spec, options), spec, before.shard_size, output.plan(), before, after_sync, compared)
    output.save_plan()
    record = records.of_plan(record, plan)
    records.write(output, record)
    return plan, record


def _stored(output: Output, record: JobRecord) -> Optional[Plan]:
    """The plan on the disk, as far as the record knows it."""
    plan = load(output.plan(), record.generation, len(record.extents))
    return None if plan is None or [vars(extent) for extent in plan.extents] != record.extents else plan
