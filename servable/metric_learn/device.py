"""The network on one device, in that device's worker: it answers nothing before it has proved itself, and again and
again while it serves.

A device that gives wrong numbers, fails a run, or is far slower than another, ends its worker at once. MindSpore
Serving then gives the images that were in it to the other devices, and starts the worker again if it had ever answered.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from servable.engine.device_watch import WRONG_EMBEDDING, DeviceWatch
from servable.engine.settings import WatchSettings

from .golden_row import GoldenRow, WrongRow, unit

BLAME_S = 1.0  # a picture whose row is not finite makes the device prove itself at most so often
# Slower than another device by so much in each of so many runs: a part of it has failed. A busy host does not do that.
SLOW_TIMES, SLOW_S, SLOW_TRIES = 20.0, 0.05, 5
ATTEMPTS = 3  # of a worker beside the devices: the device that it was given may have ended
PAUSE_S = 0.2

Array = npt.NDArray[Any]


class Device:
    """`models`: batch size -> Models of it, of which `golden` knows."""

    def __init__(
        self, number: int, models: Mapping[int, Sequence[Any]], golden: GoldenRow, settings: WatchSettings
    ) -> None:
        self._number = number
        self._models = models
        self._golden = golden
        self._check_s = settings["check_s"]
        self._watch = DeviceWatch(Path(settings["directory"]), number)
        self._proving = threading.Lock()
        self._blamed_at = float("-inf")  # when a picture was last to blame

    def run(self, model: Any, instances: Sequence[Sequence[Array]]) -> Any:
        """What Model.call gives. Does not return where the device is not to be trusted. From several threads."""
        with self._proving:
            if not self._watch.proved_within(self._check_s):
                self._prove()
        rows = self._beside_golden(model, instances)
        if not _finite(rows):
            with self._proving:
                if time.monotonic() - self._blamed_at > BLAME_S:
                    self._prove()  # it is the device, which ends here, or a picture that float16 does not hold
                    rows = self._beside_golden(model, instances)
                    self._blamed_at = time.monotonic()
        return rows

    def _beside_golden(self, model: Any, instances: Sequence[Sequence[Array]]) -> Any:
        try:
            return self._golden.call(model, instances, self._run)
        except WrongRow as error:
            self._end_wrong(error)

    def _run(self, model: Any, instances: Sequence[Sequence[Array]]) -> Any:
        with self._watch.run():
            try:
                return model.call(instances)
            except Exception as error:  # every input has one form, so the pictures are not to blame
                self._end(f"DeviceError: a run of {len(instances)} images failed ({error})")

    def _prove(self) -> None:
        """Every Model, full: the golden picture beside its negative, so that rows that change places show."""
        negative, expected = np.ascontiguousarray(255 - self._golden.picture), None
        for size, model in [(size, model) for size, models in sorted(self._models.items()) for model in models]:
            pictures = [(self._golden.picture, negative)[index % 2] for index in range(size)]
            began_at, rows = time.monotonic(), self._run(model, [[picture] for picture in pictures])
            seconds = time.monotonic() - began_at
            if expected is None:
                expected = unit(self._run(model, [[negative]] * size)[0][0])
            try:
                for (row,), picture in zip(rows, pictures):
                    self._golden.check(row, size, expected if picture is negative else None)
            except WrongRow as error:
                self._end_wrong(error)
        self._golden.all_right()
        self._watch.proved(self._fast_enough_s(model, size, seconds))

    def _fast_enough_s(self, model: Any, size: int, seconds: float) -> float:
        """What a full run takes: `seconds`, or less in another try. Does not return where another is much faster.

        MindSpore Serving gives each device as many batches as the others, so all callers would wait for this one.
        """
        fastest_s, tries = self._watch.fastest_other_s(), 1
        while seconds > SLOW_S and seconds > SLOW_TIMES * fastest_s:
            if tries == SLOW_TRIES:
                self._end(
                    f"DeviceError: a run of {size} images takes {seconds:.3g} s, another device {fastest_s:.3g} s"
                )
            began_at = time.monotonic()
            self._run(model, [[self._golden.picture]] * size)
            seconds, tries = min(seconds, time.monotonic() - began_at), tries + 1
        return seconds

    def _end_wrong(self, error: WrongRow) -> NoReturn:
        self._end(f"{WRONG_EMBEDDING}: {error}", *self._golden.unseen())

    def _end(self, reason: str, doubtful_since: float = 0.0, doubtful: int = 0) -> NoReturn:
        print(f"{reason}: device {self._number} is taken out", flush=True)
        self._watch.took_out(doubtful_since, doubtful)
        os.kill(os.getpid(), signal.SIGKILL)  # no way out that the worker's other threads could hold up
        raise SystemExit


def call_with_retry(golden: GoldenRow, model: Any, instances: Sequence[Sequence[Array]]) -> Any:
    """Model.call in a worker beside the devices. Raises what the last attempt raised."""
    for _ in range(ATTEMPTS - 1):
        try:
            return golden.call(model, instances, _call)
        except Exception:
            time.sleep(PAUSE_S)
    return golden.call(model, instances, _call)


def _call(model: Any, instances: Sequence[Sequence[Array]]) -> Any:
    return model.call(instances)


def _finite(rows: Sequence[Sequence[Array]]) -> bool:
    return all(np.isfinite(row).all() for (row,) in rows)
