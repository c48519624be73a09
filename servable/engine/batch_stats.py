"""How often the network ran at each batch size, with how many real images, and how often a decoder was replaced:
counted in workers, read by the server.

A worker writes one small file of its own in the run directory, through a memory map: no system call and no reply
that waits. A worker that dies leaves its file, so the sums never go back. Standard library only: it is imported
in workers as well.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

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


def read(run_dir: Path) -> dict[int, tuple[int, int]]:
    """Batch size -> (runs, images) over all workers that have run in `run_dir`. Fill is images / (runs * size).

    Empty where nothing was counted. A file that is being made, or has gone, counts as nothing. Raises OSError.
    """
    totals = _sums(run_dir)
    totals.pop(0, None)
    return totals


def decoder_restarts(run_dir: Path) -> int:
    """Decoders that ended unasked and were replaced, over all workers that have run in `run_dir`."""
    return _sums(run_dir).get(0, (0, 0))[0]


def _sums(run_dir: Path) -> dict[int, tuple[int, int]]:
    totals: dict[int, tuple[int, int]] = {}
    for file in run_dir.glob(PATTERN):
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            continue
        for start in range(0, len(data) - _ROW.size + 1, _ROW.size):
            size, runs, images = _ROW.unpack_from(data, start)
            before = totals.get(size, (0, 0))
            totals[size] = (before[0] + runs, before[1] + images)
    return totals
