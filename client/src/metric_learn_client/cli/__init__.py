"""The command `metric-learn`: finds a subcommand's module, runs it, turns what it raises into an exit code.

Data on stdout, log on stderr. A subcommand lives in the module of its name and calls its click command `command`;
it is imported when it is used, so that no command pays for, or needs, another one's libraries.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any, Optional

import click

from metric_learn_client._version import __version__
from metric_learn_client.cli.shared import signals, streams
from metric_learn_client.contract.exit_codes import ExitCode
from metric_learn_client.errors import (
    DeadlineError,
    IdentityError,
    MetricLearnError,
    OverloadedError,
    RejectedError,
    UnreachableError,
)
from metric_learn_client.printable import printable

_TRACEBACK_ENVIRONMENT = "METRIC_LEARN_TRACEBACK"  # set: an unexpected error shows where it comes from

# name -> (what it does, the extra that holds its libraries)
COMMANDS = {
    "embed": ("Embed image files, or a whole set of them with --output-dir.", "jobs"),
    "job": ("Look at, and verify, the output of `embed --output-dir`.", "jobs"),
    "status": ("Say whether an endpoint is ready and what it serves.", "cli"),
    "bench": ("Measure throughput and latency of an endpoint.", "cli"),
    "verify": ("Prove that an endpoint gives the trained model's embeddings.", "cli"),
    "golden": ("Record golden pictures with their reference embeddings.", "cli"),
    "evaluate": ("Recall@K and other retrieval metrics, with plots and a report.", "search"),
    "index": ("Build a search index over a job's embeddings.", "search"),
    "search": ("Find the nearest images of a query.", "search"),
}


class _Commands(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"metric_learn_client.cli.{cmd_name}")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("metric_learn_client"):
                raise
            extra = COMMANDS[cmd_name][1]
            raise click.UsageError(
                f"metric-learn {cmd_name} needs {error.name}: pip install 'metric-learn-client[{extra}]'"
            ) from error
        found: click.Command = module.command
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click itself would end without a word
            raise MetricLearnError(f"{error.filename or 'a pipe'}: its reader is gone") from error

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in COMMANDS.items()])


@click.group(cls=_Commands, help="Image embeddings from a metric-learn server.")
@click.version_option(__version__, prog_name="metric-learn")
def cli() -> None:
    pass


def main() -> None:
    """Runs the command line and exits with a code of exit_codes.ExitCode."""
    streams.open_standard_streams()
    signals.raise_on_sigterm()
    code = run()
    try:
        sys.stdout.flush()
    except OSError as error:
        streams.abandon_stdout()
        if not code:  # else it was said when it happened first
            _say(error)
            code = ExitCode.UNEXPECTED
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        signals.end_within(signals.END_S, code)  # threads that hang would be joined at the interpreter's end
    sys.exit(code)


def run(arguments: Optional[list[str]] = None) -> int:
    """The exit code of a command line, by default the process's own. Whatever it raises is one line on stderr."""
    try:
        return int(cli(arguments, standalone_mode=False) or ExitCode.DONE)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except signals.TerminatedError:
        return ExitCode.TERMINATED
    except (MetricLearnError, OSError, MemoryError) as error:
        _say(error)
        return exit_code_of(error)
    except Exception as error:  # a mistake of ours; with the place in the code, for whoever reports it
        if os.environ.get(_TRACEBACK_ENVIRONMENT):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        _say(
            f"unexpected {type(error).__name__} in {os.path.basename(place.filename)}, line {place.lineno}: {error}; "
            f"please report it, with what {_TRACEBACK_ENVIRONMENT}=1 adds"
        )
        return ExitCode.UNEXPECTED


def _say(what: object) -> None:
    text = f"{what.filename}: {what.strerror}" if isinstance(what, OSError) and what.filename else str(what)
    if isinstance(what, FileNotFoundError) and not what.filename and not _has_working_directory():
        text = "the working directory is not there any more; change to another"
    click.echo(f"metric-learn: {printable(text) or type(what).__name__}", err=True)


def _has_working_directory() -> bool:
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def exit_code_of(error: BaseException) -> ExitCode:
    """The code of what a command raised."""
    if isinstance(error, (UnreachableError, DeadlineError, OverloadedError)):
        return ExitCode.NOT_REACHABLE
    if isinstance(error, IdentityError):
        return ExitCode.GATE_FAILED
    return ExitCode.USAGE if isinstance(error, RejectedError) else ExitCode.UNEXPECTED
