"""The job behind `metric-learn embed --output-dir`: options in, progress out, an exit code."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any, Callable, Optional

import click

from metric_learn_client.cli.shared.connection import open_client
from metric_learn_client.cli.shared.job_progress import Bar, JsonLines
from metric_learn_client.cli.shared.signals import as_flag
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs.dry_run import dry_run as estimate_job
from metric_learn_client.jobs.errors import AccessError, InputError, RefusedError
from metric_learn_client.jobs.job import run_job
from metric_learn_client.jobs.options import InputSpec, JobOptions, RunOptions
from metric_learn_client.jobs.output.summary import JobSummary
from metric_learn_client.option_fields import taken


def embed_job(
    inputs: Sequence[str],
    output_dir: str,
    connection: dict[str, Any],
    *,
    overwrite: bool,
    extend: bool,
    sync: bool,
    sync_by: str,
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
    columns: Optional[str],
    **options: Any,
) -> ExitCode:
    """Runs the job. Raises click.UsageError and click.ClickException for what the caller can put right (exit 2)."""
    if overwrite + extend + sync + retry_failed > 1:
        raise click.UsageError("--overwrite, --extend, --sync and --retry-failed exclude each other")
    if_exists = "overwrite" if overwrite else "extend" if extend else "sync" if sync else "resume"
    kept = None if columns is None else tuple(name for name in columns.split(",") if name)
    try:
        spec = InputSpec(tuple(inputs), columns=kept, **taken(options, InputSpec))
        job_options = JobOptions(**taken(options, JobOptions))
        run = RunOptions(**taken(options, RunOptions))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    connect = partial(open_client, **connection, batch_size=run.batch_size, max_in_flight=run.in_flight)
    try:
        if dry_run:
            estimate = estimate_job(output_dir, spec, job_options, run, connect)
            click.echo(json.dumps({"event": "estimate", **estimate.as_json()}) if as_json else estimate.as_text())
            return ExitCode.NOT_REACHABLE if estimate.problem else ExitCode.DONE
        chosen: dict[str, Any] = {"if_exists": if_exists, "sync_by": sync_by, "retry_failed": retry_failed}
        summary = _run(partial(run_job, output_dir, spec, job_options, run, connect, **chosen), output_dir, as_json)
    except (AccessError, InputError, RefusedError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps({"event": "summary", **summary.as_json()}) if as_json else summary.as_text())
    if summary.failed:
        again = "see to them" if retry_failed else "--retry-failed does only them again"
        click.echo(f"failed rows: {summary.failed}; {summary.output_dir}/failures says why; {again}", err=True)
        return ExitCode.SOME_FAILED
    return ExitCode.DONE


def _run(job: Callable[..., JobSummary], output_dir: str, as_json: bool) -> JobSummary:
    """Runs the job with its progress shown. A signal ends it; what is on the disk then is said."""
    observer = JsonLines() if as_json else Bar()
    stop = threading.Event()

    def last_words() -> None:
        observer.notice(
            f"stopped: {observer.done_shards} of {observer.shards} shards are in {output_dir}; "
            "the same command goes on from there"
        )

    try:
        # Ray prints what it has to say to stdout, which is for the job's own words.
        with redirect_stdout(sys.stderr), as_flag(stop, lambda: observer.begun, last_words):
            return job(observer=observer, stop=stop)
    except (InputError, RefusedError, ValueError):
        raise
    except BaseException:  # also SIGINT and SIGTERM, which are not Exceptions
        if observer.begun:
            last_words()
        raise
