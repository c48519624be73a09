"""What a connection may cost beside the calls that are answered on it. Pure: the clock is given.

What it sends has a price, in microseconds of processor time, and every answered call pays for some. Who spends more is
read more slowly: nothing is lost by that, since TCP keeps what is not read with its sender. Other servers end such a
connection; it would be opened again at once, and an honest one would lose its calls.
"""

from __future__ import annotations

import time
from typing import Callable

BURST_US = 100_000.0
US_PER_S = 40_000.0  # a twenty-fifth of a core
CREDIT_US = 10_000.0  # of answered calls, beyond the burst: puts a connection before those that have none


class Allowance:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent_us = 0.0  # of the burst; less than 0: credit
        self._at = clock()

    def spend(self, us: float) -> None:
        """Less than nothing brings no credit."""
        self._spent_us = max(min(0.0, self._spent_us), self._spent_us + us)

    def earn(self, us: float) -> None:
        self._spent_us = max(-CREDIT_US, self._spent_us - us)

    def spent_us(self) -> float:
        """Of the burst; more than all of it: in debt; less than 0: there is credit."""
        now = self._clock()
        if self._spent_us > 0:
            self._spent_us = max(0.0, self._spent_us - US_PER_S * (now - self._at))
        self._at = now
        return self._spent_us

    def delay_s(self) -> float:
        """How long nothing more should be taken; 0.0: it may go on."""
        return 0.0 if self._spent_us < BURST_US else max(0.0, (self.spent_us() - BURST_US) / US_PER_S)
