"""Whose call it is, when it is over, and shares: the connection is all that is known of a caller without a token."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Callable

from servable.gateway.errors import RETRY_AFTER_MS, CallError, Metadata, invalid, overloaded


def when_answered(then: Callable[[], None]) -> None:
    """Runs `then` when the caller has taken the whole answer of the call that runs here, or has gone.

    The task of a call ends then (http2/grpc_call.py).
    """
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(lambda _: then())


def message_of(body: Any) -> bytes:
    """What was read, as a call of one message needs it. Raises CallError where the stream ended instead."""
    if not isinstance(body, bytes):
        raise invalid("request", "the call carries no message")
    return body


def fail(context: Any, error: CallError, metadata: Metadata = ()) -> None:
    """The call's status is `error`; what the handler returns after it is not sent."""
    context.set_code(error.status)
    context.set_details(error.message)
    context.set_trailing_metadata((*metadata, *error.trailing_metadata()))


class Share:
    """An amount (calls, bytes): `each` for one connection, `total` for all.

    Beyond the total, as much again is kept for connections that hold nothing yet, or else a few that keep all they may
    would leave the others none.
    """

    def __init__(self, what: str, total: int, each: int) -> None:
        self._what = what
        self._total = total
        self._each = each
        self._held: Counter[str] = Counter()
        self._sum = 0

    def take(self, connection: str) -> None:
        """One for the connection. Raises CallError as `check` does."""
        self.check(connection)
        self.add(connection, 1)

    def check(self, connection: str) -> None:
        """Raises CallError (RESOURCE_EXHAUSTED) where the connection, or all together, hold what they may."""
        held = self._held.get(connection, 0)
        if held >= self._each:
            raise overloaded(f"{self._what}: {self._each} are the most for one connection", RETRY_AFTER_MS)
        if self._sum >= (self._total if held else 2 * self._total):
            raise overloaded(f"{self._what}: {self._total} are the most", RETRY_AFTER_MS)

    def add(self, connection: str, amount: int) -> None:
        self._held[connection] += amount
        self._sum += amount

    def give_back(self, connection: str, amount: int = 1) -> None:
        self._held[connection] -= amount
        self._sum -= amount
        if self._held[connection] <= 0:
            del self._held[connection]
