"""Bytes of a list -> lines of text, however they were written: UTF-8, UTF-16 and UTF-32 with a byte order mark or
without, line ends of Unix, Windows and old Macs, or NUL bytes between names (`find -print0`). Read as it comes.

Names in UTF-8 lists need not be UTF-8: what is not becomes surrogates, as in os.fsdecode.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import BinaryIO, Optional

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.magic import other_kind
from metric_learn_client.jobs.storage import is_url, open_file

MAX_LINE_CHARS = 1 << 24
_LOOK_BYTES = 1 << 16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def file_lines(name: str, *, nul_ends: bool = True) -> Iterator[str]:
    """The lines of a file, without their ends. nul_ends: NUL bytes in the first line are taken for line ends.

    Raises InputError for what is not a regular file (a pipe can be read once only, and lists are read again), is not
    text in its encoding, or has a line of more than MAX_LINE_CHARS.
    """
    if not is_url(name) and os.path.exists(name) and not stat.S_ISREG(os.stat(name).st_mode):
        raise InputError(f"{name}: not a regular file; give a list that a command writes as standard input: '-'")
    with open_file(name) as file:
        yield from lines_of(file, name, nul_ends=nul_ends)


def stdin_lines(*, nul_ends: bool = True) -> Iterator[str]:
    """As file_lines, of standard input. Its bytes are read, whatever encoding Python chose for it."""
    if sys.stdin is None:
        raise InputError("-: standard input is closed")
    yield from lines_of(sys.stdin.buffer, "standard input", nul_ends=nul_ends)


def lines_of(file: BinaryIO, name: str, *, nul_ends: bool = True) -> Iterator[str]:
    """As file_lines, of an open file."""
    try:
        look = file.read(_LOOK_BYTES)
        if (kind := other_kind(look)) is not None:
            raise InputError(f"{name}: not a list: it is {kind}")
        encoding, mark = encoding_of(look)
        errors = "surrogateescape" if encoding == "utf-8" else "strict"
        decoded = look.decode(encoding, "replace")
        end = "\r" if "\r" in decoded and "\n" not in decoded else "\n"
        raw = io.BufferedReader(_Rejoined(look[mark:], file))
        text = io.TextIOWrapper(raw, encoding, errors, newline=end)
        if nul_ends and "\0" in decoded.split(end, 1)[0]:
            yield from _between_nuls(text, name)
            return
        number = 0
        while line := text.readline(MAX_LINE_CHARS):
            number += 1
            if len(line) == MAX_LINE_CHARS:
                raise InputError(f"{name}, line {number}: more than {MAX_LINE_CHARS} characters; is it a list?")
            yield line.rstrip("\r\n").lstrip("\ufeff")  # a mark inside: lists that were put together
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: begins as {error.encoding} and is not: {error.reason}; write it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error


def encoding_of(look: bytes) -> tuple[str, int]:
    """(encoding, bytes of its mark) of a text that begins so.

    Without a mark: ASCII characters of UTF-16 have a NUL beside each, so that NULs stand two apart; between names of
    `find -print0` they do not. Source: the Unicode Standard, 3.10, encoding schemes.
    """
    for mark, encoding in _MARKS:
        if look.startswith(mark):
            return encoding, len(mark)
    nuls = [index for index, byte in enumerate(look[:4096]) if byte == 0]
    if len(look) < 8 or not nuls:
        return "utf-8", 0
    apart = [after - before for before, after in zip(nuls, nuls[1:])]
    if 2 * apart.count(1) >= len(nuls) and all(index % 4 != 0 for index in nuls):
        return "utf-32-le", 0
    if 2 * apart.count(1) >= len(nuls) and all(index % 4 != 3 for index in nuls):
        return "utf-32-be", 0
    if 2 * apart.count(2) >= len(nuls):
        odd = sum(index % 2 for index in nuls)
        if odd in (0, len(nuls)):
            return ("utf-16-le" if odd else "utf-16-be"), 0
    return "utf-8", 0


def _between_nuls(text: io.TextIOWrapper, name: str) -> Iterator[str]:
    rest = ""
    while block := text.read(_LOOK_BYTES):
        if len(block) == _LOOK_BYTES and not block.strip("\0"):
            raise InputError(f"{name}: {len(block)} NUL bytes in a row; is it a list?")  # /dev/zero, a hole in a file
        *whole, rest = (rest + block).split("\0")
        if len(rest) > MAX_LINE_CHARS:
            raise InputError(f"{name}: a name of more than {MAX_LINE_CHARS} characters; is it a list?")
        yield from whole
    if rest.strip("\n"):
        yield rest


class _Rejoined(io.RawIOBase):
    """What was read of a file, and its rest."""

    def __init__(self, look: bytes, file: BinaryIO) -> None:
        self._look: Optional[memoryview] = memoryview(look)
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._look:
            count = min(len(buffer), len(self._look))
            buffer[:count] = self._look[:count]
            self._look = self._look[count:]
            return count
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
