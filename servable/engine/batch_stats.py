"""How often the network ran at each batch size, with how many real images, and how often a decoder was replaced:
counted in workers, read by the server.

A worker writes one small file of its own in the run directory, through a memory map: no system call and no reply
that waits. A worker that dies leaves its file, so the sums never go back; `take_ended` takes such files into a sum.
Standard library only: it is imported in workers as well.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

PATTERN = "batch-stats-*.bin"
_ROW = struct.Struct("=QQQ")  # batch size, runs, images; the last row: 0, decoders replaced, 0


class BatchStats:
    """The counters of one worker."""

    def __init__(self, run_dir: Path, batch_sizes: Sequence[int]) -> None:
        self._at = {size: index * _ROW.size for index, size in enumerate(batch_sizes)}
        self._totals = {size: (0, 0) for size in batch_sizes}
        self._lock = threading.Lock()
        self._decoders_at = len(self._at) * _ROW.size
        # Start time beside the process number: another worker may get the same one later.
        name = PATTERN.replace("*", f"{os.getpid()}-{os.stat('/proc/self').st_ctime_ns}")
        with (run_dir / name).open("w+b") as file:
            file.truncate(self._decoders_at + _ROW.size)
            self._map = mmap.mmap(file.fileno(), 0)
        for size in batch_sizes:
            self.count(size, runs=0, images=0)

    def count(self, batch_size: int, images: int, runs: int = 1) -> None:
        """One run of the network: `images` of its `batch_size` rows were real, the others padding."""
        with self._lock:
            before_runs, before_images = self._totals[batch_size]
            self._totals[batch_size] = totals = (before_runs + runs, before_images + images)
            _ROW.pack_into(self._map, self._at[batch_size], batch_size, *totals)

    def count_decoder_restarts(self, restarts: int) -> None:
        """So many in all, in this worker. From any one thread, also beside `count`."""
        _ROW.pack_into(self._map, self._decoders_at, 0, restarts, 0)


class Counts(NamedTuple):
    """runs: batch size -> (runs, images); fill is images / (runs * size). decoders: that ended unasked."""

    runs: Mapping[int, tuple[int, int]] = MappingProxyType({})
    decoders: int = 0


def read(run_dir: Path, ended: Counts = Counts()) -> Counts:
    """Of all workers whose files are in `run_dir`, and of those that have `ended`. Raises OSError.

    Empty where nothing was counted. A file that is being made, or has gone, counts as nothing.
    """
    for file in _files(run_dir):
        with suppress(FileNotFoundError):
            ended = _add(ended, file.read_bytes())
    return ended


def take_ended(run_dir: Path, ended: Counts) -> Counts:
    """Adds what workers counted that have ended since, and removes their files."""
    with suppress(OSError):  # the next time
        for file in _files(run_dir):
            if not _runs(int(file.name.split("-")[2])):
                data = file.read_bytes()
                file.unlink()
                ended = _add(ended, data)
    return ended


def _files(run_dir: Path) -> list[Path]:
    """glob would hide that a directory cannot be read."""
    try:
        return [run_dir / name for name in os.listdir(run_dir) if fnmatch(name, PATTERN)]
    except FileNotFoundError:
        return []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _add(counts: Counts, data: bytes) -> Counts:
    runs, decoders = dict(counts.runs), counts.decoders
    for start in range(0, len(data) - _ROW.size + 1, _ROW.size):
        size, first, second = _ROW.unpack_from(data, start)
        if size:
            before = runs.get(size, (0, 0))
            runs[size] = (before[0] + first, before[1] + second)
        else:
            decoders += first
    return Counts(runs, decoders)
