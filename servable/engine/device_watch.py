"""What a device's worker is doing, for the server to see: one small file for each device, through a memory map.

The worker writes when a run of the network begins and ends, and when its device last proved itself; a run that hangs
shows without a question that would hang too. Standard library only: it is imported in workers as well.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATTERN = "device-*.state"
WRONG_EMBEDDING = "WrongEmbeddingError"  # how a worker begins its last words where its device gives wrong numbers
# Process, time of the last proof, what a full run took then, begin of the oldest run under way (0 = none) or when it
# was taken out, taken out, since when and how many of its rows are doubtful.
_ROW = struct.Struct("=qddd?dq")


@dataclass(frozen=True)
class DeviceState:
    """proved: it gave the right embedding. full_run_s: what a run of the largest batch size took then. running_s: of
    the oldest run under way, also where its worker ended in it; 0 without one. taken_out: by its worker, which ends
    with it. doubtful: images that it had answered by then and of which nothing tells that they were right; since when,
    monotonic."""

    device: int
    pid: int
    proved: bool
    full_run_s: float
    running_s: float
    taken_out: bool = False
    doubtful: int = 0
    doubtful_since: float = 0.0


class DeviceWatch:
    """A worker's own file in `directory`."""

    def __init__(self, directory: Path, device: int) -> None:
        with (directory / PATTERN.replace("*", str(device))).open("w+b") as file:
            file.truncate(_ROW.size)
            self._map = mmap.mmap(file.fileno(), 0)
        self._directory, self._device = directory, device
        self._proved_at, self._full_run_s = 0.0, 0.0
        self._taken_out: tuple[bool, float, int] = (False, 0.0, 0)
        self._running: list[float] = []  # when they began
        self._lock = threading.Lock()
        self._write()

    @contextmanager
    def run(self) -> Iterator[None]:
        """Around a run; several may be under way."""
        began_at = time.monotonic()
        with self._lock:
            self._running.append(began_at)
            self._write()
        yield
        with self._lock:
            self._running.remove(began_at)
            self._write()

    def proved(self, full_run_s: float) -> None:
        with self._lock:
            self._proved_at, self._full_run_s = time.monotonic(), full_run_s
            self._write()

    def took_out(self, doubtful_since: float, doubtful: int) -> None:
        with self._lock:
            self._taken_out = (True, doubtful_since, doubtful)
            self._running = [time.monotonic()]  # so that its end is known as one in the network
            self._write()

    def proved_within(self, seconds: float) -> bool:
        return self._proved_at > 0 and time.monotonic() - self._proved_at < seconds

    def fastest_other_s(self) -> float:
        """What a full run takes on the fastest of the other devices that work; infinite where there is none."""
        others = [state for state in read(self._directory) if state.device != self._device and not state.taken_out]
        return min((each.full_run_s for each in others if each.proved and _lives(each.pid)), default=math.inf)

    def _write(self) -> None:
        began_at = min(self._running, default=0.0)
        row = (os.getpid(), self._proved_at, self._full_run_s, began_at, *self._taken_out)
        _ROW.pack_into(self._map, 0, *row)


def read(directory: Path) -> list[DeviceState]:
    """Of every device whose worker came so far. The process may have ended since."""
    states = []
    for file in sorted(directory.glob(PATTERN)):
        try:
            pid, proved_at, full_run_s, began_at, taken_out, since, doubtful = _ROW.unpack(file.read_bytes())
        except (OSError, struct.error):  # being made
            continue
        running_s = time.monotonic() - began_at if began_at else 0.0
        number = int(file.stem.partition("-")[2])
        states.append(DeviceState(number, pid, proved_at > 0, full_run_s, running_s, taken_out, doubtful, since))
    return states


def ran_since(directory: Path, at: float) -> bool:
    """Whether a device was taken out after `at` (monotonic), or a run that began since is under way, or saw the end of
    its worker."""
    now = time.monotonic()
    return any(state.running_s and now - state.running_s >= at for state in read(directory))


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
