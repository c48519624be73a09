"""Places for request bodies on their way in over gRPC: each may become as large as a message may be.

What comes of a body without more room (its first window of 256 KB) needs none, so most pictures need none. No
connection holds more than its share of the places, and connections take turns. A caller that sends slowly keeps its
place while nobody else wants it; once it was held for FAIR_S it goes to a call that waits. Calls whose bodies come or
wait are bounded too: the connection with most of them loses its newest one to a newcomer of another connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Callable, Optional, TypeVar

import grpc

from servable.gateway.errors import RETRY_AFTER_MS, CallError, overloaded
from servable.gateway.limits.time_limit import TimeIsUp, TimeLimit

FAIR_S = 2.0
SHARES = 4
_T = TypeVar("_T")


@dataclass(eq=False)
class _Reader:
    """One call whose body is wanted. since: when it got its place; None while it has none."""

    peer: str
    budget: TimeLimit
    granted: asyncio.Future[None]
    since: Optional[float] = None


class BodyPlaces:
    """At most `places` bodies at a time, each within `read_s`, a quarter of them for one connection."""

    def __init__(self, places: int, read_s: float, max_waiting: int, fair_s: float = FAIR_S) -> None:
        self._places = places
        self._share = max(1, places // SHARES)
        self._read_s = read_s
        self._max_waiting = max_waiting
        self._fair_s = fair_s
        self._coming: dict[str, list[_Reader]] = {}  # connection -> its bodies that need no place yet
        self._held: dict[str, list[_Reader]] = {}  # those with a place, the oldest first
        self._waiting: dict[str, list[_Reader]] = {}  # for one; the connection whose turn is next stands first
        self._without = 0  # of them all

    async def read(self, peer: str, come: Callable[[], Awaitable[bool]], receive: Callable[[], Awaitable[_T]]) -> _T:
        """What `receive` returns. peer: the connection. come: waits for what needs no place; is there more?

        Raises CallError: DEADLINE_EXCEEDED after read_s, RESOURCE_EXHAUSTED if slow or if too many wait.
        """
        budget = TimeLimit(self._read_s)
        try:
            with budget:
                reader = _Reader(peer, budget, asyncio.get_running_loop().create_future())
                try:
                    self._line_up(reader)
                    if await come():
                        await self._take(reader)
                    return await receive()
                finally:
                    evicted = budget.ended_early
                    self._leave(reader)
        except TimeIsUp:
            if evicted:
                raise overloaded(
                    "the request's body arrives slowly and others wait; try again later", RETRY_AFTER_MS
                ) from None
            raise CallError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"the request's body did not arrive within {self._read_s:g} s"
            ) from None

    def _line_up(self, reader: _Reader) -> None:
        if self._without >= self._max_waiting:
            self._make_room(reader.peer)
        self._coming.setdefault(reader.peer, []).append(reader)
        self._without += 1

    async def _take(self, reader: _Reader) -> None:
        _remove(self._coming, reader)
        self._waiting.setdefault(reader.peer, []).append(reader)
        self._grant()
        while not reader.granted.done():
            oldest = self._oldest_against(reader.peer)
            assert oldest.since is not None
            left = oldest.since + self._fair_s - time.monotonic()
            if left > 0:
                await asyncio.wait({reader.granted}, timeout=left)
            else:
                self._leave(oldest)
                oldest.budget.end()

    def _make_room(self, peer: str) -> None:
        most = max({*self._waiting, *self._coming}, key=self._without_place)
        if self._without_place(peer) + 1 >= self._without_place(most):
            raise overloaded("too many calls wait for their bodies; try again later", RETRY_AFTER_MS)
        newest = (self._coming.get(most) or self._waiting[most])[-1]
        self._leave(newest)
        newest.budget.end()

    def _without_place(self, peer: str) -> int:
        return len(self._waiting.get(peer, ())) + len(self._coming.get(peer, ()))

    def _oldest_against(self, peer: str) -> _Reader:
        """Whose place a waiting call of `peer` may get: of its own connection at its share, else of the largest."""
        own = self._held.get(peer, [])
        return (own if len(own) >= self._share else max(self._held.values(), key=len))[0]

    def _grant(self) -> None:
        """Gives free places to those who wait, connection by connection."""
        while sum(map(len, self._held.values())) < self._places:
            peer = next((peer for peer in self._waiting if len(self._held.get(peer, ())) < self._share), None)
            if peer is None:
                return
            readers = self._waiting.pop(peer)
            reader = readers.pop(0)
            if readers:
                self._waiting[peer] = readers  # behind the others
            self._without -= 1
            reader.since = time.monotonic()
            self._held.setdefault(peer, []).append(reader)
            reader.granted.set_result(None)

    def _leave(self, reader: _Reader) -> None:
        if _remove(self._coming, reader) or _remove(self._waiting, reader):
            self._without -= 1
        else:
            _remove(self._held, reader)
        self._grant()


def _remove(group: dict[str, list[_Reader]], reader: _Reader) -> bool:
    """Whether it was there."""
    readers = group.get(reader.peer, [])
    if reader not in readers:
        return False
    readers.remove(reader)
    if not readers:
        del group[reader.peer]
    return True
