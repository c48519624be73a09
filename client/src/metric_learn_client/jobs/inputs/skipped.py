"""Files that a job finds and does not take: counted by kind, with one example of each. Pure.

What the readers of the field skip is skipped here: names that begin with a dot (hidden files, and the `._a.jpg` that
macOS leaves beside every file on a foreign disk), and in folders of tables those that begin with an underscore
(`_SUCCESS`, `_metadata`, `_temporary/`).
"""

from __future__ import annotations

import os
from typing import Any, Optional

from metric_learn_client.printable import escaped

HIDDEN = (b".",)
HIDDEN_OF_TABLES = (b".", b"_")
_MOST_KINDS = 20  # so that a folder in which every name has a suffix of its own does not fill the summary


class Skipped:
    """{kind: {"count": n, "example": path}}, kinds in the order in which they were met."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Any]] = {}

    def add(self, path: bytes, kind: Optional[str] = None) -> None:
        """kind: why it is not taken; else its suffix says so."""
        kind = kind or os.path.splitext(escaped(path))[1].lower() or "no suffix"
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            kind = "others"
        found = self._kinds.setdefault(kind, {"count": 0, "example": escaped(path)})
        found["count"] += 1

    def copy(self) -> Skipped:
        made = Skipped()
        made._kinds = {kind: dict(each) for kind, each in self._kinds.items()}
        return made

    def as_json(self) -> dict[str, dict[str, Any]]:
        return self._kinds


def hidden(below: bytes, signs: tuple[bytes, ...], pattern: Optional[str] = None) -> Optional[str]:
    """The kind of a hidden path, "._*", ".*" or "_*", None for others. A pattern that names such names takes them."""
    parts = [part for part in below.split(b"/") if part not in (b".", b"..")]
    for sign in signs:
        if pattern is not None and any(part.startswith(sign.decode()) for part in pattern.split("/")):
            continue
        if any(part.startswith(sign) for part in parts):
            return "._*" if parts[-1].startswith(b"._") else f"{sign.decode()}*"
    return None


def as_line(skipped: dict[str, dict[str, Any]]) -> str:
    """One line for people; empty where nothing was skipped."""
    kinds = [f"{each['count']} {kind} (as {each['example']})" for kind, each in skipped.items()]
    return f"not taken, by their names: {', '.join(kinds)}" if kinds else ""
