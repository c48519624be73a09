"""Where bytes come from: the local disk, or whatever fsspec reaches. Reads only.

One interface for both: list a folder, open a file, read a whole file up to a limit, read a range of it. A name with
"://" is fsspec's. Local names are handled as bytes, because a file name need not be text.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO, NamedTuple, Optional, Union

from metric_learn_client.jobs import remote
from metric_learn_client.jobs.errors import InputError, RowError
from metric_learn_client.jobs.remote import filesystem_of, reason_of

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(://|::.*://)")  # also fsspec's chains: simplecache::s3://...
_CODES = {
    errno.ENOENT: ("E_NOT_FOUND", "no such file"),
    errno.ENOTDIR: ("E_NOT_FOUND", "a part of its path is not a folder"),
    errno.EACCES: ("E_PERMISSION", "permission denied"),
    errno.EPERM: ("E_PERMISSION", "not permitted"),
    errno.EISDIR: ("E_READ", "it is a folder"),
}


class Entry(NamedTuple):
    """One name in a folder, without the folder."""

    name: Union[str, bytes]
    is_folder: bool


def is_url(name: str) -> bool:
    return bool(_URL.match(name))


def place_of(root: Optional[str], name: str, raw: Optional[bytes]) -> Union[str, bytes]:
    """Where a planned row's file is: a URL, or a path. root: of the plan; name, raw: of the row (see input_rows)."""
    if is_url(name):
        return name
    if raw is not None and is_url(os.fsdecode(raw)):
        return os.fsdecode(raw)
    if root is not None and is_url(root) and not (raw or b"").startswith(b"/"):
        return under(root, name)
    return os.path.join(os.fsencode(root or ""), os.fsencode(name) if raw is None else raw)


def under(folder: str, name: str) -> str:
    """The URL of a name below that of a folder."""
    return f"{folder.rstrip('/')}/{name.lstrip('/')}"


def scan(folder: Union[str, bytes]) -> list[Entry]:
    """The entries of a folder (local: bytes; URL: str), unsorted. Raises InputError where it cannot be listed."""
    try:
        if isinstance(folder, bytes):
            with os.scandir(folder) as entries:
                return [Entry(entry.name, _is_folder(entry)) for entry in entries]
        filesystem, path = filesystem_of(folder)
        listed = filesystem.ls(path, detail=True)
    except Exception as error:
        name = os.fsdecode(folder)
        raise InputError(f"{name}: the folder cannot be listed: {reason_of(error)}") from error
    own = path.rstrip("/")
    entries_ = ((item["name"].rstrip("/"), item["type"] == "directory") for item in listed)
    return [Entry(name.rsplit("/", 1)[-1], is_folder) for name, is_folder in entries_ if name != own]


def forget_listings(names: Iterable[str]) -> None:
    """What fsspec remembers of the stores of these URLs: a program that runs for long finds what is there now."""
    for url in {"/".join(name.split("/")[:3]): name for name in names if is_url(name)}.values():
        with suppress(Exception):  # a store that cannot be reached says so where it is read
            filesystem_of(url)[0].invalidate_cache()


def require(url: str) -> None:
    """Raises InputError where nothing installed can read this kind of URL, before every row of it fails."""
    try:
        filesystem_of(url)
    except Exception as error:
        raise InputError(f"{url}: {reason_of(error)}") from error


def open_file(name: Union[str, bytes]) -> BinaryIO:
    """The file, open for seeking and reading. Raises InputError."""
    try:
        if isinstance(name, str) and is_url(name):
            filesystem, path = filesystem_of(name)
            opened: BinaryIO = filesystem.open(path, "rb")
            return opened
        return open(name, "rb")
    except Exception as error:
        raise InputError(f"{os.fsdecode(name)}: {reason_of(error)}") from error


def read_image(name: Union[str, bytes], limit: int, timeout_s: float) -> bytes:
    """The whole file; a file over `limit` bytes is not read. timeout_s: for what comes from a URL. Raises RowError."""
    if isinstance(name, str) and is_url(name):
        return _within(remote.read(name, 0, limit + 1, timeout_s, whole=True), limit)
    try:
        # Non-blocking, because opening a named pipe for reading waits for a writer.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(descriptor)
            if stat.S_ISDIR(facts.st_mode):
                raise OSError(errno.EISDIR, "it is a folder")
            if not stat.S_ISREG(facts.st_mode):
                raise RowError("E_READ", "it is not a regular file")
            if facts.st_size > limit:
                raise RowError("E_TOO_LARGE", f"{facts.st_size} bytes; the limit is {limit}")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return _within(file.read(limit + 1), limit)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise row_error(error) from None
    except ValueError:  # a NUL byte in the name
        raise RowError("E_READ", "not a possible file name") from None


def read_range(name: str, start: int, size: int, timeout_s: float) -> bytes:
    """Bytes [start, start + size) of a file, fewer where it ends before. Raises RowError."""
    if is_url(name):
        return remote.read(name, start, start + size, timeout_s, whole=False) if size else b""
    try:
        with open(name, "rb") as file:
            file.seek(start)
            return file.read(size)
    except OSError as error:
        raise row_error(error) from None


def row_error(error: OSError) -> RowError:
    """What an operating system's error means for one row; never with a path in it: the row has that already."""
    code, text = _CODES.get(error.errno or 0, ("E_READ", error.strerror or type(error).__name__))
    return RowError(code, text)


def _within(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise RowError("E_TOO_LARGE", f"more than {limit} bytes, the limit")
    return content


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
