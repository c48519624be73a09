"""Which contents were in a backend when it ended: kept for minutes, by digest. No I/O.

A digest is made of a payload only when one of the same method, size and middle is known, so that looking costs nothing
as long as nothing has happened.
"""

from __future__ import annotations

import enum
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Callable, Optional

from servable.gateway.call.methods import Method
from servable.gateway.call.request import Payload

REMEMBERED_S = 600.0  # a wrong verdict must pass, and a right one must outlast the senders' patience
MAX_REMEMBERED = 4096  # about 1 MB; the oldest goes first
_MIDDLE_BYTES = 16


class Known(enum.Enum):
    SUSPECT = "suspect"  # was there once and could not be tried since: goes alone
    GUILTY = "guilty"  # was alone when it happened again: is not sent any more


# Of a method and an image: whether it ends a process that does what a worker does before the network. The block is one
# series of such questions. Raises OSError where no process can be had.
EndsProcess = Callable[[str, Payload], Awaitable[bool]]
Trial = Callable[[], AbstractAsyncContextManager[EndsProcess]]


class Suspects:
    """`look` for every image that comes, `note` what a backend's end has shown, `forget` what came through alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[str, bytes], tuple[Known, float, _Shape]] = {}  # oldest first
        self._shapes: Counter[_Shape] = Counter()

    def __len__(self) -> int:
        return len(self._known)

    def look(self, method: Method, payload: Payload) -> Optional[Known]:
        if not self._known:
            return None
        self._expire()
        if not self._shapes[_shape(method, payload)]:
            return None
        found = self._known.get((method.name, hashlib.sha256(payload).digest()))
        return found[0] if found else None

    def note(self, method: Method, payload: Payload, known: Known) -> str:
        """Returns the payload's sha256. A verdict is never taken back by a suspicion."""
        self._expire()
        digest = hashlib.sha256(payload)
        key, shape = (method.name, digest.digest()), _shape(method, payload)
        before = self._known.get(key)
        if before is not None and before[0] is Known.GUILTY:
            known = Known.GUILTY
        self._drop(key)
        if len(self._known) >= MAX_REMEMBERED:
            self._drop(next(iter(self._known)))
        self._known[key] = (known, self._clock() + REMEMBERED_S, shape)
        self._shapes[shape] += 1
        return digest.hexdigest()

    def forget(self, method: Method, payload: Payload) -> None:
        if self.look(method, payload) is not None:
            self._drop((method.name, hashlib.sha256(payload).digest()))

    def _expire(self) -> None:
        now = self._clock()
        while self._known:
            key = next(iter(self._known))
            if self._known[key][1] > now:
                return
            self._drop(key)

    def _drop(self, key: tuple[str, bytes]) -> None:
        found = self._known.pop(key, None)
        if found is not None:
            self._shapes[found[2]] -= 1
            if not self._shapes[found[2]]:
                del self._shapes[found[2]]


_Shape = tuple[str, int, bytes]  # what two equal payloads share and few others do


def _shape(method: Method, payload: Payload) -> _Shape:
    middle = len(payload) // 2
    return method.name, len(payload), bytes(payload[middle : middle + _MIDDLE_BYTES])
