"""Folders of a run in the temporary directory. What a dead process left there goes with the next run of any job.

Whoever made a folder holds its lock (flock of the folder itself), which the kernel lets go of when the process ends,
however it ends: so a folder that can be locked is nobody's any more, and age says nothing. Where a file system cannot
lock folders (NFS), nothing is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional

from metric_learn_client.jobs.output.durable import output_errors

_PREFIX = "metric-learn-job-"


class Scratch:
    """A folder of this process, until `close`, or until nothing refers to it or the process ends."""

    def __init__(self) -> None:
        """Raises OutputError."""
        place, held = Path(tempfile.gettempdir()), None
        _remove_left(place)
        while held is None:
            with output_errors(place):
                self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
                held = _held(self.folder)
        self._finalizer = weakref.finalize(self, _remove, self.folder, held)

    def close(self) -> None:
        self._finalizer()


def _held(folder: Path) -> Optional[int]:
    """The descriptor that holds its lock; None where somebody took it for a dead one's before it was locked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # no locks here
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(folder), os.fstat(descriptor)):
            return descriptor
    os.close(descriptor)
    return None


def _remove(folder: Path, descriptor: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)


def _remove_left(place: Path) -> None:
    """Removes this user's folders that no process holds."""
    with suppress(OSError):
        for folder in place.glob(f"{_PREFIX}*"):
            with suppress(OSError), _locked(folder):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises OSError where the folder is another user's, is none, or is held."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
