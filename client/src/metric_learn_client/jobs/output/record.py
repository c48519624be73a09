"""job.json: what a job is. The same job may go on; another one is refused, and the difference named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from typing import Any, Optional

from metric_learn_client._version import __version__
from metric_learn_client.jobs.errors import OutputError, RefusedError
from metric_learn_client.jobs.options import InputSpec, JobOptions, as_json, same_spelling
from metric_learn_client.jobs.output.durable import output_errors, replace
from metric_learn_client.jobs.output.layout import DATA_FOLDERS, FILES, OWN_FOLDERS, Layout
from metric_learn_client.jobs.plan.plan import Plan

SCHEMA = 1


@dataclass(frozen=True)
class JobRecord:
    """input: the InputSpec and the digest of the rows; model: facts of the service's model; extents: see plan."""

    input: dict[str, Any]
    options: dict[str, Any]
    model: dict[str, Any]
    extents: list[dict[str, Any]]
    client_version: str = __version__
    schema: int = SCHEMA


def new_record(spec: InputSpec, options: JobOptions, model: dict[str, Any], plan: Plan) -> JobRecord:
    return JobRecord(
        input={**as_json(spec), "sha256": plan.listing},
        options=as_json(options),
        model=model,
        extents=[vars(extent) for extent in plan.extents],
    )


def spec_of(record: JobRecord) -> InputSpec:
    """The input as it was named when the job began."""
    names = {field.name for field in dataclasses.fields(InputSpec)} & record.input.keys()
    values = {name: record.input[name] for name in names}
    kept: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return InputSpec(**kept)


def read(layout: Layout) -> Optional[JobRecord]:
    """The record, None where the directory has none. Raises OutputError, RefusedError for a newer schema."""
    try:
        with output_errors(layout.job):
            facts = json.loads(layout.job.read_text())
        schema = facts.get("schema")
        if schema != SCHEMA:
            raise RefusedError(f"{layout.job}: schema {schema}; this version reads {SCHEMA}")
        return JobRecord(**facts)
    except OutputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise OutputError(f"{layout.job}: not a job's record: {error}; --overwrite begins anew") from error


def write(layout: Layout, record: JobRecord) -> None:
    replace(layout.job, (json.dumps(vars(record), indent=1) + "\n").encode())


def check(layout: Layout, record: JobRecord, spec: InputSpec, options: JobOptions, model: dict[str, Any]) -> None:
    """Raises RefusedError where the record is another job's; the changed rows of the input are not looked at."""
    differences = [
        f"{name.replace('_', ' ')} was {_shown(was)}, now {_shown(now)}"
        for old, new in (
            (as_json(same_spelling(spec_of(record))), as_json(same_spelling(spec))),
            (record.options, as_json(options)),
        )
        for name, now in new.items()
        if (was := old.get(name)) != now
    ]
    if model["fingerprint"] != record.model.get("fingerprint"):
        differences.append(f"the model was {record.model.get('fingerprint')}, now {model['fingerprint']}")
    if differences:
        raise RefusedError(
            f"{layout.root} holds another job: {'; '.join(differences)}. Name another directory, or give --overwrite"
        )


def clear(layout: Layout) -> None:
    """Removes a job's files, the marks of its shards first, and nothing that is not a job's."""
    with output_errors(layout.root):
        for folder in ("stats", *OWN_FOLDERS, *DATA_FOLDERS):
            if folder != ".locks" and (layout.root / folder).is_dir():
                shutil.rmtree(layout.root / folder)
        for name in FILES:
            (layout.root / name).unlink(missing_ok=True)


def check_ours(layout: Layout) -> None:
    """Raises RefusedError for a directory that holds something and no job: its files are somebody's."""
    if layout.job.exists() or not layout.root.exists():
        return
    with output_errors(layout.root):
        others = [path.name for path in layout.root.iterdir() if path.name not in (*OWN_FOLDERS, "lost+found")]
    if others:
        raise RefusedError(f"{layout.root} is not empty and holds no job ({min(others)}); name another directory")


def _shown(value: Any) -> str:
    return json.dumps(value)
