"""Lists of paths: one a line, `path label`, the SOP lists, CSV and TSV, and standard input. Read line by line."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Optional

import pyarrow as pa

from metric_learn_client.contract.digests import sha256_of
from metric_learn_client.image_names import IMAGE_SUFFIXES, PATH_COLUMNS, SOP_HEADER, as_text, path_column
from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_rows import Input, Row, chunked
from metric_learn_client.jobs.inputs.text import file_lines, stdin_lines
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.storage import is_url, open_file, require, under
from metric_learn_client.printable import escaped, printable

_SUFFIXES = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
_LABELLED = re.compile(rf"(?P<path>.*\.(?:{_SUFFIXES})['\"]?)\s+(?P<label>\S.*)", re.IGNORECASE)
_PICTURE = re.compile(rf".*\.(?:{_SUFFIXES})['\"]?\Z", re.IGNORECASE | re.DOTALL)
_WHOLE_NUMBER = re.compile(r"-?\d{1,18}")
_QUOTES = ("'", '"')
_DELIMITERS = (",", ";", "\t", "|")
_EXCELS_SIGN = re.compile(r'"?sep=(?P<sign>[^"])"?')  # a first line by which Excel tells itself the delimiter
_LOOK_LINES = 100

csv.field_size_limit(16 * 1024 * 1024)


class ListInput(Input):
    """input_format: "lines", "labels", "csv", "sop", or "list" to find out from the first lines.

    `image_path` is what the list says. A relative path is relative to `spec.root`, else to the folder of its list, and
    for standard input to the working directory. A label is a whole number where all of the first hundred are, else
    text.
    """

    kind = "list"

    def __init__(self, names: list[str], spec: InputSpec, input_format: str) -> None:
        super().__init__()
        self._names = names
        self._spec = spec
        first = names[0]
        self.root = self._root_of(first)
        self._stdin_lines: Optional[Iterator[str]] = None
        look = self._look(first)
        self._format = _detect(look, first) if input_format == "list" else input_format
        if input_format == "list":
            self._check_alike()
        filled = [line for line in look if not _is_blank(line)]
        self._quoted = bool(filled) and all(line.strip()[0] in _QUOTES for line in filled)
        labels = [found["label"] for line in filled if (found := _LABELLED.fullmatch(line.strip()))]
        self._label = pa.int64() if all(map(_WHOLE_NUMBER.fullmatch, labels)) else pa.string()
        sign = _EXCELS_SIGN.fullmatch(look[0]) if look else None
        look = list(_without_excels(iter(look)))
        self._delimiter = sign["sign"] if sign is not None else _delimiter(look, first, spec.path_column)
        # `id, path`: the space is no part of the next field, where the line of names has it, too
        self._spaced = any(f"{self._delimiter} " in line for line in islice(filter(None, look), 1))
        self._header = self._read_header(look)

    @property
    def columns(self) -> pa.Schema:
        if self._format == "lines":
            return pa.schema([])
        if self._format == "labels":
            return pa.schema([pa.field("label", self._label)])
        if self._format == "sop":
            return pa.schema([pa.field(name, pa.int64()) for name in SOP_HEADER[:3]])
        return pa.schema([pa.field(name, pa.string()) for name in self._kept()])

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from chunked(self._rows(), self.columns)

    def signature(self) -> Optional[list[Any]]:
        if "-" in self._names:
            return None
        return [[name, _digest(name)] for name in self._names]

    def _rows(self) -> Iterator[Row]:
        schemes: set[str] = set()
        for name in self._names:
            root = self._root_of(name)
            for path, values in self._parse(name, self._lines(name)):
                if is_url(path) and path.split(":", 1)[0] not in schemes:
                    require(path)
                    schemes.add(path.split(":", 1)[0])
                text, raw = as_text(path.encode("utf-8", "surrogateescape"))
                if root is not None and is_url(root):
                    raw = None  # URLs are text
                if root != self.root and not is_url(path):
                    raw = _whole(root, path, text)
                kept = (escaped(value) if isinstance(value, str) else value for value in values)
                yield (text, *kept, raw, -1, 0, 0)

    def _check_alike(self) -> None:
        """Raises InputError for a CSV, by its name, behind a list that is none: its lines would be taken for paths."""
        other = next((name for name in self._names if _is_csv(name) and self._format != "csv"), None)
        if other is not None:
            raise InputError(
                f"{self._names[0]} is read as {self._format}, and {other} is a CSV: one job reads one kind of input; "
                "where they are alike, say with --input-format what they are"
            )

    def _root_of(self, name: str) -> Optional[str]:
        """What the relative paths of a list are relative to, None for the working directory."""
        if self._spec.root is not None:
            return self._spec.root
        return None if name == "-" else _folder(name)

    def _parse(self, name: str, lines: Iterator[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        if self._format == "csv":
            yield from self._parse_csv(name, lines)
            return
        for number, line in enumerate(lines, 1):
            if _is_blank(line) or (number == 1 and self._format == "sop" and line.split() == list(SOP_HEADER)):
                continue
            if self._format == "lines":
                yield self._unquoted(_without_trailing_space(line)), ()
                continue
            try:
                if self._format == "sop":
                    image, kind, group, path = line.split(None, 3)
                    yield path.rstrip(), (int(image), int(kind), int(group))
                else:
                    yield self._labelled(line.strip())
            except ValueError:
                form = " ".join(SOP_HEADER) if self._format == "sop" else "path label"
                number_form = ", the label a whole number as in the lines before" if self._label == pa.int64() else ""
                raise InputError(
                    f"{name}, line {number}: {line[:200]!r} is not of the form '{form}'{number_form}; "
                    "--input-format lines takes every line for a path"
                ) from None

    def _labelled(self, line: str) -> tuple[str, tuple[Any, ...]]:
        """(path, (label,)). Raises ValueError."""
        found = _LABELLED.fullmatch(line)
        path, label = (found["path"], found["label"]) if found else line.rsplit(None, 1)
        return self._unquoted(path.rstrip()), (int(label) if self._label == pa.int64() else label,)

    def _unquoted(self, path: str) -> str:
        """Windows copies paths in quotes; where the list has them around the first hundred they are not names."""
        if self._quoted and len(path) > 1 and path[0] in _QUOTES and path[-1] == path[0]:
            return path[1:-1]
        return path

    def _parse_csv(self, name: str, lines: Iterator[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        rows = self._csv(_without_excels(lines))
        try:
            header = [column.strip() for column in next(filter(None, rows), [])]
            if header != self._header:
                raise InputError(f"{name}: its columns are {header}, those of {self._names[0]} are {self._header}")
            path_index = self._header.index(self._path_column())
            kept = [self._header.index(column) for column in self._kept()]
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(f"{name}, line {rows.line_num}: {len(row)} fields for {len(header)} columns")
                yield _without_trailing_space(row[path_index]), tuple(row[index] for index in kept)
        except csv.Error as error:
            raise InputError(f"{name}, line {rows.line_num}: {error}") from error

    def _csv(self, lines: Iterator[str]) -> Any:
        ended = (line + "\n" for line in lines)
        return csv.reader(ended, delimiter=self._delimiter, strict=True, skipinitialspace=self._spaced)

    def _kept(self) -> list[str]:
        path = self._path_column()
        kept = [name for name in self._header if name != path]
        if self._spec.columns is not None:
            missing = [name for name in self._spec.columns if name not in kept]
            if missing:
                raise InputError(f"--columns {missing[0]}: the columns are {', '.join(self._header)}")
            kept = list(self._spec.columns)
        for name in (path, *kept):
            if self._header.count(name) > 1:
                raise InputError(
                    f"{self._names[0]}: two columns are called {name!r}: rename one, or keep others with --columns"
                )
        return kept

    def _path_column(self) -> str:
        wanted = self._spec.path_column
        found = path_column(self._header) if wanted is None else wanted if wanted in self._header else None
        if found is None:
            raise InputError(
                f"{self._names[0]}: which column has the path? Its first line is {self._header}: name the column with "
                f"--path-column, or {PATH_COLUMNS[0]!r} in a first line of names"
            )
        return found

    def _read_header(self, look: list[str]) -> list[str]:
        if self._format != "csv":
            return []
        try:
            header = [name.strip() for name in next(filter(None, self._csv(iter(look))), [])]
        except csv.Error as error:
            raise InputError(f"{self._names[0]}, line 1: {error}") from error
        for name in header:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{self._names[0]}: its column {printable(name)!r} is not UTF-8; write it anew in UTF-8, which "
                    "Excel calls 'CSV UTF-8'"
                ) from error
        return header

    def _look(self, name: str) -> list[str]:
        lines = self._lines(name)
        look = list(islice(lines, _LOOK_LINES))
        if name == "-":
            self._stdin_lines = chain(look, lines)
        return look

    def _lines(self, name: str) -> Iterator[str]:
        nul_ends = not name.lower().endswith((".csv", ".tsv"))
        if name != "-":
            return file_lines(name, nul_ends=nul_ends)
        if self._stdin_lines is not None:
            lines, self._stdin_lines = self._stdin_lines, iter(())
            return lines
        return stdin_lines(nul_ends=nul_ends)


def _detect(look: list[str], name: str) -> str:
    if _is_csv(name):
        return "csv"
    filled = [line for line in look if not _is_blank(line)]
    if not filled:
        return "lines"
    if filled[0].split() == list(SOP_HEADER):
        return "sop"
    labelled = [found for line in filled if (found := _LABELLED.fullmatch(line.strip()))]
    # `a.jpg b.jpg` is the name of one picture rather than a label that ends in .jpg
    if any(_PICTURE.match(found["label"]) for found in labelled) or 2 * len(labelled) <= len(filled):
        return "lines"
    return "labels"


def _is_csv(name: str) -> bool:
    return name.lower().rsplit("?", 1)[0].endswith((".csv", ".tsv"))


def _delimiter(look: list[str], name: str, column: Optional[str]) -> str:
    """Of the usual ones the first by which the first line has a column of paths; else what the name says."""
    usual = "\t" if name.lower().endswith(".tsv") else ","
    for sign in (usual, *_DELIMITERS):
        try:
            names = [each.strip() for each in next(filter(None, csv.reader(look, delimiter=sign)), [])]
        except csv.Error:
            continue
        if (column in names) if column is not None else path_column(names) is not None:
            return sign
    return usual


def _without_excels(lines: Iterator[str]) -> Iterator[str]:
    """The lines of a CSV, Excel's own first one empty."""
    return ("" if number == 0 and _EXCELS_SIGN.fullmatch(line) else line for number, line in enumerate(lines))


def _is_blank(line: str) -> bool:
    """Also where it is the NUL of an almost empty list in UTF-16."""
    return not line.replace("\0", "").strip()


def _without_trailing_space(path: str) -> str:
    """Of a path that ends in a picture's suffix but for white space; other names are taken as they are."""
    stripped = path.rstrip()
    return stripped if stripped != path and _PICTURE.match(stripped) else path


def _folder(name: str) -> str:
    return name.rsplit("/", 1)[0] if is_url(name) else os.path.dirname(name) or "."


def _whole(root: Optional[str], path: str, text: str) -> bytes:
    """The place of a path that is relative to `root`, as `plan:raw` has it; text: the path in `image_path`."""
    if root is not None and is_url(root):
        return under(root, text).encode()
    return os.path.join(os.path.abspath(os.fsencode(root or ".")), path.encode("utf-8", "surrogateescape"))


def _digest(name: str) -> str:
    with open_file(name) as file:
        return sha256_of(file)
