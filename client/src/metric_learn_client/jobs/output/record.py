"""job.json: what a job is. The same job may go on; another one is refused, and the difference named."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Optional

from metric_learn_client._client.core.identity import ModelInfo
from metric_learn_client._version import __version__
from metric_learn_client.jobs.errors import JobError, OutputError, RefusedError
from metric_learn_client.jobs.options import InputSpec, JobOptions, as_json, same_spelling
from metric_learn_client.jobs.output.output import Output
from metric_learn_client.jobs.plan.plan import Plan

NAME = "job.json"
_SCHEMA = 1


@dataclass(frozen=True)
class JobRecord:
    """input: the InputSpec and the digest of the rows; model: facts of the service's model; extents: see plan."""

    input: dict[str, Any]
    options: dict[str, Any]
    model: dict[str, Any]
    extents: list[dict[str, Any]]
    client_version: str = __version__
    schema: int = _SCHEMA
    generation: int = 0  # see plan/changes


def new_record(spec: InputSpec, options: JobOptions, model: ModelInfo, plan: Plan) -> JobRecord:
    facts = {name: getattr(model, name) for name in ("name", "version", "fingerprint", "dim", "weights")}
    return of_plan(JobRecord(as_json(spec), as_json(options), facts, []), plan)


def of_plan(record: JobRecord, plan: Plan) -> JobRecord:
    """The record with what it says of the plan."""
    facts = {**record.input, "sha256": plan.listing}
    extents = [vars(extent) for extent in plan.extents]
    return dataclasses.replace(record, input=facts, extents=extents, generation=plan.generation)


def spec_of(record: JobRecord) -> InputSpec:
    """The input as it was named when the job began."""
    names = {field.name for field in dataclasses.fields(InputSpec)} & record.input.keys()
    values = {name: record.input[name] for name in names}
    kept: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return InputSpec(**kept)


def read(output: Output) -> Optional[JobRecord]:
    """The record, None where the directory has none. Raises OutputError, RefusedError for a newer schema."""
    content = output.read(NAME)
    if content is None:
        return None
    try:
        facts = json.loads(content)
        schema = facts.get("schema")
        if schema != _SCHEMA:
            raise RefusedError(f"{output.name}/{NAME}: schema {schema}; this version reads {_SCHEMA}")
        return JobRecord(**facts)
    except (ValueError, TypeError, AttributeError) as error:
        raise OutputError(f"{output.name}/{NAME}: not a job's record: {error}; --overwrite begins anew") from error


def read_there(output: Output) -> JobRecord:
    """As read. Raises JobError where the directory has none."""
    record = read(output)
    if record is None:
        raise JobError(f"{output.name}: no job here (no {NAME})")
    return record


def write(output: Output, record: JobRecord) -> None:
    facts = {name: value for name, value in vars(record).items() if name != "generation" or value}
    output.write(NAME, (json.dumps(facts, indent=1) + "\n").encode())


def check(output: Output, record: JobRecord, spec: InputSpec, options: JobOptions, model: ModelInfo) -> None:
    """Raises RefusedError where the record is another job's; the changed rows of the input are not looked at."""
    differences = [
        f"{name.replace('_', ' ')} was {json.dumps(was)}, now {json.dumps(now)}"
        for old, new in (
            (as_json(same_spelling(spec_of(record))), as_json(same_spelling(spec))),
            (record.options, as_json(options)),
        )
        for name, now in new.items()
        if (was := old.get(name)) != now
    ]
    if model.fingerprint != record.model.get("fingerprint"):
        differences.append(f"the model was {record.model.get('fingerprint')}, now {model.fingerprint}")
    if differences:
        raise RefusedError(
            f"{output.name} holds another job: {'; '.join(differences)}. Name another directory, or give --overwrite"
        )
