"""The time a call may take: one deadline over everything that it waits for."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Optional


class TimeIsUp(Exception):
    """The time is over."""


class TimeLimit:
    """`with TimeLimit(seconds):` ends whatever its task waits for, and raises TimeIsUp, once the time is over.

    What `asyncio.timeout` is from Python 3.11 on; `asyncio.wait_for` would cost each call a task more.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._spent = False
        self.ended_early = False
        self._task: Optional[asyncio.Task[object]] = None
        self._timer: Optional[asyncio.TimerHandle] = None

    def __enter__(self) -> TimeLimit:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._seconds), self._expire)
        return self

    def end(self) -> None:
        """Now, from another task."""
        if not self._spent:
            self.ended_early = True
            self._expire()

    def _expire(self) -> None:
        self._spent = True
        assert self._task is not None
        self._task.cancel()

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        assert self._timer is not None
        self._timer.cancel()
        if self._spent and kind is asyncio.CancelledError:
            raise TimeIsUp from error
