"""Before the first row is sent: is this the job that the directory holds, and which rows does it have?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import pyarrow as pa

from metric_learn_client.jobs import record as records
from metric_learn_client.jobs.durable import output_errors
from metric_learn_client.jobs.errors import JobError, RefusedError
from metric_learn_client.jobs.inputs import open_input
from metric_learn_client.jobs.layout import Layout
from metric_learn_client.jobs.options import InputSpec, JobOptions
from metric_learn_client.jobs.plan import Plan, build, listing_of, load
from metric_learn_client.jobs.record import JobRecord

_FLOAT16_SINCE = 15  # pyarrow writes half floats to parquet
IF_EXISTS = ("resume", "overwrite", "extend")


def open_job(
    layout: Layout, spec: InputSpec, options: JobOptions, model: dict[str, Any], if_exists: str, same_rows: bool
) -> tuple[Plan, JobRecord]:
    """The plan and the record, made or found; same_rows: refuse an input that has other rows now.

    Raises RefusedError with the difference, InputError, OutputError. A list, table or archive that looks as it did is
    not listed again; folders and standard input are, without planning them.
    """
    check_possible(options)
    if if_exists == "overwrite" and layout.job.exists():
        records.clear(layout)
    else:
        records.check_ours(layout)
    record = records.read(layout)
    if record is None:
        with output_errors(layout.plan):
            plan = build(open_input(spec), spec, options.shard_size, layout.plan)
        record = records.new_record(spec, options, model, plan)
        records.write(layout, record)
        return plan, record
    records.check(layout, record, spec, options, model)
    if if_exists == "extend":
        return _extended(layout, spec, record)
    if not same_rows and (stored := _stored(layout, record)) is not None:
        return stored, record
    return _found(layout, spec, record), record


def check_possible(options: JobOptions) -> None:
    """Raises RefusedError for files that the installed pyarrow cannot write."""
    if options.output_format == "parquet" and options.dtype == "float16":
        if int(pa.__version__.split(".")[0]) < _FLOAT16_SINCE:
            raise RefusedError(
                f"--format parquet with --dtype float16 needs pyarrow {_FLOAT16_SINCE} or newer; here is "
                f"{pa.__version__}: pip install -U pyarrow, or take --format npy"
            )


def _found(layout: Layout, spec: InputSpec, record: JobRecord) -> Plan:
    stored = _stored(layout, record)
    source = open_input(spec)
    if stored is None:
        if len(record.extents) > 1:
            raise JobError(f"{layout.plan} is gone, and a job that was extended cannot be planned anew: --overwrite")
        with output_errors(layout.plan):
            stored = build(source, spec, record.options["shard_size"], layout.plan)
        listing = stored.listing
    else:
        signature = source.signature()
        unchanged = signature is not None and signature == stored.signature
        listing = stored.listing if unchanged else listing_of(source, spec)
    if listing != record.input["sha256"]:
        raise RefusedError(
            f"{layout.root} holds another job: the input's rows changed (digest was {record.input['sha256'][:12]}, "
            f"now {listing[:12]}). --extend embeds what was added; --overwrite begins anew"
        )
    return stored


def _extended(layout: Layout, spec: InputSpec, record: JobRecord) -> tuple[Plan, JobRecord]:
    if spec.limit is not None:
        raise RefusedError("--extend does not go with --limit")
    stored = _stored(layout, record)
    if stored is None:
        raise JobError(f"{layout.plan} is gone: without it --extend cannot tell which rows are new")
    with output_errors(layout.plan):
        plan = build(open_input(spec), spec, stored.shard_size, layout.plan, before=stored)
    extents = [vars(extent) for extent in plan.extents]
    record = replace(record, input={**record.input, "sha256": plan.listing}, extents=extents)
    records.write(layout, record)
    return plan, record


def _stored(layout: Layout, record: JobRecord) -> Optional[Plan]:
    """The plan on the disk, as far as the record knows it; an extension that was not finished is not counted."""
    plan = load(layout.plan)
    if plan is None or [vars(extent) for extent in plan.extents][: len(record.extents)] != record.extents:
        return None
    return plan.truncated(len(record.extents))
