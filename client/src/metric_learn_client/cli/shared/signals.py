"""SIGINT and SIGTERM: an exception where nothing is at work, a flag where threads are, and an end in any case.

An exception out of a signal handler can strike while a thread pool holds a lock of its own, whose threads then wait for
ever. So while a job works the handler only sets a flag, which the job looks at; and whoever does not end by it, because
of a file that hangs, is ended, which loses nothing that is committed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Callable, Optional

from metric_learn_client.contract.exit_codes import ExitCode

END_S = 6.0  # after a signal; the commit of a shard takes a second or two

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class TerminatedError(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT, so that every `finally` runs."""


def raise_on_sigterm() -> None:
    signal.signal(signal.SIGTERM, _raise)


def end_within(seconds: float, code: int, last_words: Callable[[], None] = lambda: None) -> None:
    """Ends the process with the code after so many seconds, if it has not ended by itself."""

    def end() -> None:
        try:
            last_words()
        finally:
            os._exit(code)

    guard = threading.Timer(seconds, end)
    guard.daemon = True
    guard.start()


@contextmanager
def as_flag(stop: threading.Event, at_work: Callable[[], bool], last_words: Callable[[], None]) -> Iterator[None]:
    """In this block a signal sets `stop` while at_work() says so, and raises otherwise. last_words: for a job that
    has to be ended. A second signal ends at once. Where the block raises after a signal, that signal's exception is
    what leaves it."""
    came: list[int] = []

    def handle(number: int, frame: Optional[FrameType]) -> None:
        if came:
            os._exit(_CODES[signal.Signals(number)])
        if not at_work():
            _raise(number, frame)
        came.append(number)
        stop.set()
        end_within(END_S, _CODES[signal.Signals(number)], last_words)

    before = {number: signal.signal(number, handle) for number in _CODES}
    try:
        yield
    except Exception:
        if not came:
            raise
        _raise(came[0], None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _frame: Optional[FrameType]) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else TerminatedError
