"""`metric-learn embed`: some files into one file, or with --output-dir a whole set, as a job that can be resumed."""

from __future__ import annotations

from inspect import signature
from typing import Any, Callable, Optional

import click

from metric_learn_client.cli.shared.connection import endpoint_options, open_client
from metric_learn_client.cli.shared.field_options import option_of
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.jobs.options import SYNC_BY, InputSpec, JobOptions, RunOptions
from metric_learn_client.option_fields import facts_of

_HELP = """Embed image FILES in the order given, or with --output-dir a whole set of images.

Without --output-dir, FILES are images; "-" reads their names from stdin. With it, FILES are folders, globs, lists
(plain, 'path label', CSV, the SOP lists), parquet tables, WebDataset archives ("{000..150}.tar"), URLs or "-", and the
same command again does what is missing.
"""

_MARK = "[job] "
_SPELLED = {"output_format": ("--format", "output_format")}


def _job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for kind in (RunOptions, JobOptions, InputSpec):
        for field, _ in reversed(list(facts_of(kind))):
            command = option_of(kind, field.name, *_SPELLED.get(field.name, ()), mark=_MARK)(command)
    return command


@click.command(name="embed", help=_HELP)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--output", type=click.Path(), help="x.npy, x.parquet or x.jsonl (default: JSON lines on stdout)")
@click.option("--output-dir", type=click.Path(file_okay=False), help="[job] directory for the shards of a whole set")
@_job_options
@click.option("--overwrite", is_flag=True, help="[job] remove what an earlier job left in --output-dir, begin anew")
@click.option("--extend", is_flag=True, help="[job] the input has grown: embed what was added")
@click.option("--sync", is_flag=True, help="[job] embed what was added or changed, remove what went away")
@click.option(
    "--sync-by",
    type=click.Choice(SYNC_BY),
    default=SYNC_BY[0],
    show_default=True,
    help="[job] what tells a changed file: its size and time, or its content",
)
@click.option("--retry-failed", is_flag=True, help="[job] only the rows that failed, again")
@click.option("--dry-run", is_flag=True, help="[job] count, send a few, estimate the time; write nothing")
@click.option("--json", "as_json", is_flag=True, help="[job] JSON lines on stdout instead of a bar")
@endpoint_options
@click.pass_context
def command(
    context: click.Context, /, files: tuple[str, ...], output: Optional[str], output_dir: Optional[str], **options: Any
) -> ExitCode:
    connection = {name: options.pop(name) for name in signature(open_client).parameters if name in options}
    if output_dir is None:
        _refuse_job_options(context)
        from metric_learn_client.cli.embed_files import check_output, embed_files

        check_output(output)
        with open_client(**connection) as client:
            return embed_files(files, output, client)
    if output is not None:
        raise click.UsageError("--output and --output-dir exclude each other")
    from metric_learn_client.cli.embed_job import embed_job

    return embed_job(files, output_dir, connection, **options)


def _refuse_job_options(context: click.Context) -> None:
    for parameter in context.command.params:
        text = getattr(parameter, "help", None) or ""
        source = context.get_parameter_source(parameter.name or "")
        if text.startswith(_MARK) and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} needs --output-dir")
