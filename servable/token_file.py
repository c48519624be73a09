"""The form of a file of bearer tokens: one a line, comments. The gateway reads it, the doctor judges it. Pure."""

from __future__ import annotations

COMMENT = r"(^|\s)#.*"  # a word that starts with `#`, to the end of its line; as text, for str and bytes patterns
MIN_TOKEN_CHARACTERS = 16
