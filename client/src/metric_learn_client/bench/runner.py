"""Puts load on a client, with threads, and watches it in windows until it is stable. See `levels`."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from metric_learn_client.bench.levels import (
    STABLE_WINDOWS,
    CallRecord,
    Level,
    Window,
    arrivals,
    is_stable,
    spread,
    summarise,
)
from metric_learn_client.errors import MetricLearnError

MAX_ARRIVALS_IN_FLIGHT = 512  # threads of an open loop; a server so far behind is not stable anyway


@dataclass(frozen=True)
class Measurement:
    """How a level is watched: window length, allowed deviation, the latency compared (None: the mean), patience."""

    window_s: float
    stability_percent: float
    percentile: Optional[int]
    max_windows: int


class UnstableError(Exception):
    """The level never settled; its figures would mean nothing, so there are none."""


class Load:
    """Calls `call()` (which returns the images it did, and raises MetricLearnError) until closed."""

    def __init__(self, call: Callable[[], int]) -> None:
        self._call = call
        self._records: queue.SimpleQueue[CallRecord] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.last_error: Optional[MetricLearnError] = None
        self._unexpected: Optional[BaseException] = None

    def closed_loop(self, concurrency: int) -> None:
        """So many callers, each with its next call as soon as the last one ended."""
        for _ in range(concurrency):
            self._start(self._loop)

    def open_loop(self, calls_per_s: float, distribution: str, seed: int) -> None:
        """Calls at their times, whether the ones before have ended or not."""
        self._start(lambda: self._dispatch(arrivals(calls_per_s, distribution, seed)))

    def measure(self, load: float, how: Measurement) -> Level:
        """Raises UnstableError; MetricLearnError where no call of a window succeeds."""
        windows: list[Window] = []
        started = time.monotonic()
        for number in range(1, how.max_windows + 1):
            self._stop.wait(max(0.0, started + number * how.window_s - time.monotonic()))
            windows.append(Window(how.window_s, self._take()))
            if self._unexpected is not None:
                raise self._unexpected
            if self.last_error is not None and not any(not record.failed for record in windows[-1].records):
                raise self.last_error
            if is_stable(windows, how.stability_percent, how.percentile):
                return summarise(load, windows, how.percentile)
        throughput, latency = spread(windows, how.percentile)
        raise UnstableError(
            f"not stable after {len(windows)} windows of {how.window_s:g} s: the last {STABLE_WINDOWS} differ by"
            f" {throughput:.1f} % in throughput and {latency:.1f} % in latency, {how.stability_percent:g} % are allowed"
        )

    def close(self) -> None:
        """Ends the load; waits for the calls that are under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="metric-learn-load", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._one(time.monotonic())

    def _dispatch(self, times: Iterator[float]) -> None:
        due: queue.SimpleQueue[Optional[float]] = queue.SimpleQueue()
        started = time.monotonic()
        callers: list[threading.Thread] = []
        for offset in times:
            if self._stop.wait(max(0.0, started + offset - time.monotonic())):
                break
            due.put(started + offset)
            if (due.qsize() > 1 and len(callers) < MAX_ARRIVALS_IN_FLIGHT) or not callers:
                callers.append(threading.Thread(target=self._serve, args=(due,), daemon=True))
                callers[-1].start()
        for _ in callers:
            due.put(None)
        for caller in callers:
            caller.join()

    def _serve(self, due: queue.SimpleQueue[Optional[float]]) -> None:
        for moment in iter(due.get, None):
            if not self._stop.is_set():
                self._one(moment)

    def _one(self, due: float) -> None:
        images = 0
        try:
            images = self._call()
        except MetricLearnError as error:
            self.last_error = error
        except BaseException as error:  # a defect: said by measure(), in the main thread
            self._unexpected = error
            self._stop.set()
        self._records.put(CallRecord(time.monotonic() - due, images, failed=not images))

    def _take(self) -> tuple[CallRecord, ...]:
        """The calls that ended. One that did so a moment after the window counts in it: the next has it less."""
        return tuple(self._records.get() for _ in range(self._records.qsize()))


def rotating(images: Sequence[bytes], count: int) -> Callable[[], list[bytes]]:
    """Gives the next `count` images in a circle, from whatever thread."""
    position = itertools.count()
    size = len(images)

    def following() -> list[bytes]:
        start = next(position) * count
        return [images[(start + offset) % size] for offset in range(count)]

    return following
