"""The output of a job as files below a folder: locks of the kernel, and shards that appear whole or not at all.

1. The shard's files are written to `.partial/<shard>-<unique>/` and synced, its stats last.
2. That folder is renamed to `.commit/<shard>/`: the moment from which the shard is there.
3. Its files are renamed to their places, the stats last, and the folder is removed.

A run that dies before 2 has done nothing; one that dies after it is finished by the next (`recover`), which only
repeats 3. A reader that knows nothing of this sees complete files only, because all of it is renaming.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO, Callable, Optional

from metric_learn_client.contract.whole_file import unfinished
from metric_learn_client.jobs.errors import RefusedError
from metric_learn_client.jobs.output import locks
from metric_learn_client.jobs.output.durable import output_errors, replace, sync_folder
from metric_learn_client.jobs.output.layout import DATA_FOLDERS, FILES, OWN_FOLDERS, is_shards, name_of, names_of
from metric_learn_client.jobs.output.output import Output

_unique = itertools.count()
# Of a new file system, and of a job that was killed before it had begun.
_NOBODYS = ("lost+found", unfinished(Path("job.json")).name)


class Directory(Output):
    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._root = folder.absolute()  # a worker on another node may have another working directory
        self._partial, self._commit = self._root / ".partial", self._root / ".commit"

    def attach(self, limit_s: float, stop: threading.Event, notice: Callable[[str], None]) -> None:
        """A disk is not waited for."""

    def check(self) -> None:
        if not self._root.exists():
            return
        with output_errors(Path(self.name)):
            others = [path.name for path in self._root.iterdir() if path.name not in (*OWN_FOLDERS, *_NOBODYS)]
        # In this order: another part may be making the job now, and job.json is the first that it writes here.
        if others and not self._holds_job():
            raise RefusedError(f"{self.name} is not empty and holds no job ({min(others)}); name another directory")

    def job_lock(self, num_shards: int, shard_index: int) -> AbstractContextManager[None]:
        return locks.job_lock(self._root, num_shards, shard_index)

    def plan_lock(self) -> AbstractContextManager[None]:
        return locks.plan_lock(self._root)

    def read(self, name: str) -> Optional[bytes]:
        with output_errors(Path(self.name) / name):
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        replace(self._root / name, content)

    def log(self, line: str) -> None:
        if not self._holds_job():  # a folder that was emptied, or a disk that is not mounted
            return
        with suppress(OSError), open(self._root / "runs.jsonl", "a") as file:
            file.write(line + "\n")

    def plan(self) -> Path:
        return self._root / ".plan"

    def save_plan(self) -> None:
        """It is there already."""

    def committed(self) -> list[int]:
        return sorted(int(file.stem) for file in (self._root / "stats").glob("*.json") if file.stem.isdigit())

    def open(self, name: str, shard: int) -> BinaryIO:
        waiting = self._committed_folder(shard) / Path(name).name
        return open(waiting if waiting.exists() else self._root / name, "rb")

    def replacing(self, shard: int) -> bool:
        return self._committed_folder(shard).is_dir()

    def recover(self, shards: Optional[Iterable[int]] = None) -> None:
        with output_errors(self._root):
            self._partial.mkdir(parents=True, exist_ok=True)
            self._commit.mkdir(exist_ok=True)
        mine = None if shards is None else set(shards)
        for folder in _folders(self._commit):
            if mine is None or int(folder.name) in mine:
                self._put_in_place(folder)
        for folder in _folders(self._partial):
            if mine is None or int(folder.name.split("-")[0]) in mine:
                shutil.rmtree(folder, ignore_errors=True)

    def begin(self, shard: int) -> Path:
        folder = self._partial / f"{shard:05d}-{os.getpid()}-{next(_unique)}"
        with output_errors(folder):
            folder.mkdir()
        return folder

    def finish(self, shard: int, folder: Path) -> None:
        """Steps 2 and 3 for a folder whose files are all written and synced."""
        try:
            sync_folder(folder)
            committed = self._committed_folder(shard)
            if committed.is_dir():
                self._put_in_place(committed)
            with output_errors(committed):
                os.rename(folder, committed)
            sync_folder(self._commit)
            self._put_in_place(committed)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def clear(self) -> None:
        with output_errors(Path(self.name)):
            for folder in ("stats", *OWN_FOLDERS, *DATA_FOLDERS):
                if folder in (*DATA_FOLDERS, ".seen"):
                    self._remove_shards(self._root / folder)
                elif folder != ".locks" and (self._root / folder).is_dir():
                    shutil.rmtree(self._root / folder)
            for name in FILES:
                (self._root / name).unlink(missing_ok=True)

    def free_bytes(self) -> Optional[int]:
        place = self._root
        while not place.exists():
            place = place.parent
        facts = os.statvfs(place)
        return facts.f_bavail * facts.f_frsize if facts.f_blocks else None  # some network file systems do not say

    def _holds_job(self) -> bool:
        return (self._root / "job.json").exists()

    def _remove_shards(self, folder: Path) -> None:
        """The files of shards that are in it, and the folder where nothing else is."""
        if not folder.is_dir():
            return
        for file in folder.iterdir():
            if is_shards(f"{folder.name}/{file.name}"):
                file.unlink()
        with suppress(OSError):  # somebody's own files
            folder.rmdir()

    def _committed_folder(self, shard: int) -> Path:
        return self._commit / f"{shard:05d}"

    def _put_in_place(self, committed: Path) -> None:
        """Step 3, from wherever it was left."""
        names = sorted(os.listdir(committed), key=lambda name: (name.endswith(".json"), name))
        for name in names:
            place = self._root / name_of(name)
            with output_errors(place.parent):
                place.parent.mkdir(exist_ok=True)
                if name.endswith(".json"):  # the mark comes after what it stands for, also on the disk
                    self._remove_others(committed / name)
                    for other in (*DATA_FOLDERS, ".seen"):
                        if (self._root / other).is_dir():
                            sync_folder(self._root / other)
                os.replace(committed / name, place)
        sync_folder(self._root / "stats")
        with output_errors(committed):
            committed.rmdir()

    def _remove_others(self, stats: Path) -> None:
        """The files that the shard had before and has not any more: embeddings, where now all of its rows failed."""
        kept = json.loads(stats.read_text())["files"]
        for name in names_of(int(stats.stem)):
            if name.startswith(DATA_FOLDERS) and not name.startswith("stats/") and name not in kept:
                (self._root / name).unlink(missing_ok=True)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir())
