"""What a load test measures, and when it may say so. Pure: no sockets, no threads, no clock.

A level of load is watched in windows of equal length, and reported only when the last three agree, as perf_analyzer of
Triton does it: throughput and latency of each within so many per cent of their mean. Latency counts from the moment a
call was due, so that a server that stalls is not spared the calls that could not start ("coordinated omission", Tene).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

STABLE_WINDOWS = 3
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class CallRecord:
    """One finished call. latency_s: from when it was due."""

    latency_s: float
    images: int
    failed: bool


@dataclass(frozen=True)
class Window:
    seconds: float
    records: tuple[CallRecord, ...]

    @property
    def images_per_s(self) -> float:
        return sum(record.images for record in self.records if not record.failed) / self.seconds

    def latency_s(self, percentile: Optional[int]) -> float:
        """The percentile, or with None the mean, over the calls that did not fail; NaN without any."""
        latencies = sorted(record.latency_s for record in self.records if not record.failed)
        if not latencies:
            return math.nan
        return sum(latencies) / len(latencies) if percentile is None else percentile_of(latencies, percentile)


@dataclass(frozen=True)
class Level:
    """A level of load with what was measured at it. load: calls at once, or calls per second."""

    load: float
    images_per_s: float
    calls_per_s: float
    avg_ms: float
    percentiles_ms: tuple[float, ...]  # those of PERCENTILES
    calls: int
    failed: int
    windows: int
    watched_ms: float  # the latency that had to be stable

    def row(self) -> dict[str, float]:
        named = {f"p{percentile}_ms": value for percentile, value in zip(PERCENTILES, self.percentiles_ms)}
        return {
            "load": self.load,
            "images_per_s": self.images_per_s,
            "calls_per_s": self.calls_per_s,
            "avg_ms": self.avg_ms,
            **named,
            "calls": self.calls,
            "failed": self.failed,
            "windows": self.windows,
        }


def percentile_of(ordered: Sequence[float], percentile: int) -> float:
    """The smallest value that at least `percentile` per cent are not above (nearest rank)."""
    return ordered[max(0, math.ceil(percentile / 100 * len(ordered)) - 1)]


def is_stable(windows: Sequence[Window], percent: float, percentile: Optional[int]) -> bool:
    """Whether the last three windows agree in throughput and latency within +- percent of their mean."""
    return len(windows) >= STABLE_WINDOWS and all(apart <= percent for apart in spread(windows, percentile))


def spread(windows: Sequence[Window], percentile: Optional[int]) -> tuple[float, float]:
    """How far, in per cent of their mean, the last three windows are apart: in throughput, in latency."""
    last = windows[-STABLE_WINDOWS:]
    return (
        _spread([window.images_per_s for window in last]),
        _spread([window.latency_s(percentile) for window in last]),
    )


def summarise(load: float, windows: Sequence[Window], percentile: Optional[int]) -> Level:
    """The last three windows as one."""
    last = windows[-STABLE_WINDOWS:]
    whole = Window(sum(window.seconds for window in last), tuple(record for each in last for record in each.records))
    failed = sum(record.failed for record in whole.records)
    done = len(whole.records) - failed
    return Level(
        load=load,
        images_per_s=whole.images_per_s,
        calls_per_s=done / whole.seconds,
        avg_ms=1000 * whole.latency_s(None),
        percentiles_ms=tuple(1000 * whole.latency_s(percentile) for percentile in PERCENTILES),
        calls=done,
        failed=failed,
        windows=len(windows),
        watched_ms=1000 * whole.latency_s(percentile),
    )


def arrivals(calls_per_s: float, distribution: str, seed: int) -> Iterator[float]:
    """Seconds from the start at which calls are due: a Poisson process, or evenly spaced ("constant")."""
    dice = random.Random(seed)
    due = 0.0
    while True:
        due += dice.expovariate(calls_per_s) if distribution == "poisson" else 1 / calls_per_s
        yield due


def parse_range(text: str) -> list[float]:
    """ "4", "1:8" or "1:32:4" (start:end:step, end included) -> the levels. Raises ValueError."""
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or any(not 0 < number < 1e6 for number in numbers):
        raise ValueError(f"{text!r}: write a number, start:end or start:end:step, all above 0")
    start = numbers[0]
    end = numbers[1] if len(numbers) > 1 else start
    step = numbers[2] if len(numbers) > 2 else 1.0
    if end < start:
        raise ValueError(f"{text!r}: it ends below its start")
    return [start + index * step for index in range(int((end - start) / step + 1e-9) + 1)]


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values) if values else math.nan
    return 100 * max(abs(value - mean) for value in values) / mean if mean else math.nan
