"""Names of files as text: that can be shown, and that can be stored and turned back. Pure."""

from __future__ import annotations

import re
from typing import Union

_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def printable(text: str) -> str:
    """Without line breaks, control characters and lone surrogates, which names of files can hold. To look at only."""
    try:
        safe = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        safe = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)


def escaped(name: Union[str, bytes]) -> str:
    r"""The name as parquet and JSON hold it, from which `unescaped` makes the name again.

    A byte that is no UTF-8 becomes \xNN. A backslash that would look like the beginning of one becomes \x5c, so that
    no two names share a text; every other name is its own text. name: bytes, or str as os.fsdecode makes it.
    """
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(rb"\\x5cx\1", raw).decode("utf-8", "backslashreplace")


def unescaped(text: str) -> bytes:
    """The name of a file from what `escaped` made of it."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode("utf-8", "surrogateescape"))
