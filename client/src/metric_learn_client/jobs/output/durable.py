"""Files that are whole or not there: written, synced, and only then named. Errors say which file and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metric_learn_client.contract import whole_file
from metric_learn_client.jobs.errors import OutputError


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """OSErrors on `path` become OutputErrors that say how to go on."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "see to the disk"
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: {reason}; {remedy} and run the same command again: it goes on") from error


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file, on the disk for good when the block ends."""
    with output_errors(path), open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """The names in a folder, on the disk for good."""
    with output_errors(path):
        whole_file.sync_folder(path)


def replace(path: Path, content: bytes) -> None:
    """The file with new content; at any moment the old one or the new one."""
    with output_errors(path):
        whole_file.write_whole(path, content)
