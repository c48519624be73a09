"""What a run tells while it works. Observers show it; they decide nothing."""

from __future__ import annotations

from typing import Any


class Observer:
    """Says nothing. All methods are called on the thread of the run, but `notice`, which any thread calls."""

    def started(self, rows: int, done_rows: int, failed_rows: int, shards: int, done_shards: int) -> None:
        """rows: of this run's part of the job; done and failed: what earlier runs left."""

    def advanced(self, rows: int, failed: int) -> None:
        """So many more rows are embedded or have failed; they are not on the disk yet."""

    def committed(self, stats: dict[str, Any]) -> None:
        """A shard is on the disk."""

    def notice(self, text: str) -> None:
        """Something a person should read."""

    def finished(self) -> None:
        """The run is over, however it ended."""
