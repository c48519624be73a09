"""Lists of paths: one a line, `path label`, the SOP lists, CSV and TSV, and standard input. Read line by line."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from itertools import chain, islice
from typing import Any, Optional, TextIO

import pyarrow as pa

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.rows import Input, Row, as_text, chunked, planned_schema
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.storage import is_url, open_file, require

# Stanford Online Products: Ebay_train.txt, Ebay_test.txt and Ebay_info.txt begin with this line.
_SOP_HEADER = ["image_id", "class_id", "super_class_id", "path"]
_LABELLED = re.compile(r"(.*\.(?:jpe?g|png|webp|bmp))\s+(-?\d+)", re.IGNORECASE)
_PATH_COLUMNS = ("image_path", "path", "filepath", "file_path", "filename", "file_name", "file", "image", "url")
_LOOK_LINES = 100

csv.field_size_limit(16 * 1024 * 1024)


class ListInput(Input):
    """input_format: "lines", "labels", "csv", "sop", or "list" to find out from the first lines.

    `image_path` is what the list says. A relative path is relative to `spec.root`, else to the list's folder, and
    for standard input to the working directory.
    """

    kind = "list"

    def __init__(self, names: list[str], spec: InputSpec, input_format: str) -> None:
        self.sources: list[str] = []
        self._names = names
        self._spec = spec
        first = names[0]
        self.root = spec.root if spec.root is not None else (None if first == "-" else _folder(first))
        self._stdin_lines: Optional[Iterator[str]] = None
        look = self._look(first)
        self._format = _detect(look, first) if input_format == "list" else input_format
        self._header = self._read_header(look, first)

    @property
    def columns(self) -> pa.Schema:
        if self._format == "lines":
            return pa.schema([])
        if self._format == "labels":
            return pa.schema([pa.field("label", pa.int64())])
        if self._format == "sop":
            return pa.schema([pa.field(name, pa.int64()) for name in _SOP_HEADER[:3]])
        return pa.schema([pa.field(name, pa.string()) for name in self._kept()])

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from chunked(self._rows(), planned_schema(self.columns))

    def signature(self) -> Optional[list[Any]]:
        if "-" in self._names:
            return None
        return [[name, _digest(name)] for name in self._names]

    def _rows(self) -> Iterator[Row]:
        schemes: set[str] = set()
        for name in self._names:
            for path, values in self._parse(name):
                if is_url(path) and path.split(":", 1)[0] not in schemes:
                    require(path)
                    schemes.add(path.split(":", 1)[0])
                text, raw = as_text(os.fsencode(path))
                yield (text, *values, raw, -1, 0, 0)

    def _parse(self, name: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        if self._format == "csv":
            yield from self._parse_csv(name)
            return
        for number, line in enumerate(self._lines(name), 1):
            if not line.strip() or (number == 1 and self._format == "sop" and line.split() == _SOP_HEADER):
                continue
            if self._format == "lines":
                yield line, ()
                continue
            try:
                if self._format == "sop":
                    image, kind, group, path = line.split(None, 3)
                    yield path.rstrip(), (int(image), int(kind), int(group))
                else:
                    path, label = line.rstrip().rsplit(None, 1)
                    yield path, (int(label),)
            except ValueError:
                form = " ".join(_SOP_HEADER) if self._format == "sop" else "path label"
                raise InputError(f"{name}, line {number}: {line[:200]!r} is not of the form '{form}'") from None

    def _parse_csv(self, name: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        rows = csv.reader((line + "\n" for line in self._lines(name)), delimiter=_delimiter(name), strict=True)
        try:
            header = next(rows, [])
            if header != self._header:
                raise InputError(f"{name}: its columns are {header}, those of {self._names[0]} are {self._header}")
            path_index = self._header.index(self._path_column())
            kept = [self._header.index(column) for column in self._kept()]
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(f"{name}, line {rows.line_num}: {len(row)} fields for {len(header)} columns")
                yield row[path_index], tuple(row[index] for index in kept)
        except csv.Error as error:
            raise InputError(f"{name}, line {rows.line_num}: {error}") from error

    def _kept(self) -> list[str]:
        others = [name for name in self._header if name != self._path_column()]
        if self._spec.columns is None:
            return others
        missing = [name for name in self._spec.columns if name not in others]
        if missing:
            raise InputError(f"--columns {missing[0]}: the columns are {', '.join(self._header)}")
        return list(self._spec.columns)

    def _path_column(self) -> str:
        if self._spec.path_column is not None:
            wanted: tuple[str, ...] = (self._spec.path_column,)
        else:
            wanted = _PATH_COLUMNS
        for name in wanted:
            if name in self._header:
                return name
        raise InputError(f"{self._names[0]}: which column has the path? {self._header}: say --path-column")

    def _read_header(self, look: list[str], first: str) -> list[str]:
        if self._format != "csv":
            return []
        return next(csv.reader(look, delimiter=_delimiter(first)), [])

    def _look(self, name: str) -> list[str]:
        lines = self._lines(name)
        look = list(islice(lines, _LOOK_LINES))
        if name == "-":
            self._stdin_lines = chain(look, lines)
        return look

    def _lines(self, name: str) -> Iterator[str]:
        if name == "-":
            if self._stdin_lines is not None:
                lines, self._stdin_lines = self._stdin_lines, iter(())
                return lines
            return _split(TextIOWrapper(sys.stdin.buffer, "utf-8", "surrogateescape", newline="\n"))
        return _file_lines(name)


def _file_lines(name: str) -> Iterator[str]:
    with TextIOWrapper(open_file(name), "utf-8-sig", "surrogateescape", newline="\n") as text:
        try:
            yield from _split(text)
        except OSError as error:
            raise InputError(f"{name}: {error.strerror}") from error


def _split(text: TextIO) -> Iterator[str]:
    """Lines without their ends; where the first has NUL bytes (`find -print0`), they are the ends instead."""
    lines: Iterable[str] = iter(text)
    first = next(iter(lines), None)
    if first is None:
        return
    if "\0" not in first:
        for line in chain((first,), lines):
            yield line.rstrip("\r\n")
        return
    rest = ""
    for line in chain((first,), lines):
        *whole, rest = (rest + line).split("\0")
        yield from whole
    if rest.strip("\n"):
        yield rest


def _detect(look: list[str], name: str) -> str:
    if name.lower().rsplit("?", 1)[0].endswith((".csv", ".tsv")):
        return "csv"
    filled = [line for line in look if line.strip()]
    if not filled:
        return "lines"
    if filled[0].split() == _SOP_HEADER:
        return "sop"
    if all(_LABELLED.fullmatch(line.strip()) for line in filled):
        return "labels"
    return "lines"


def _delimiter(name: str) -> str:
    return "\t" if name.lower().endswith(".tsv") else ","


def _folder(name: str) -> str:
    return name.rsplit("/", 1)[0] if is_url(name) else os.path.dirname(name) or "."


def _digest(name: str) -> str:
    sha256 = hashlib.sha256()
    with open_file(name) as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()
