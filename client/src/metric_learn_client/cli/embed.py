"""`metric-learn embed`: some files into one file, or with --output-dir a whole set, as a job that can be resumed."""

from __future__ import annotations

from typing import Any, Callable, Optional

import click

from metric_learn_client.cli.shared.connection import endpoint_options, open_client
from metric_learn_client.exit_codes import ExitCode
from metric_learn_client.jobs import options as job
from metric_learn_client.jobs.options import InputSpec, JobOptions, RunOptions

HELP = """Embed image FILES in the order given, or with --output-dir a whole set of images.

Without --output-dir, FILES are images; "-" reads their names from stdin. With it, FILES are folders, globs, lists
(plain, 'path label', CSV, the SOP lists), parquet tables, WebDataset archives ("{000..150}.tar"), URLs or "-", and the
same command again does what is missing.
"""

_EXISTS = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0, min_open=True)
# name, type, default, help; a default of None stays unshown
_INPUT: tuple[tuple[str, Any, Any, str], ...] = (
    ("--input-format", click.Choice(job.INPUT_FORMATS), InputSpec.input_format, "what the inputs are"),
    ("--root", str, None, "folder or URL that relative paths of a list belong to (default: the list's folder)"),
    ("--glob", str, None, "which names below a folder, as '**/*.jpg' (default: jpg, jpeg, png, webp, bmp)"),
    ("--path-column", str, None, "column of image paths in a table or CSV"),
    ("--bytes-column", str, None, "column of encoded images in a parquet table"),
    ("--columns", str, None, "columns to keep, with commas between; of archives: text members, as 'txt,json'"),
    ("--limit", _EXISTS, None, "rows to embed at most"),
    ("--shuffle-seed", click.IntRange(min=0), None, "take the rows in a random order that this number decides"),
)
_OUTPUT: tuple[tuple[str, Any, Any, str], ...] = (
    ("--shard-size", _EXISTS, JobOptions.shard_size, "rows per output file"),
    ("--format", click.Choice(job.OUTPUT_FORMATS), JobOptions.output_format, "npy and parquet metadata, or parquet"),
    ("--dtype", click.Choice(job.DTYPES), JobOptions.dtype, "of the embeddings in the files"),
    ("--embedding-column", str, JobOptions.embedding_column, "its name with --format parquet"),
    ("--preprocess", click.Choice(job.PREPROCESS), JobOptions.preprocess, "decode and resize on the server or here"),
)
_RUN: tuple[tuple[str, Any, Any, str], ...] = (
    ("--engine", click.Choice(job.ENGINES), RunOptions.engine, "one process, several, or Ray"),
    ("--workers", _EXISTS, RunOptions.workers, "processes or Ray actors"),
    ("--batch-size", _EXISTS, RunOptions.batch_size, "images per call"),
    ("--in-flight", _EXISTS, RunOptions.in_flight, "calls at one time, per worker"),
    ("--read-threads", _EXISTS, RunOptions.read_threads, "batches read at one time, per worker"),
    ("--max-outage-s", click.FloatRange(min=0), RunOptions.max_outage_s, "how long to wait for the service"),
    ("--max-image-bytes", _EXISTS, RunOptions.max_image_bytes, "larger files are not read"),
    ("--read-timeout-s", _SECONDS, RunOptions.read_timeout_s, "for one image at a URL, tries included"),
    ("--num-shards", _EXISTS, RunOptions.num_shards, "parts that the job is divided into, for Slurm and Kubernetes"),
    ("--shard-index", click.IntRange(min=0), RunOptions.shard_index, "which part this run does, from 0"),
    ("--ray-address", str, None, "of a running Ray cluster (default: RAY_ADDRESS, else one is started here)"),
)


def _names_of(options: Callable[..., Any]) -> list[str]:
    """The parameters that a decorator of click options adds."""

    def nothing() -> None: ...

    return [parameter.name for parameter in getattr(options(nothing), "__click_params__", [])]


_CONNECTION = _names_of(endpoint_options)


def _job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, kind, default, text in reversed(_INPUT + _OUTPUT + _RUN):
        shown = default is not None
        command = click.option(name, type=kind, default=default, show_default=shown, help=f"[job] {text}")(command)
    return command


@click.command(name="embed", help=HELP)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--output", type=click.Path(), help="x.npy, x.parquet or x.jsonl (default: JSON lines on stdout)")
@click.option("--output-dir", type=click.Path(file_okay=False), help="[job] directory for the shards of a whole set")
@_job_options
@click.option("--sandbox", is_flag=True, help="[job] with --preprocess local: decode in processes of their own")
@click.option("--overwrite", is_flag=True, help="[job] remove what an earlier job left in --output-dir, begin anew")
@click.option("--extend", is_flag=True, help="[job] the input has grown: embed what was added")
@click.option("--sync", is_flag=True, help="[job] embed what was added or changed, remove what went away")
@click.option(
    "--sync-by",
    type=click.Choice(["time", "digest"]),
    default="time",
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
    connection = {name: options.pop(name) for name in _CONNECTION}
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
        if text.startswith("[job]") and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} needs --output-dir")
