"""Request bodies that arrive piece by piece, over HTTP: memory for what is there, and slow senders give way.

Unlike gRPC (limits/bodies.py), HTTP shows how fast a body comes. So no place is held for what has not come yet: bodies
share an amount of bytes, and where it is used up, the slowest of those that had a second goes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable

from servable.gateway.errors import RETRY_AFTER_MS, CallError, overloaded
from servable.gateway.limits.time_limit import TimeIsUp, TimeLimit

FAIR_S = 1.0  # in which a sender is not judged


@dataclass(eq=False)
class _Body:
    budget: TimeLimit
    began: float
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)

    def rate(self, now: float) -> float:
        return self.size / (now - self.began)


class BodyTooLarge(Exception):
    """The body is longer than it may be; what was left of it was not read."""


class ArrivingBodies:
    """All of them hold `most_bytes`; each arrives within `read_s`."""

    def __init__(
        self, most_bytes: int, read_s: float, fair_s: float = FAIR_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes = most_bytes
        self.read_s = read_s
        self._fair_s = fair_s
        self._clock = clock
        self._bodies: set[_Body] = set()
        self.bytes = 0

    async def read(self, receive: Callable[[], Awaitable[tuple[bytes, bool]]], most: int) -> list[bytes]:
        """All pieces that `receive` gives: (piece, whether there is more). most: bytes of them.

        Raises BodyTooLarge; TimeIsUp after read_s; CallError (RESOURCE_EXHAUSTED): slow, and others need the memory.
        """
        budget = TimeLimit(self.read_s)
        body = _Body(budget, self._clock())
        self._bodies.add(body)
        try:
            with budget:
                more = True
                while more:
                    piece, more = await receive()
                    body.size += len(piece)
                    self.bytes += len(piece)
                    if body.size > most:
                        raise BodyTooLarge
                    body.pieces.append(piece)
                    if self.bytes > self._most_bytes:
                        self._make_room(body)
                return body.pieces
        except TimeIsUp:
            if budget.ended_early:
                raise _slow() from None
            raise
        finally:
            self._leave(body)

    @contextmanager
    def kept(self, size: int) -> Iterator[None]:
        """While a body of `size` bytes that is all there is made use of: it counts, and is judged no more."""
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size

    def _make_room(self, body: _Body) -> None:
        """The slowest goes; where none had its second yet, the one that asks. Raises CallError then."""
        now = self._clock()
        judged = [each for each in self._bodies if now - each.began >= self._fair_s]
        slowest = min(judged, key=lambda each: each.rate(now), default=body)
        if slowest is body:
            raise _slow()
        self._leave(slowest)
        slowest.budget.end()

    def _leave(self, body: _Body) -> None:
        if body in self._bodies:
            self._bodies.remove(body)
            self.bytes -= body.size
            body.pieces = []
            body.size = 0


def _slow() -> CallError:
    return overloaded("the request's body arrives slowly and others need the memory; try again later", RETRY_AFTER_MS)
