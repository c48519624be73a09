"""The members of a tar file and where their bytes lie. Every member is given, whatever its kind; nothing is extracted.

Source: POSIX.1-2001, pax Interchange Format, and the GNU tar manual, "Basic Tar Format"; read with Python's tarfile.
Links are looked up in their own archive, never on the disk. `cat a.tar b.tar` is read as GNU tar does with
--ignore-zeros, except that what is not a member behind an end marker is an error.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Optional

_LINK_HOPS = 40  # as many as Linux follows
_ZEROS_BYTES = 1 << 20
_MOST_BYTES = 1 << 62  # of a member; past it no file is


class Member(NamedTuple):
    """name: with surrogates where it is not UTF-8; offset, size: of its bytes; problem: why it has none."""

    name: str
    offset: int
    size: int
    problem: Optional[str] = None


_NOWHERE = Member("", -1, 0, "a link to what is not in the archive")


def members(file: BinaryIO) -> Iterator[Member]:
    """All but folders, in order. Reading `file` elsewhere between two members is allowed. Raises tarfile.TarError."""
    places: Optional[dict[int, Member]] = None
    for header in _headers(file):
        if header.isdir():
            continue
        if header.islnk() or header.issym():
            if places is None:
                places = _linked(file)
            yield places.get(header.offset, _NOWHERE)._replace(name=header.name)
        else:
            yield _plain(header)


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Of every archive in the file, one behind the other."""
    start: Optional[int] = file.seek(0)
    while start is not None:
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                for header in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep every header of the archive
                    _check_size(header)
                    yield header
                start = _next_archive(file, tar.offset)  # type: ignore[attr-defined]
        except (tarfile.TarError, OSError):
            raise
        except Exception as error:  # tarfile lets a damaged number or map in a header out as it comes
            raise tarfile.ReadError(f"a damaged header ({type(error).__name__}: {error})") from error


def _check_size(header: tarfile.TarInfo) -> None:
    """Raises tarfile.ReadError: a size below zero leads back to where the reading was before, and round for ever."""
    if not 0 <= header.size < _MOST_BYTES:
        raise tarfile.ReadError(f"by its header {header.name!r} has {header.size:.3g} bytes")


def _next_archive(file: BinaryIO, end: int) -> Optional[int]:
    """Where the archive behind the one that ends at `end` begins, None where zeros are all that is left."""
    file.seek(end)
    # tarfile takes an archive that is cut off inside a header for one that ends there; its marker tells.
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"at byte {end} is neither a member nor an end marker: it is cut off or damaged")
    at = end + tarfile.BLOCKSIZE
    while block := file.read(_ZEROS_BYTES):
        zeros = len(block) - len(block.lstrip(b"\0"))
        if zeros < len(block):
            return at + zeros - zeros % tarfile.BLOCKSIZE
        at += len(block)
    return None


def _plain(header: tarfile.TarInfo) -> Member:
    if header.issparse():
        return Member(header.name, -1, 0, "stored as a sparse file; pack it again without --sparse")
    if not header.isreg():
        return Member(header.name, -1, 0, "not a regular file")
    return Member(header.name, header.offset_data, header.size)


def _linked(file: BinaryIO) -> dict[int, Member]:
    """{where the header of a link is: the member that it leads to}, of those that lead to one. A hard link leads to
    the member of that name before it, a symbolic one to the last. Two more passes over the headers, for archives with
    links alone, so that the names of all members are never in memory."""
    targets = {_clean(header.name): _target(header) for header in _headers(file) if header.islnk() or header.issym()}
    wanted = set(targets.values()) | {_follow(name, targets) for name in targets}
    there: dict[str, Member] = {}
    found: dict[int, Member] = {}
    later: dict[int, str] = {}
    for header in _headers(file):
        if header.islnk() and _target(header) in there:
            found[header.offset] = there[_target(header)]
        elif header.islnk() or header.issym():
            later[header.offset] = _follow(_target(header), targets)
        elif not header.isdir() and _clean(header.name) in wanted:
            there[_clean(header.name)] = _plain(header)
    return {**found, **{offset: there[end] for offset, end in later.items() if end in there}}


def _target(header: tarfile.TarInfo) -> str:
    folder = posixpath.dirname(header.name) if header.issym() else ""
    return _clean(posixpath.join(folder, header.linkname))


def _follow(name: str, targets: dict[str, str]) -> str:
    for _ in range(_LINK_HOPS):
        if name not in targets:
            break
        name = targets[name]
    return name


def _clean(name: str) -> str:
    """./a/../b.jpg is b.jpg: one member however it is spelled."""
    return posixpath.normpath(name)
