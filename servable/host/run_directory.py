"""The private run directory: found, made and proved to be this user's, by its descriptor and not by its name.

Who can write into it gives orders to the server, and its usual place, below /tmp, is a name that anybody can take
first. So no link is followed into it, and nothing that the server did not make has its mode changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

MODE = 0o700


class NotPrivateError(Exception):
    """what: is wrong with the directory; remedy: what to do."""

    def __init__(self, what: str, remedy: str = "choose another") -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


def locate(given: Path) -> Path:
    """`given` without links above it; one in its place stays, for `open_private` to refuse."""
    plain = Path(os.path.abspath(given))
    return plain.parent.resolve() / plain.name


def make(path: Path) -> None:
    """Where nothing is there yet. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # `open_private` looks at whose it is
        path.mkdir(MODE)


def open_private(path: Path) -> int:
    """A descriptor of the directory. Raises NotPrivateError, FileNotFoundError and other OSErrors."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EACCES):
            raise
        raise _refusal(path.lstat(), link=path.is_symlink()) from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o777 != MODE:
            raise _refusal(status, link=False)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _refusal(status: os.stat_result, *, link: bool) -> NotPrivateError:
    me = os.geteuid()
    if link:
        whose = "" if status.st_uid == me else f" of another user ({status.st_uid})"
        return NotPrivateError(f"is a symbolic link{whose}, which could point anywhere", "give the directory itself")
    if not stat.S_ISDIR(status.st_mode):
        return NotPrivateError("is not a directory")
    if status.st_uid != me:
        return NotPrivateError(
            f"belongs to user {status.st_uid}, not to this one ({me})",
            "choose another: whoever owns it could give orders to the server",
        )
    mode = stat.S_IMODE(status.st_mode) & 0o777
    return NotPrivateError(
        f"has mode {mode:04o}, not {MODE:04o}", "choose a new one, or `chmod 700` it if nothing else uses it"
    )
