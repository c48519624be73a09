"""Where a job's files go, and how they get there whole: one interface, for a folder and for an object store.

A shard's files are written to a folder of this machine (`begin`) and committed from there (`finish`): whole or not at
all, replaced whole, by one writer. What a run committed and could not put in place any more is finished by `recover`;
until then `open` finds it.
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Callable, Optional, Union

from metric_learn_client.jobs.errors import RefusedError


class Output(ABC):
    """One output directory. It can be pickled: a copy in a worker process commits under the lock of the first.

    name: as it is shown. Methods raise OutputError; for a store also AccessError and OutageError, and Stopped.
    """

    name: str

    @abstractmethod
    def attach(self, limit_s: float, stop: threading.Event, notice: Callable[[str], None]) -> None:
        """How long an outage of a store is waited for, what ends such a wait, and who is told of it."""

    @abstractmethod
    def check(self) -> None:
        """Raises RefusedError for a directory that holds something and no job, or cannot hold one."""

    @abstractmethod
    def job_lock(self, num_shards: int, shard_index: int) -> AbstractContextManager[None]:
        """Held while a run, or one part of a divided one, works. Raises RefusedError where another one does."""

    @abstractmethod
    def plan_lock(self) -> AbstractContextManager[None]:
        """Waits for other parts of a divided job while they plan."""

    @abstractmethod
    def read(self, name: str) -> Optional[bytes]:
        """A small file, None where it is not there."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """The file with new content: at any moment the old one or the new one."""

    @abstractmethod
    def log(self, line: str) -> None:
        """Adds a line to runs.jsonl if that can be: it is no part of the data, and hides no reason why a run ends."""

    @abstractmethod
    def plan(self) -> Path:
        """The folder of the plan on this machine, as the output has it."""

    @abstractmethod
    def save_plan(self) -> None:
        """What was planned there becomes the output's."""

    @abstractmethod
    def committed(self) -> list[int]:
        """The shards that are there, ascending."""

    @abstractmethod
    def open(self, name: str, shard: int) -> BinaryIO:
        """A file of a shard that is there, wherever it is at present. Raises FileNotFoundError."""

    @abstractmethod
    def replacing(self, shard: int) -> bool:
        """Whether a commit of the shard is not all in its place."""

    @abstractmethod
    def recover(self, shards: Optional[Iterable[int]] = None) -> None:
        """Before the first `begin`: finishes what was committed and removes what was not; `shards`: only these, because
        others' are being written."""

    @abstractmethod
    def begin(self, shard: int) -> Path:
        """An empty folder for the shard's files, under their own names."""

    @abstractmethod
    def finish(self, shard: int, folder: Path) -> None:
        """Commits the files of the folder, which is gone afterwards."""

    @abstractmethod
    def clear(self) -> None:
        """Removes a job's files, the marks of its shards first, and nothing that is not a job's."""

    def free_bytes(self) -> Optional[int]:
        """What can still be written, None where there is no such limit."""
        return None


def open_output(where: Union[str, Path]) -> Output:
    """Raises RefusedError for a place that no output can be written to. Nothing is read or written yet."""
    from metric_learn_client.jobs.output.directory import Directory
    from metric_learn_client.jobs.storage import is_url

    if where == "":
        raise RefusedError("--output-dir is empty: name a directory; '.' is the working directory")
    if re.match("[A-Za-z][A-Za-z0-9+.-]+:/(?!/)", str(where)):  # Path makes one slash of two
        raise RefusedError(f"{where}: is it meant as a URL? Give it as text, with two slashes; a folder as ./{where}")
    if isinstance(where, str) and is_url(where):
        from metric_learn_client.jobs.output.objects.bucket import Bucket

        return Bucket(where)
    return Directory(Path(where))
