"""Places for request bodies on their way in: gRPC buffers a body before its size is known, so their number is bounded.

A caller that sends slowly keeps its place while nobody else wants it. When all places are taken, the one held longest
is given to the next caller once it was held for FAIR_S: a few dozen slow senders cannot keep everybody else out.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from typing import Callable, TypeVar

import grpc

from servable.gateway.budget import Budget, BudgetSpent
from servable.gateway.errors import CallError, overloaded

FAIR_S = 2.0
RETRY_AFTER_MS = 1000
_T = TypeVar("_T")


class BodyPlaces:
    """At most `places` bodies at a time, each within `read_s`."""

    def __init__(self, places: int, read_s: float, fair_s: float = FAIR_S) -> None:
        self._places = places
        self._read_s = read_s
        self._fair_s = fair_s
        self._held: dict[Budget, float] = {}  # since when; the oldest first
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def read(self, receive: Callable[[], Awaitable[_T]]) -> _T:
        """What `receive` returns. Raises CallError: DEADLINE_EXCEEDED after read_s, RESOURCE_EXHAUSTED if slow."""
        budget = Budget(self._read_s)
        try:
            with budget:
                try:
                    await self._take(budget)
                    return await receive()
                finally:
                    evicted = budget.ended_early
                    self._give_back(budget)
        except BudgetSpent:
            if evicted:
                raise overloaded(
                    "the request's body arrives slowly and others wait; try again later", RETRY_AFTER_MS
                ) from None
            raise CallError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"the request's body did not arrive within {self._read_s:g} s"
            ) from None

    async def _take(self, budget: Budget) -> None:
        while len(self._held) >= self._places:
            oldest, since = next(iter(self._held.items()))
            left = since + self._fair_s - time.monotonic()
            if left <= 0:
                del self._held[oldest]
                oldest.end()
                break
            freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(freed)
            await asyncio.wait({freed}, timeout=left)
            freed.cancel()
        self._held[budget] = time.monotonic()

    def _give_back(self, budget: Budget) -> None:
        if self._held.pop(budget, None) is None:
            return
        while self._waiting:
            freed = self._waiting.popleft()
            if not freed.done():
                freed.set_result(None)
                return
