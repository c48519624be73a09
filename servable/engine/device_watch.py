"""What a device's worker is doing, for the server to see: one small file for each device, through a memory map.

The worker writes when a run of the network begins and ends, and when its device last proved itself; a run that hangs
shows without a question that would hang too. Standard library only: it is imported in workers as well.
"""

from __future__ import annotations

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
# Process, time of the last proof, begin of the oldest run under way (0 = none), taken out.
_ROW = struct.Struct("=qdd?")


@dataclass(frozen=True)
class DeviceState:
    """proved: it gave the right embedding. running_s: of the oldest run under way, 0 without one. taken_out: by its
    worker, which ends with it."""

    device: int
    pid: int
    proved: bool
    running_s: float
    taken_out: bool = False


class DeviceWatch:
    """A worker's own file in `directory`."""

    def __init__(self, directory: Path, device: int) -> None:
        with (directory / PATTERN.replace("*", str(device))).open("w+b") as file:
            file.truncate(_ROW.size)
            self._map = mmap.mmap(file.fileno(), 0)
        self._proved_at = 0.0
        self._taken_out = False
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

    def proved(self) -> None:
        with self._lock:
            self._proved_at = time.monotonic()
            self._write()

    def took_out(self) -> None:
        with self._lock:
            self._taken_out = True
            self._running.clear()
            self._write()

    def proved_within(self, seconds: float) -> bool:
        return self._proved_at > 0 and time.monotonic() - self._proved_at < seconds

    def _write(self) -> None:
        began_at = min(self._running, default=0.0)
        _ROW.pack_into(self._map, 0, os.getpid(), self._proved_at, began_at, self._taken_out)


def read(directory: Path) -> list[DeviceState]:
    """Of every device whose worker came so far. The process may have ended since."""
    states = []
    for file in sorted(directory.glob(PATTERN)):
        try:
            pid, proved_at, began_at, taken_out = _ROW.unpack(file.read_bytes())
        except (OSError, struct.error):  # being made
            continue
        running_s = time.monotonic() - began_at if began_at else 0.0
        states.append(DeviceState(int(file.stem.partition("-")[2]), pid, proved_at > 0, running_s, taken_out))
    return states
