"""Folders, globs and image files. Order: by path, byte for byte, folder by folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Optional, Union

import pyarrow as pa

from metric_learn_client.image_names import IMAGE_SUFFIXES, as_text, is_image_name
from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_rows import Input, Row, chunked
from metric_learn_client.jobs.inputs.skipped import HIDDEN, Skipped, hidden
from metric_learn_client.jobs.options import spelled
from metric_learn_client.jobs.patterns import glob_regex, has_wildcard, split_glob
from metric_learn_client.jobs.storage import is_url, scan

Name = Union[str, bytes]


class FolderInput(Input):
    """Every image below the folders, by suffix or by `glob`; links are followed, loops are not.

    Memory grows with the largest single folder only. A folder with the name of an image is a row, too (it fails
    with E_READ), and its contents are as well: nothing that looks like an image goes missing without a word.
    """

    kind = "files"

    def __init__(self, names: list[str], glob: Optional[str]) -> None:
        super().__init__()
        self._names = names
        self._glob = glob
        self._check_apart()

    def batches(self) -> Iterator[pa.RecordBatch]:
        self.skipped = Skipped()
        yield from chunked(self._rows(), self.columns)

    def _rows(self) -> Iterator[Row]:
        for name in self._names:
            for path in self._paths(name):
                text, raw = (path, None) if isinstance(path, str) else as_text(path)
                yield (text, raw, -1, 0, 0)

    def _check_apart(self) -> None:
        """Raises InputError for an input below another one, whose pictures would be there twice under one path."""
        if self._glob is not None and "**" not in self._glob:  # it looks into no folder of a folder
            return
        wanted = is_image_name if self._glob is None else glob_regex(self._glob).match
        folders = {spelled(name): name for name in self._names if not has_wildcard(name)}
        for name in self._names:
            above = own = spelled(name)
            while "/" in above.strip("/") and not has_wildcard(name):
                above = above.rpartition("/")[0]
                below = os.fsencode(own[len(above) + 1 :])
                taken = wanted(below) or os.path.isdir(name) or (is_url(name) and not is_image_name(below))
                if above in folders and taken and hidden(below, HIDDEN, self._glob) is None:
                    raise InputError(
                        f"{name} is in {folders[above]}: its pictures would be taken twice; name one of both"
                    )

    def _paths(self, name: str) -> Iterator[Name]:
        folder, pattern = name, self._glob
        if has_wildcard(name) and not os.path.lexists(name):
            if pattern is not None:
                raise InputError(f"{name}: a glob in the input and --glob {pattern} are one too many")
            folder, pattern = split_glob(name)
        elif (name.lower().endswith(IMAGE_SUFFIXES) and not os.path.isdir(name)) or os.path.isfile(name):
            yield name if is_url(name) else os.fsencode(name)
            return
        wanted = is_image_name if pattern is None else glob_regex(pattern).match
        top: Name = folder if is_url(folder) else os.fsencode(folder)
        for below in walk(top):
            kind = hidden(below, HIDDEN, pattern)
            if kind is None and wanted(below):
                yield _join(top, below)
            else:
                self.skipped.add(os.fsencode(_join(top, below)), kind)


def walk(top: Name) -> Iterator[bytes]:
    """Paths below `top`, sorted as whole paths are; folders appear only where they look like an image."""
    stack = [(b"", iter(_sorted(top)), _identity(top))]
    while stack:
        prefix, entries, _ = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        name, is_folder = entry
        below = prefix + name
        if not is_folder:
            yield below
            continue
        if is_image_name(name):
            yield below
        folder = _join(top, below)
        identity = _identity(folder)
        if identity is not None and any(identity == above for _, _, above in stack):
            continue  # a link to a folder that it is in
        stack.append((below + b"/", iter(_sorted(folder)), identity))


def _sorted(folder: Name) -> list[tuple[bytes, bool]]:
    entries = [(os.fsencode(entry.name), entry.is_folder) for entry in scan(folder)]
    return sorted(entries, key=lambda each: each[0] + b"/" if each[1] else each[0])


def _join(top: Name, below: bytes) -> Name:
    if isinstance(top, str):
        return top.rstrip("/") + "/" + below.decode("utf-8", "surrogateescape")
    return os.path.join(top, below)


def _identity(folder: Name) -> Optional[tuple[int, int]]:
    if isinstance(folder, str):
        return None
    try:
        facts = os.stat(folder)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
