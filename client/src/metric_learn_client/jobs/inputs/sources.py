"""The files that hold many rows, tables and archives: which ones the names of an input stand for, and what their
paths say."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional
from urllib.parse import unquote

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.folders import walk
from metric_learn_client.jobs.inputs.skipped import HIDDEN, HIDDEN_OF_TABLES, Skipped, as_line, hidden
from metric_learn_client.jobs.options import spelled
from metric_learn_client.jobs.patterns import glob_regex, has_wildcard, split_glob
from metric_learn_client.jobs.storage import is_url, open_file
from metric_learn_client.printable import escaped

_EDGE_BYTES = 1 << 16
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark and Arrow write for a partition without a value


class Source(NamedTuple):
    """name: to open it by; shown: in the paths of its rows, unlike that of any other source; partitions: what the
    folders of its path say, as Hive writes it: label=a/part-0.parquet is {"label": "a"}."""

    name: str
    shown: str
    partitions: dict[str, Optional[str]]


def find_sources(names: list[str], suffix: str, glob: Optional[str], skipped: Skipped) -> list[Source]:
    """The files that names stand for: themselves, or those of a folder or glob with the suffix, sorted.

    Files of a folder that are not taken are added to `skipped`. Raises InputError where there is none.
    """
    files: dict[str, tuple[str, str]] = {}  # a file that two of the names stand for is one
    for name, shown in _found(names, suffix, glob, skipped):
        files.setdefault(spelled(name), (name, shown))
    found = dict(files.values())
    if not found:
        others = as_line(skipped.as_json())
        raise InputError(f"{', '.join(names)}: no {suffix} file{'; ' if others else ''}{others}")
    often = Counter(found.values())
    return [
        Source(name, escaped(name) if often[shown] > 1 else shown, partitions_of(name)) for name, shown in found.items()
    ]


def partitions_of(name: str) -> dict[str, Optional[str]]:
    """{key: value} of the folders `key=value` in a path. Source: Hive's layout, values escaped as in URLs."""
    pairs = (part.partition("=") for part in escaped(name).split("/")[:-1])
    return {
        unquote(key): None if value == _NULL_PARTITION else unquote(value) for key, sign, value in pairs if sign and key
    }


def edges(name: str) -> list[Any]:
    """Name, size and a digest of both ends of a file: told apart from another without reading it all."""
    with open_file(name) as file:
        digest = hashlib.sha256(file.read(_EDGE_BYTES))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    return [name, size, digest.hexdigest()]


def _found(names: list[str], suffix: str, glob: Optional[str], skipped: Skipped) -> Iterator[tuple[str, str]]:
    signs = HIDDEN_OF_TABLES if suffix == ".parquet" else HIDDEN
    for name in names:
        folder, pattern = split_glob(name) if has_wildcard(name) and not os.path.lexists(name) else (name, glob)
        if folder == name and not os.path.isdir(name) and not (is_url(name) and not name.lower().endswith(suffix)):
            yield name, escaped(name).rsplit("/", 1)[-1]
            continue
        regex = glob_regex(pattern) if pattern else None
        for below in walk(folder if is_url(folder) else os.fsencode(folder)):
            wanted = regex.match(below) if regex else below.lower().endswith(suffix.encode())
            kind = hidden(below, signs, pattern)
            if wanted and kind is None:
                yield folder.rstrip("/") + "/" + os.fsdecode(below), escaped(below)
            else:
                skipped.add(os.path.join(os.fsencode(folder), below), kind)
