"""How much the gateway holds at one time, and when to come again if that is too much. Pure: the clock is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from servable.config.sections import LimitsSection
from servable.gateway.errors import overloaded

MIN_RETRY_MS, MAX_RETRY_MS = 50, 5000
_UNKNOWN_RETRY_MS = 200  # before the first image came back
# Beyond what may be in flight, a quarter as much is kept for connections that have nothing in flight: or else one that
# always sends the next call at once would leave the others none.
RESERVED_PART = 4
_SMOOTHING = 0.2  # of the newest busy second in the throughput estimate


class Admission:
    """Counts calls from their first byte on, images and bytes from when they are known, to the end of the call."""

    def __init__(self, limits: LimitsSection, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self.calls = 0
        self.reading = 0  # of the calls: those whose body is not there, bounded by BodyPlaces
        self.images = 0
        self.bytes = 0
        self._at_work: Counter[str] = Counter()  # calls with images in flight, by connection
        self._rate = 0.0  # images a second, counted while there were any: an idle hour does not make it slow
        self._finished = 0
        self._busy_s = 0.0
        self._busy_since = 0.0

    @contextmanager
    def call(self) -> Iterator[None]:
        """A place for one call. Raises CallError (RESOURCE_EXHAUSTED)."""
        self._refuse_beyond(self._limits.max_in_flight_calls - 1)
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1

    @contextmanager
    def body(self) -> Iterator[None]:
        """While the call's body is read it takes no place from calls that have theirs. Raises as `call` does."""
        self.reading += 1
        try:
            yield
        finally:
            self.reading -= 1
        self._refuse_beyond(self._limits.max_in_flight_calls)

    def _refuse_beyond(self, most: int) -> None:
        calls = self.calls - self.reading
        if calls > most:
            raise overloaded(f"{calls} calls in flight are the most; try again later", self.retry_after_ms())

    @contextmanager
    def work(self, connection: str, images: int, size: int) -> Iterator[None]:
        """A place for the call's images and their bytes. Raises CallError (RESOURCE_EXHAUSTED)."""
        limits, new = self._limits, connection not in self._at_work
        self._refuse_more("images", self.images, images, limits.max_in_flight_instances, new)
        self._refuse_more("bytes", self.bytes, size, limits.max_in_flight_bytes, new)
        if not self.images:
            self._busy_since = self._clock()
        self.images += images
        self.bytes += size
        self._at_work[connection] += 1
        try:
            yield
        finally:
            self._at_work[connection] -= 1
            if not self._at_work[connection]:
                del self._at_work[connection]
            self.images -= images
            self.bytes -= size
            if not self.images:
                self._busy_s += self._clock() - self._busy_since

    def _refuse_more(self, what: str, held: int, more: int, most: int, new: bool) -> None:
        if held + more > most + (most // RESERVED_PART if new else 0):
            raise overloaded(
                f"{held} {what} in flight, {more} more would pass {most}; try again later", self.retry_after_ms()
            )

    def finished(self, images: int) -> None:
        """`images` came back from the backend: what the retry hint is estimated from."""
        self._finished += images
        now = self._clock()
        elapsed = self._busy_s + (now - self._busy_since if self.images else 0.0)
        if elapsed >= 1.0:
            rate = self._finished / elapsed
            self._rate = rate if not self._rate else self._rate + _SMOOTHING * (rate - self._rate)
            self._finished, self._busy_s, self._busy_since = 0, 0.0, now

    def retry_after_ms(self) -> int:
        """The time in which half of what is in flight will be done, as the last seconds went."""
        if not self._rate:
            return _UNKNOWN_RETRY_MS
        return int(min(MAX_RETRY_MS, max(MIN_RETRY_MS, 500.0 * self.images / self._rate)))
