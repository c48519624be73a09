"""Names of files as text that can be shown: on a terminal, in JSON, on a page. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """Without line breaks, control characters and lone surrogates, which names of files can hold."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)
