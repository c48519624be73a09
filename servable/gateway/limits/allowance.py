"""What a connection may cost beside the calls that are answered on it. Pure: the clock is given.

Every frame has a price, in microseconds of processor time, and every answered call pays for some. Who spends more is
read more slowly: nothing is lost by that, since TCP keeps what is not read with its sender. Other servers end such a
connection; it would be opened again at once, and an honest one would lose its calls.
"""

from __future__ import annotations

import time
from typing import Callable

BURST_US = 100_000.0
US_PER_S = 20_000.0  # a fiftieth of a core


class Allowance:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left_us = BURST_US
        self._at = clock()

    def spend(self, us: float) -> None:
        self._left_us -= us

    def earn(self, us: float) -> None:
        self._left_us = min(BURST_US, self._left_us + us)

    def delay_s(self) -> float:
        """How long nothing more should be taken; 0.0: it may go on."""
        if self._left_us > 0:
            return 0.0
        now = self._clock()
        self._left_us = min(BURST_US, self._left_us + US_PER_S * (now - self._at))
        self._at = now
        return max(0.0, -self._left_us / US_PER_S)
