"""What stops an export, each with its exit code. A message says what happened, the value and what to do.

ExportError                  1  the machine's side: no space, no permission, a tool that failed
|- UnusableInputError        2  the caller's side: no such file, not a checkpoint, a parameter that does not fit
|- SourceUnreachableError    4  the download host cannot be reached
|- ParityError               5  the exported model is not the trained one
"""

from __future__ import annotations

from metric_learn_client.contract.exit_codes import ExitCode


class ExportError(Exception):
    exit_code = ExitCode.UNEXPECTED


class UnusableInputError(ExportError):
    exit_code = ExitCode.USAGE


class SourceUnreachableError(ExportError):
    exit_code = ExitCode.NOT_REACHABLE


class ParityError(ExportError):
    exit_code = ExitCode.GATE_FAILED
