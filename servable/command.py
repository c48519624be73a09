"""The command line behind servable.serving_server: read the configuration, check everything, serve until a signal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import click

from metric_learn_client.contract.exit_codes import ExitCode
from servable.config import REPOSITORY, Config, ConfigError, load_config
from servable.config.problem import CONFIGURATION, Problem, exit_code, wrong
from servable.doctor import Examined, examine
from servable.doctor.ascend import ascend_warnings
from servable.doctor.directories import LOCK, RUN_DIR, taken
from servable.doctor.interpreter import interpreter_warnings
from servable.gateway import StartError, configure_logging
from servable.host import run_directory
from servable.host.control import give_order
from servable.host.memory import keep_memory

SWITCH_S = 3600.0  # start, proof and drain have limits of their own
log = logging.getLogger(__name__)


class NotReadyError(Exception):
    """The host cannot serve this configuration, one line for each reason. Exit code 4."""


def check(config: Config) -> Examined:
    """Everything that can be known before anything starts. Raises ConfigError or NotReadyError."""
    found = examine(config)
    if found.problems:
        raise _refusal(found.problems)
    return found


def _refusal(problems: Sequence[Problem]) -> Exception:
    text = "\n".join(map(str, problems))
    return ConfigError(text) if exit_code(problems) == CONFIGURATION else NotReadyError(text)


def start(config: Config, reread: Optional[Callable[[], Config]] = None) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code. `reread` gives the configuration anew after a SIGHUP.

    Raises ConfigError, NotReadyError, servable.backend.supervisor.StartFailed.
    """
    began = time.monotonic()
    keep_memory()
    examined = check(config)
    from servable.backend.leftovers import clean  # after the checks: `--check` should not wait for it
    from servable.host.own_process import StandardErrorLog, raise_descriptor_limit
    from servable.server import serve

    standard_error = StandardErrorLog()
    close_log = configure_logging(config.log, standard_error.stream)
    standard_error.start()
    for warning in (*interpreter_warnings(), *ascend_warnings(config)):
        log.warning("%s", warning)
    try:
        raise_descriptor_limit()
        with _locked(config) as run_dir:
            cleaned = clean(run_dir)
            if cleaned:
                log.warning("an earlier server left this behind, now removed: %s", cleaned)
            try:
                return serve(config, examined, run_dir, began, reread)
            except StartError as error:
                raise _refusal(error.problems) from error
            finally:
                clean(run_dir)
    finally:
        standard_error.stop()
        close_log()


@contextlib.contextmanager
def _locked(config: Config) -> Iterator[Path]:
    """The run directory, private and of this server alone. Raises ConfigError, NotReadyError."""
    path = run_directory.locate(config.server.run_dir)
    run_directory.make(path)
    with _private(config, path) as directory:
        opened = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with os.fdopen(opened, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NotReadyError(str(taken(config))) from error
        yield path


@contextlib.contextmanager
def _private(config: Config, path: Path) -> Iterator[int]:
    """A descriptor of the run directory. Raises ConfigError where it is not this user's alone."""
    try:
        directory = run_directory.open_private(path)
    except run_directory.NotPrivateError as error:
        raise ConfigError(str(wrong(config, RUN_DIR, error.what, error.remedy))) from error
    try:
        yield directory
    finally:
        os.close(directory)


@click.command(help="Serve metric_learn with MindSpore Serving.")
@click.option(
    "--config", "path", type=click.Path(path_type=Path), default=REPOSITORY / "configs" / "cpu.yaml", show_default=True
)
@click.option("--set", "flags", multiple=True, metavar="SECTION.KEY=VALUE", help="override one key")
@click.option("--check", "check_only", is_flag=True, help="check configuration, host and digests; start nothing")
@click.option("--switch-version", type=click.IntRange(1), metavar="N", help="make N the running server's default")
@click.option("--status", is_flag=True, help="show the versions of the running server")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="start MindSpore Serving for a minute and write what this host is, does and gives, as JSON without secrets",
)
def cli(
    path: Path,
    flags: tuple[str, ...],
    check_only: bool,
    switch_version: Optional[int],
    status: bool,
    report: Optional[Path],
) -> None:
    config = load_config(path, flags)
    if report is not None:
        sys.exit(_report(config, report))
    if switch_version is not None or status:
        order: dict[str, Any] = (
            {"command": "status"} if status else {"command": "switch-version", "version": switch_version}
        )
        sys.exit(_give(config, order))
    if check_only:
        found = check(config)
        for warning in found.warnings:
            click.echo(f"warning: {warning}", err=True)
        version = found.versions[found.default]
        click.echo(f"ok: version {version.number}, {version.weights} weights, {config.backend.target}")
        return
    sys.exit(start(config, lambda: load_config(path, flags)))


def _report(config: Config, file: Path) -> int:
    from servable.host_report.document import write_report

    text, code = write_report(config, lambda step: click.echo(f"report: {step}", err=True))
    if str(file) == "-":
        click.echo(text, nl=False)
    else:
        file.write_text(text)
        click.echo(f"report: {json.loads(text)['verdict']}; written to {file}", err=True)
    return code


def _give(config: Config, order: dict[str, Any]) -> int:
    run_dir = run_directory.locate(config.server.run_dir)
    try:
        with _private(config, run_dir):
            answer = give_order(run_dir, order, SWITCH_S)
    except (OSError, ValueError) as error:
        raise NotReadyError(f"server.run_dir = {run_dir}: no server answers there ({error}); is it running?") from error
    for row in answer.get("versions", ()):
        mark = "default" if row["default"] else ""
        reason = f"({row['reason']})" if row["reason"] else ""
        facts = f"process {row['process']}, restarts {row['restarts']}"
        click.echo(f"version {row['version']:<4} {row['state']:<8} {mark:<8} {facts} {reason}".rstrip())
    if answer["message"]:
        click.echo(answer["message"], err=bool(answer["exit_code"]))
    wanted = order.get("version", 0)
    if not answer["exit_code"] and wanted and config.model.version not in (0, wanted):
        where = config.origin("model.version")
        click.echo(f"to keep it over a new start, set model.version: {wanted} ({where} says otherwise)", err=True)
    return int(answer["exit_code"])


def main() -> None:
    """Every failure is one line for each problem and an exit code: 2 configuration, 4 not ready, 5 parity, 1 other."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except ConfigError as error:
        _end(error, ExitCode.USAGE)
    except NotReadyError as error:
        _end(error, ExitCode.NOT_REACHABLE)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        code = getattr(error, "exit_code", ExitCode.UNEXPECTED)
        if not isinstance(error, (OSError, RuntimeError)) and code == ExitCode.UNEXPECTED:
            log.exception("unexpected")
        _end(error, code)


def _end(error: Exception, code: int) -> None:
    for line in str(error).splitlines() or [repr(error)]:
        click.echo(f"serving_server: {line}", err=True)
    sys.exit(code)
