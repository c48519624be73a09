"""Files that are whole or not there, also after a power cut: written aside, synced, and only then named.

Folders are named last, too, and not synced.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """The file with new content; at any moment the old one or the new one. Raises OSError."""
    aside = unfinished(path)
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
    sync_folder(path.parent)


def unfinished(path: Path) -> Path:
    """Where `write_whole` writes what becomes `path`: what a process left there that was killed is replaced by the
    next."""
    return path.with_name(path.name + ".new")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to be filled, which takes its name when the block ends, also from one that is there, and is gone where
    it raises. Raises OSError."""
    aside, replaced = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "replaced"))
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.replace(replaced)
        aside.replace(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync_folder(path: Path) -> None:
    """The names in a folder, on the disk for good. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that cannot sync a folder keep its names in order anyway
            raise
    finally:
        os.close(descriptor)
