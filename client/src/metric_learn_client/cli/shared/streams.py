"""The standard streams of a command, made safe: closed ones, full disks, pipes whose reader is gone, any file name.

A stream that was closed before the start has no descriptor, and the next file or socket would get its number: gRPC's
log would then be written into the output file. So each gets one, from which reading or writing fails (gnulib's
`stdopen` does the same), and the error says which stream it was. Nobody needs what cannot be said on stderr.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


class _Input(io.FileIO):
    def readinto(self, buffer: Any, /) -> Any:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard input") from None


class _Output(io.FileIO):
    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None


class _Log(io.FileIO):
    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def open_standard_streams() -> None:
    """Replaces sys.stdin, stdout and stderr. Names of files, which need not be text, are written to both; who reads
    them from stdin takes its bytes (jobs.inputs.text)."""
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)  # the lowest free number, which is this one
    sys.stdin = io.TextIOWrapper(io.BufferedReader(_Input(0, "r", closefd=False)), _encoding(sys.stdin))
    sys.stdout = _writer(_Output(1, "w", closefd=False), _encoding(sys.stdout))
    sys.stderr = _writer(_Log(2, "w", closefd=False), _encoding(sys.stderr), line_buffering=True)


def abandon_stdout() -> None:
    """What is still to be written goes nowhere, so that the interpreter's own flush at the end says nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _writer(raw: io.FileIO, encoding: str, line_buffering: bool = False) -> TextIO:
    buffered: io.BufferedWriter = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding, "backslashreplace", line_buffering=line_buffering or raw.isatty())


def _encoding(stream: Any) -> str:
    """As Python chose it; of a closed stream any will do."""
    return getattr(stream, "encoding", None) or "utf-8"
