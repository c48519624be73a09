"""Connections with more to read than one turn of the event loop has time for: they take turns, all within one bound."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servable.gateway.http2.http2_connection import Http2Connection

ROUND_US = 1000.0  # of all of them, before everything else on the event loop has its turn


class Pace:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._line: deque[Http2Connection] = deque()
        self._due = False

    def wait(self, connection: Http2Connection, delay_s: float) -> None:
        """It is told to go on when it is its turn, after `delay_s` at the earliest."""
        if delay_s:
            self._loop.call_later(delay_s, self._line_up, connection)
        else:
            self._line_up(connection)

    def _line_up(self, connection: Http2Connection) -> None:
        self._line.append(connection)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        used, waiting = 0.0, len(self._line)
        try:
            while waiting and used < ROUND_US:
                waiting -= 1
                used += self._line.popleft().go_on()
        finally:  # a fault of one connection stops no other
            self._due = bool(self._line)
            if self._due:
                self._loop.call_soon(self._round)
