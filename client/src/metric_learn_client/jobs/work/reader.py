"""Planned rows -> encoded images, or a reason why not. One bad row never costs another one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Optional, Union

import pyarrow as pa

from metric_learn_client.jobs.errors import RowError
from metric_learn_client.jobs.inputs.tables import open_table
from metric_learn_client.jobs.output.seen import Seen, digest
from metric_learn_client.jobs.plan.plan import Plan
from metric_learn_client.jobs.remote import READ_TIMEOUT_S
from metric_learn_client.jobs.storage import is_url, place_of, read_image, read_range

Image = Union[bytes, RowError]

_SPANS = ("plan:source", "plan:offset", "plan:size")
_RUN_BYTES = 32 * 1024 * 1024  # of an archive, read at one time
_TABLE_ROWS = 64  # encoded images of a table in memory at one time
_LATEST_NS = (1 << 63) - 1  # in the year 2262; a broken clock can give a file a later time
_GAP_BYTES = 64 * 1024  # archive members so far apart are still read in one go


class Reader:
    """Reads the images of planned rows. `read` is thread-safe; tables are read in order, so by `prepare`, before it.

    limit: bytes of one image; larger ones are not read. timeout_s: for one image, or run of an archive, at a URL.
    """

    def __init__(self, plan: Plan, limit: int, timeout_s: float = READ_TIMEOUT_S) -> None:
        self._sources = plan.sources
        self._root = plan.root
        self._kind = plan.kind
        self._limit = limit
        self._timeout_s = timeout_s
        self._tables = None if plan.image_column is None else _Tables(plan.sources, plan.image_column, limit, timeout_s)

    def prepare(self, rows: pa.RecordBatch) -> Optional[list[Image]]:
        """The images of rows that lie in a table, None for all others. One thread only."""
        return None if self._tables is None else self._tables.read(rows)

    def close(self) -> None:
        """Closes what is open between batches."""
        if self._tables is not None:
            self._tables.close()

    def read(self, rows: pa.RecordBatch) -> list[Image]:
        """One image or RowError per row, in order."""
        names = rows.column("image_path").to_pylist()
        if self._kind == "tar":
            problems = rows.column("plan:raw")
            there = rows.filter(problems.is_null())
            images = iter(self._members(*(there.column(name).to_pylist() for name in _SPANS)))
            return [next(images) if why is None else RowError("E_READ", why.decode()) for why in problems.to_pylist()]
        raws = rows.column("plan:raw").to_pylist()
        return [self._file(name, raw) for name, raw in zip(names, raws)]

    def look(self, rows: pa.RecordBatch, digests: bool = False) -> list[Seen]:
        """What the rows' files are now: size and time, or the digest of what is in them; nothing for what lies in a
        table or an archive. Before they are read, so that one that changes meanwhile is not taken for what was read."""
        if self._tables is not None or self._kind == "tar":
            return [Seen()] * rows.num_rows
        names, raws = rows.column("image_path").to_pylist(), rows.column("plan:raw").to_pylist()
        if digests:
            images = (self._file(name, raw) for name, raw in zip(names, raws))
            return [Seen(sha256=digest(image)) if isinstance(image, bytes) else Seen() for image in images]
        return [_facts(place_of(self._root, name, raw)) for name, raw in zip(names, raws)]

    def _file(self, name: str, raw: Optional[bytes]) -> Image:
        try:
            if not name:
                raise RowError("E_NOT_FOUND", "the row has no path")
            return read_image(place_of(self._root, name, raw), self._limit, self._timeout_s)
        except RowError as error:
            return error

    def _members(self, sources: list[int], offsets: list[int], sizes: list[int]) -> list[Image]:
        images: list[Image] = []
        for start, end in _runs(sources, offsets, sizes, self._limit):
            if sizes[start] > self._limit:  # a run of its own
                images.append(_too_large(sizes[start], self._limit))
                continue
            first = offsets[start]
            span = offsets[end - 1] + sizes[end - 1] - first
            try:
                content = memoryview(read_range(self._sources[sources[start]], first, span, self._timeout_s))
            except RowError as error:
                images.extend([error] * (end - start))
                continue
            for index in range(start, end):
                image = bytes(content[offsets[index] - first :][: sizes[index]])
                whole = len(image) == sizes[index]
                images.append(image if whole else RowError("E_READ", "the archive ends before this member does"))
        return images


def _facts(place: Union[str, bytes]) -> Seen:
    if isinstance(place, str) and is_url(place):
        return Seen()
    try:
        facts = os.stat(place)
    except (OSError, ValueError):
        return Seen()
    return Seen(facts.st_size, min(facts.st_mtime_ns, _LATEST_NS))


def _too_large(size: int, limit: int) -> RowError:
    return RowError("E_TOO_LARGE", f"{size} bytes; the limit is {limit}")


def _runs(
    sources: Sequence[int], offsets: Sequence[int], sizes: Sequence[int], limit: int
) -> Iterator[tuple[int, int]]:
    """[start, end) of neighbours that one read of an archive gets without reading much else."""
    start = 0
    for index in range(1, len(sources) + 1):
        if index < len(sources) and sources[index] == sources[start] and max(sizes[start], sizes[index]) <= limit:
            gap = offsets[index] - (offsets[index - 1] + sizes[index - 1])
            if 0 <= gap <= _GAP_BYTES and offsets[index] + sizes[index] - offsets[start] <= _RUN_BYTES:
                continue
        yield start, index
        start = index


class _Tables:
    """A cursor over row groups: forward is cheap, back opens the row group again."""

    def __init__(self, sources: list[str], column: str, limit: int, timeout_s: float) -> None:
        self._sources = sources
        self._column, _, self._inner = column.rpartition(".")  # of a struct; a name may have dots of its own
        self._read_column = column
        self._limit = limit
        self._timeout_s = timeout_s
        self._at: Optional[tuple[int, int]] = None  # (source, row group)
        self._table: Any = None
        self._opened = ExitStack()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._block: tuple[Any, Any] = ((), None)
        self._first = 0  # row in the group of the block's first
        self._broken: dict[tuple[int, int], RowError] = {}

    def read(self, rows: pa.RecordBatch) -> list[Image]:
        places = zip(*(rows.column(name).to_pylist() for name in _SPANS))
        return [self._one(source, group, row) for source, group, row in places]

    def _one(self, source: int, group: int, row: int) -> Image:
        if (source, group) in self._broken:
            return self._broken[source, group]
        try:
            if self._at != (source, group) or row < self._first:
                self._open(source, group)
            while row >= self._first + len(self._block[0]):
                self._first += len(self._block[0])
                self._block = self._images(next(self._batches))
            images, paths = self._block
            content: Optional[bytes] = images[row - self._first].as_py()
            if content is None and paths is None:
                content = b""
            path = paths[row - self._first].as_py() if content is None else None
        except StopIteration:
            return RowError("E_READ", "the table has fewer rows than when it was planned")
        except Exception as error:  # whatever the parquet reader raises for a broken page
            broken = RowError("E_READ", f"row group {group} cannot be read: {str(error).splitlines()[0]}")
            self._broken[source, group] = broken
            self._at = None
            return broken
        if content is None:
            return self._elsewhere(source, path)
        if len(content) > self._limit:
            return _too_large(len(content), self._limit)
        return content

    def _open(self, source: int, group: int) -> None:
        if self._at is None or self._at[0] != source or self._table is None:
            self.close()
            self._table = self._opened.enter_context(open_table(self._sources[source]))
        self._at = (source, group)
        columns = [self._read_column, *([f"{self._column}.path"] if self._inner else [])]
        self._batches = self._table.iter_batches(_TABLE_ROWS, row_groups=[group], columns=columns)
        self._block, self._first = ((), None), 0

    def close(self) -> None:
        self._table, self._batches = None, iter(())
        self._opened.close()

    def _images(self, batch: pa.RecordBatch) -> tuple[Any, Any]:
        """(images, paths of those that are not in the table, None where it has none)"""
        at = batch.schema.get_field_index(self._read_column)
        column = batch.column(at if at >= 0 else batch.schema.get_field_index(self._column))
        if not self._inner or not pa.types.is_struct(column.type):
            return column, None
        names = [column.type.field(index).name for index in range(column.type.num_fields)]
        return column.field(self._inner), column.field("path") if "path" in names else None

    def _elsewhere(self, source: int, path: Any) -> Image:
        """The picture of a row without bytes: a file beside its table; one from a URL names none of this machine."""
        if not isinstance(path, str) or not path:
            return RowError("E_EMPTY", "the row has neither bytes nor a path")
        table = self._sources[source]
        if is_url(table) and (is_url(path) or path.startswith("/") or ".." in path.split("/")):
            return RowError("E_READ", "the row has no bytes, and its path leads out of the table's folder")
        place = path
        if is_url(table):
            place = f"{table.rpartition('/')[0]}/{path}"
        elif not is_url(path):
            place = os.path.join(os.path.dirname(table), path)
        try:
            return read_image(place, self._limit, self._timeout_s)
        except RowError as error:
            return RowError(error.code, f"the row has no bytes, and beside the table: {error.message}")
