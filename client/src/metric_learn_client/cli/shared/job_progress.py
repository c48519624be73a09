"""What a job shows while it works: a bar on a terminal, a line now and then in a log, or JSON lines."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, Optional

import click
from tqdm import tqdm

from metric_learn_client.jobs.observer import Observer

_LINE_EVERY_S = 30.0
_JSON_EVERY_S = 1.0


class Progress(Observer):
    """Counts; the classes below show."""

    def __init__(self) -> None:
        self.begun = False
        self.rows = self.done = self.failed = self.shards = self.done_shards = 0
        self._rows_before = 0
        self._since = time.monotonic()
        self._shown = 0.0
        self._lock = threading.Lock()

    def started(self, rows: int, done_rows: int, failed_rows: int, shards: int, done_shards: int) -> None:
        self.begun = True
        self.rows, self.done, self.failed = rows, done_rows, failed_rows
        self.shards, self.done_shards = shards, done_shards
        self._rows_before = done_rows
        self._since = time.monotonic()

    def advanced(self, rows: int, failed: int) -> None:
        self.done += rows
        self.failed += failed

    def committed(self, _stats: dict[str, Any]) -> None:
        self.done_shards = min(self.shards, self.done_shards + 1)

    @property
    def rate(self) -> float:
        """Rows per second of this run."""
        return (self.done - self._rows_before) / max(1e-9, time.monotonic() - self._since)

    @property
    def left_s(self) -> Optional[float]:
        return (self.rows - self.done) / self.rate if self.rate > 0 else None

    def due(self, every_s: float) -> bool:
        now = time.monotonic()
        if now - self._shown < every_s:
            return False
        self._shown = now
        return True


class Bar(Progress):
    """tqdm on stderr; where that is no terminal, a line every 30 s."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._shown = time.monotonic()

    def started(self, rows: int, done_rows: int, failed_rows: int, shards: int, done_shards: int) -> None:
        super().started(rows, done_rows, failed_rows, shards, done_shards)
        if sys.stderr.isatty():
            # A terminal that does not know its width (CI, `docker exec -t`) says 0, and tqdm would show nothing.
            known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
            width = {"dynamic_ncols": True} if known else {"ncols": 100, "nrows": 20}
            self._bar = tqdm(total=rows, initial=done_rows, unit="row", smoothing=0.05, **width)

    def advanced(self, rows: int, failed: int) -> None:
        super().advanced(rows, failed)
        if self._bar is not None:
            self._bar.set_postfix({"failed": self.failed, "shards": f"{self.done_shards}/{self.shards}"}, refresh=False)
            self._bar.update(rows)
        elif self.due(_LINE_EVERY_S):
            left = "?" if self.left_s is None else f"{self.left_s:.0f} s"
            self.notice(f"{self.done} of {self.rows} rows, {self.failed} failed, {self.rate:.1f} rows/s, {left} left")

    def notice(self, text: str) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                click.echo(text, err=True)

    def finished(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class JsonLines(Progress):
    """One object a line on stdout: started, progress (once a second), shard, notice; the command adds a summary."""

    def __init__(self) -> None:
        super().__init__()
        self._stdout = sys.stdout  # what it is now: the command keeps others off it while the job runs

    def started(self, rows: int, done_rows: int, failed_rows: int, shards: int, done_shards: int) -> None:
        super().started(rows, done_rows, failed_rows, shards, done_shards)
        self._say("started", rows=rows, done=done_rows, failed=failed_rows, shards=shards, done_shards=done_shards)

    def advanced(self, rows: int, failed: int) -> None:
        super().advanced(rows, failed)
        if self.due(_JSON_EVERY_S):
            left = None if self.left_s is None else round(self.left_s, 1)
            self._say(
                "progress",
                rows=self.rows,
                done=self.done,
                failed=self.failed,
                rows_per_s=round(self.rate, 2),
                left_s=left,
            )

    def committed(self, stats: dict[str, Any]) -> None:
        super().committed(stats)
        self._say("shard", **{name: stats[name] for name in ("shard", "first_row", "rows", "succeeded", "failed")})

    def notice(self, text: str) -> None:
        self._say("notice", text=text)

    def _say(self, event: str, **facts: Any) -> None:
        with self._lock:
            click.echo(json.dumps({"event": event, **facts}), file=self._stdout)
            self._stdout.flush()
