"""`metric-learn job`: look at the output of `embed --output-dir`, and prove that it is whole."""

from __future__ import annotations

import json

import click

from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs.errors import JobError
from metric_learn_client.jobs.output import record as records
from metric_learn_client.jobs.output.output import open_output
from metric_learn_client.jobs.output.proof import verify as verify_output
from metric_learn_client.jobs.output.summary import summarise
from metric_learn_client.jobs.work.worker import load_plan


@click.group(name="job", help="Look at, and verify, the output of `embed --output-dir`.")
def command() -> None:
    pass


@command.command(name="verify", help="Read everything in OUTPUT_DIR again and prove that every row is there once.")
@click.argument("output_dir", type=click.Path(file_okay=False))
@click.option(
    "--complete",
    is_flag=True,
    help="compare with the input; a missing shard or row is a failure, too, and an input that cannot be listed",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def verify(output_dir: str, complete: bool, as_json: bool) -> ExitCode:
    try:
        found = verify_output(output_dir, with_input=complete)
    except JobError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        for problem in found.problems:
            click.echo(problem)
        verdict = "wrong" if found.problems else "whole" if found.complete else "right so far, and not complete"
        click.echo(
            f"{output_dir}: {verdict}: {found.done_shards} of {found.shards} shards, {found.succeeded} embedded, "
            f"{found.failed} failed, of {found.rows} rows"
        )
        if found.input_rows is not None:
            click.echo(f"the input has {found.input_rows} rows now")
        if found.not_compared:
            click.echo(f"not compared with the input: {found.not_compared}")
    bad = found.problems or (complete and (not found.complete or found.not_compared))
    return ExitCode.GATE_FAILED if bad else ExitCode.DONE


@command.command(name="show", help="What OUTPUT_DIR holds, from its stats; `verify` reads the rest, too.")
@click.argument("output_dir", type=click.Path(file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def show(output_dir: str, as_json: bool) -> ExitCode:
    try:
        output = open_output(output_dir)
        record = records.read_there(output)
        plan = load_plan(output, len(record.extents), record.generation)
        summary = summarise(output, plan, list(range(plan.shards)), output.committed())
    except JobError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({**summary.as_json(), "job": vars(record)}))
    else:
        click.echo(summary.as_text())
        click.echo(f"model {record.model['fingerprint']}, version {record.model['version']}")
    return ExitCode.DONE
