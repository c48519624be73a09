"""MindSpore Serving's output in a file that cannot grow without bound.

MindSpore Serving 2.0.2 rotates nothing and logs a traceback for every bad image. Its processes write into a pipe; a
thread here carries what comes out into `path`, which becomes `path.1` at half of the bound.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO, Optional

BLOCK_BYTES = 65536
LAST_LINES = 200
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception): ")  # the last line of a traceback


class BoundedLog:
    """Several pipes may feed one log. A full disk loses log, never service: the pipe is read on."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._half = max(1, max_bytes // 2)
        self._lock = threading.Lock()
        self._file: Optional[BinaryIO] = None
        self._size = 0

    def write(self, data: bytes) -> None:
        with self._lock:
            try:
                if self._file is None:
                    self._file = self.path.open("ab", buffering=0)
                    self._size = self._file.tell()
                if self._size + len(data) > self._half and self._size:
                    self._file.close()
                    self._file = None
                    os.replace(self.path, f"{self.path}.1")
                    self._file = self.path.open("ab", buffering=0)
                    self._size = 0
                self._size += self._file.write(data[-self._half :]) or 0
            except OSError:
                self._file = None

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


class Carrier:
    """Carries one pipe into a log until every writer has closed it; remembers the last lines."""

    def __init__(self, pipe: int, log: BoundedLog) -> None:
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._thread = threading.Thread(target=self._carry, args=(pipe, log), daemon=True, name="backend-log")
        self._thread.start()

    def _carry(self, pipe: int, log: BoundedLog) -> None:
        unfinished = b""  # a line arrives in as many pieces as its writer made of it
        with os.fdopen(pipe, "rb", buffering=0) as source:
            while True:
                data = source.read(BLOCK_BYTES)
                log.write(data)
                *lines, unfinished = (unfinished + data).split(b"\n") if data else (unfinished, b"")
                self._remember(lines)
                if not data:
                    return
                unfinished = unfinished[-BLOCK_BYTES:]

    def _remember(self, lines: list[bytes]) -> None:
        self.last_lines.extend(line.decode(errors="replace") for line in lines if line.strip())

    def finish(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def why(self) -> str:
        """The last exception, else the last line that names an error, or nothing."""
        lines = [line.strip() for line in self.last_lines]
        # What MindSpore Serving logs after an exception says less: that a worker ended, that calls are given up.
        named = [line for line in lines if _EXCEPTION.match(line)]
        named = named or [line for line in lines if "Error" in line or "ERROR" in line or "error:" in line]
        return named[-1][:300] if named else ""
