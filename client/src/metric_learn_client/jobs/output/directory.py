"""The output of a job as files below a folder: locks of the kernel, and commits by renaming."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO, Callable, Optional

from metric_learn_client.jobs.errors import RefusedError
from metric_learn_client.jobs.output import commit, locks
from metric_learn_client.jobs.output.durable import output_errors, replace
from metric_learn_client.jobs.output.layout import DATA_FOLDERS, FILES, OWN_FOLDERS, Layout
from metric_learn_client.jobs.output.output import Output


class Directory(Output):
    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self._layout = Layout(root.absolute())  # a worker on another node may have another working directory
        self.root = root

    def attach(self, limit_s: float, stop: threading.Event, notice: Callable[[str], None]) -> None:
        """A disk is not waited for."""

    def check(self) -> None:
        if self._holds_job() or not self._layout.root.exists():
            return
        with output_errors(self.root):
            others = [
                path.name for path in self._layout.root.iterdir() if path.name not in (*OWN_FOLDERS, "lost+found")
            ]
        if others:
            raise RefusedError(f"{self.name} is not empty and holds no job ({min(others)}); name another directory")

    def job_lock(self, num_shards: int, shard_index: int) -> AbstractContextManager[None]:
        return locks.job_lock(self._layout, num_shards, shard_index)

    def plan_lock(self) -> AbstractContextManager[None]:
        return locks.plan_lock(self._layout)

    def read(self, name: str) -> Optional[bytes]:
        with output_errors(self.root / name):
            try:
                return (self._layout.root / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        replace(self._layout.root / name, content)

    def log(self, line: str) -> None:
        if not self._holds_job():  # a folder that was emptied, or a disk that is not mounted
            return
        with suppress(OSError), open(self._layout.root / "runs.jsonl", "a") as file:
            file.write(line + "\n")

    def plan(self) -> Path:
        return self._layout.plan

    def save_plan(self) -> None:
        """It is there already."""

    def committed(self) -> list[int]:
        folder = self._layout.root / "stats"
        if not folder.is_dir():
            return []
        return sorted(int(file.stem) for file in folder.glob("*.json") if file.stem.isdigit())

    def open(self, name: str, shard: int) -> BinaryIO:
        return open(self._layout.place(name, shard), "rb")

    def replacing(self, shard: int) -> bool:
        return (self._layout.commit / f"{shard:05d}").is_dir()

    def prepare(self) -> None:
        commit.prepare(self._layout)

    def recover(self, shards: Optional[Iterable[int]] = None) -> None:
        commit.recover(self._layout, shards)

    def begin(self, shard: int) -> Path:
        return commit.begin(self._layout, shard)

    def finish(self, shard: int, folder: Path) -> None:
        try:
            commit.finish(self._layout, shard, folder)
        except BaseException:
            commit.discard(folder)
            raise

    def clear(self) -> None:
        with output_errors(self.root):
            for folder in ("stats", *OWN_FOLDERS, *DATA_FOLDERS):
                if folder != ".locks" and (self._layout.root / folder).is_dir():
                    shutil.rmtree(self._layout.root / folder)
            for name in FILES:
                (self._layout.root / name).unlink(missing_ok=True)

    def _holds_job(self) -> bool:
        return (self._layout.root / "job.json").exists()

    def free_bytes(self) -> Optional[int]:
        place = self._layout.root
        while not place.exists():
            place = place.parent
        facts = os.statvfs(place)
        return facts.f_bavail * facts.f_frsize if facts.f_blocks else None  # some network file systems do not say
