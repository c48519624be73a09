"""What is read of all connections in one turn of the event loop: a bounded amount, of those first who have spent least.

So a caller whose calls are answered does not wait for hundreds of connections that send what is dear to read.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servable.gateway.http2.http2_connection import Http2Connection

ROUND_US = 1000.0  # of all of them, before everything else on the event loop has its turn
CLASS_US = 1000.0  # who has spent alike, by this, takes turns


class Pace:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._line: list[tuple[int, int, Http2Connection]] = []  # a heap
        self._count = itertools.count()
        self._used = 0.0
        self._due = False

    def has_time(self) -> bool:
        """In this turn of the event loop."""
        return self._used < ROUND_US

    def spend(self, us: float) -> None:
        self._used += us
        self._come_back()

    def wait(self, connection: Http2Connection, delay_s: float) -> None:
        """It is told to go on when it is its turn, after `delay_s` at the earliest."""
        if delay_s:
            self._loop.call_later(delay_s, self._line_up, connection)
        else:
            self._line_up(connection)

    def _line_up(self, connection: Http2Connection) -> None:
        heapq.heappush(self._line, (int(connection.spent_us() / CLASS_US), next(self._count), connection))
        self._come_back()

    def _come_back(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        self._used, self._due = 0.0, False
        try:
            while self._line and self.has_time():
                heapq.heappop(self._line)[2].go_on()
        finally:  # a fault of one connection stops no other
            if self._line:
                self._come_back()
