"""Files that a command writes: refused before any work where they cannot be, whole or not there, and never lost.

An output that cannot be written after the work was done is written somewhere else, and the error says where.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

import click

from metric_learn_client.errors import MetricLearnError


class OutputFileError(MetricLearnError):
    """The output could not be written; the message says where what was made is now."""


class OutputFile(click.Path):
    """The type of an option that names a file to be written. A folder, or a file in none, is a usage error."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        problem = why_not(path)
        if problem is not None:
            self.fail(problem, param, ctx)
        return path


def why_not(path: Path) -> Optional[str]:
    """Why no file of this name can be written; None where it can, as far as can be told now."""
    if path.is_dir():
        return f"{path}: it is a folder; name a file"
    if not path.parent.is_dir():
        return f"{path}: no such folder: {path.parent}"
    if not path.exists() and not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path}: no file can be made in {path.parent}: permission denied"
    return None


class OutputFolder(click.Path):
    """The type of an option that names a folder to be made; where that is plainly impossible it is a usage error."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if os.path.lexists(path):
            self.fail(f"{path} exists; name a new folder, or remove it", param, ctx)
        above = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            self.fail(f"{path}: no folder can be made in {above}", param, ctx)
        return path


class WholeFile:
    """A file beside `path` that takes its name when all is written. reserve: bytes taken on the disk now, so that a
    full one is known before the work; OSError where they are not there."""

    def __init__(self, path: Path, reserve: int = 0) -> None:
        self._path = path
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        self._aside = Path(aside)
        self._file = os.fdopen(handle, "wb")
        try:
            _reserve(handle, reserve)
        except OSError as error:
            self.discard()
            raise OutputFileError(
                f"{path}: {error.strerror}: it will have up to {reserve / 1e6:,.1f} MB; free some space, or write it"
                " to another disk"
            ) from error

    def write(self, content: Callable[[BinaryIO], None]) -> None:
        """Calls content(file), for what is there all at once. Where it cannot be written here it is written to the
        folder for temporary files. Raises OutputFileError, which says so."""
        try:
            content(self._file)
            self._name()
        except OSError as error:
            self.discard()
            raise OutputFileError(f"{self._path}: {error.strerror}; {_elsewhere(self._path, content)}") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """For what comes bit by bit: whatever an OSError leaves of it is kept under its name aside. Raises
        OutputFileError with that name. Anything else that is raised removes it."""
        try:
            yield self._file
            self._name()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            raise OutputFileError(f"{self._path}: {error.strerror}; what was written is in {self._aside}") from error
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._aside.unlink(missing_ok=True)

    def _name(self) -> None:
        self._file.flush()
        self._file.truncate()  # what was reserved and not needed
        self._file.close()
        umask = os.umask(0)
        os.umask(umask)
        self._aside.chmod(0o666 & ~umask)  # mkstemp's 0600 is not what a user expects of an output
        self._aside.replace(self._path)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all; what is no regular file, as /dev/stdout and a link, is written to where it is. Raises
    OutputFileError, which says where the text is now."""

    def content(file: BinaryIO) -> None:
        file.write(text.encode())

    if os.access(path.parent, os.W_OK | os.X_OK) and (not os.path.lexists(path) or stat.S_ISREG(path.lstat().st_mode)):
        WholeFile(path).write(content)
        return
    try:
        with open(path, "wb") as file:
            content(file)
    except OSError as error:
        raise OutputFileError(f"{path}: {error.strerror}; {_elsewhere(path, content)}") from error


def _reserve(handle: int, size: int) -> None:
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # a file system that cannot
                raise


def _elsewhere(path: Path, content: Callable[[BinaryIO], None]) -> str:
    """Writes it to a temporary folder; says where."""
    try:
        folder = tempfile.mkdtemp(prefix="metric-learn-")
        with open(os.path.join(folder, path.name), "wb") as file:
            content(file)
        return f"it is in {file.name} instead"
    except OSError as error:
        return f"and {tempfile.gettempdir()} takes it neither: {error.strerror}"
