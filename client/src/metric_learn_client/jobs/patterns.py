"""Braces and globs in names. Pure: no disk."""

from __future__ import annotations

import re
from typing import Optional

from metric_learn_client.jobs.errors import InputError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_NAMES = 10_000_000


def expand_braces(pattern: str) -> list[str]:
    """`{00000..00150}` and `{a,b}`, as WebDataset and shells have them; other text stays as it is."""
    found = next((match for match in _BRACES.finditer(pattern) if _choices(match.group(1)) is not None), None)
    if found is None:
        return [pattern]
    choices = _choices(found.group(1)) or []
    before, after = pattern[: found.start()], pattern[found.end() :]
    rests = expand_braces(after)
    count = len(choices) * len(rests)
    if count > _MAX_NAMES:
        raise InputError(f"{pattern}: stands for {count} names; the limit is {_MAX_NAMES}")
    return [before + choice + rest for choice in choices for rest in rests]


def has_wildcard(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def split_glob(pattern: str) -> tuple[str, str]:
    """(folder, pattern below it): the folder is the part before the first component with a wildcard."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if has_wildcard(part))
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else "."), "/".join(parts[first:])


def glob_regex(pattern: str) -> re.Pattern[bytes]:
    """A glob over paths below a folder: `*` and `?` within one name, `**/` any number of folders, `[...]` a set."""
    out, index = "", 0
    while index < len(pattern):
        if pattern.startswith("**/", index):
            out, index = out + "(?:.*/)?", index + 3
        elif pattern.startswith("**", index):
            out, index = out + ".*", index + 2
        elif pattern[index] == "*":
            out, index = out + "[^/]*", index + 1
        elif pattern[index] == "?":
            out, index = out + "[^/]", index + 1
        elif pattern[index] == "[" and "]" in pattern[index + 2 :]:
            end = pattern.index("]", index + 2)
            inside = pattern[index + 1 : end].replace("\\", "\\\\")
            out, index = out + "[" + ("^" + inside[1:] if inside[0] == "!" else inside) + "]", end + 1
        else:
            out, index = out + re.escape(pattern[index]), index + 1
    try:
        return re.compile(out.encode() + rb"\Z", re.DOTALL)
    except re.error as error:
        raise InputError(f"{pattern}: not a glob: {error}") from error


def _choices(inside: str) -> Optional[list[str]]:
    span = _RANGE.fullmatch(inside)
    if span:
        low, high = span.groups()
        width = len(low) if len(low) == len(high) or low.startswith("0") else 0
        if int(high) - int(low) >= _MAX_NAMES:
            raise InputError(f"{{{inside}}}: stands for more than {_MAX_NAMES} names")
        step = 1 if int(low) <= int(high) else -1
        return [f"{number:0{width}d}" for number in range(int(low), int(high) + step, step)]
    return inside.split(",") if "," in inside else None
