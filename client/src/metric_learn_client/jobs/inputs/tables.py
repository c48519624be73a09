"""Parquet tables with a column of paths or of encoded images; the other columns are kept. Read batch by batch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

import pyarrow as pa
import pyarrow.parquet as pq

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.folders import walk
from metric_learn_client.jobs.inputs.patterns import glob_regex, has_wildcard, split_glob
from metric_learn_client.jobs.inputs.rows import CHUNK_ROWS, LOCATION, Input, planned_schema
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.storage import is_url, open_file

_PATH_COLUMNS = ("image_path", "path", "filepath", "file_path", "filename", "file_name", "file", "url", "image", "key")
_EDGE_BYTES = 1 << 16


class Columns(NamedTuple):
    """Which column is what. image: the name to read bytes by ("image.bytes" inside a struct), None where paths are
    the images; path: the column of image_path, None where it is made up from file and row."""

    image: Optional[str]
    path: Optional[str]
    kept: list[str]


class TableInput(Input):
    """Files in the order given, rows in theirs. A column of structs with `bytes` (as Hugging Face has it) counts."""

    kind = "parquet"

    def __init__(self, names: list[str], spec: InputSpec) -> None:
        self.sources = list(files(names, ".parquet", spec.glob))
        self.root = spec.root
        with open_table(self.sources[0]) as table:
            self.found = choose(table.schema_arrow, spec, self.sources[0])
            self.image_column = self.found.image
            self._schema = pa.schema([table.schema_arrow.field(name).with_metadata(None) for name in self.found.kept])

    @property
    def columns(self) -> pa.Schema:
        return self._schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema = planned_schema(self.columns)
        for source, name in enumerate(self.sources):
            with open_table(name) as table:
                self._check(table.schema_arrow, name)
                first = 0
                for group in range(table.num_row_groups):
                    first_in_group = first
                    for batch in self._read(table, group, name):
                        yield self._planned(batch, schema, source, group, first - first_in_group, first)
                        first += batch.num_rows

    def signature(self) -> Optional[list[Any]]:
        return [edges(name) for name in self.sources]

    def _read(self, table: pq.ParquetFile, group: int, name: str) -> Iterator[pa.RecordBatch]:
        wanted = [column for column in (self.found.path, *self.found.kept) if column is not None]
        if not wanted:  # reading no column gives no rows
            count = table.metadata.row_group(group).num_rows
            for start in range(0, count, CHUNK_ROWS):
                nothing = pa.nulls(min(CHUNK_ROWS, count - start))
                yield pa.RecordBatch.from_arrays([nothing], names=["nothing"])
            return
        try:
            yield from table.iter_batches(CHUNK_ROWS, row_groups=[group], columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{name}, row group {group}: {error}") from error

    def _planned(
        self, batch: pa.RecordBatch, schema: pa.Schema, source: int, group: int, row: int, first: int
    ) -> pa.RecordBatch:
        count = batch.num_rows
        paths = self._paths(batch, source, first)
        image = self.found.image is not None
        location = (
            pa.nulls(count, LOCATION[0].type),
            pa.array([source if image else -1] * count, LOCATION[1].type),
            pa.array([group] * count, LOCATION[2].type),
            pa.array(range(row, row + count), LOCATION[3].type),
        )
        kept = [batch.column(batch.schema.get_field_index(name)) for name in self.found.kept]
        return pa.RecordBatch.from_arrays([paths, *kept, *location], schema=schema)

    def _paths(self, batch: pa.RecordBatch, source: int, first: int) -> pa.Array:
        made_up = [f"{os.path.basename(self.sources[source])}#{first + index}" for index in range(batch.num_rows)]
        if self.found.path is None:
            return pa.array(made_up, pa.string())
        top, _, inner = self.found.path.partition(".")
        column = batch.column(batch.schema.get_field_index(self.found.path if not inner else top))
        if inner and pa.types.is_struct(column.type):
            column = column.field(inner)
        absent = made_up if self.found.image is not None else [""] * batch.num_rows
        given = [path if path is not None else other for path, other in zip(column.to_pylist(), absent)]
        return pa.array([str(path) for path in given], pa.string())

    def _check(self, schema: pa.Schema, name: str) -> None:
        for field in self._schema:
            if schema.get_field_index(field.name) < 0 or schema.field(field.name).type != field.type:
                there = schema.field(field.name).type if field.name in schema.names else "missing"
                raise InputError(
                    f"{name}: column {field.name!r} is {there}; in {self.sources[0]} it is {field.type}; "
                    "choose other columns with --columns"
                )


def choose(schema: pa.Schema, spec: InputSpec, name: str) -> Columns:
    """Which column has the image, which the path, which are kept. Raises InputError where that is not clear."""
    for option, column in (("--bytes-column", spec.bytes_column), ("--path-column", spec.path_column)):
        if column is not None and column not in schema.names:
            raise InputError(f"{name}: {option} {column}: the columns are {', '.join(schema.names)}")
    images = [spec.bytes_column] if spec.bytes_column else [f.name for f in schema if _holds_images(f.type)]
    if spec.bytes_column is None and spec.path_column is not None and len(images) != 1:
        images = []
    if len(images) > 1:
        raise InputError(f"{name}: which column has the images, {' or '.join(images)}? say --bytes-column")
    path = spec.path_column or next((c for c in _PATH_COLUMNS if c in schema.names and c not in images), None)
    if path is not None and not _is_text(schema.field(path).type):
        if spec.path_column is not None or not images:
            raise InputError(f"{name}: column {path!r} is {schema.field(path).type}, not text")
        path = None
    if not images and path is None:
        raise InputError(f"{name}: no column of paths or images among {', '.join(schema.names)}: say --path-column")
    taken = {path, *images}
    kept = [column for column in schema.names if column not in taken]
    if spec.columns is not None:
        missing = [column for column in spec.columns if column not in kept]
        if missing:
            raise InputError(f"{name}: --columns {missing[0]}: can be {', '.join(kept) or 'none'}")
        kept = list(spec.columns)
    if not images:
        return Columns(None, path, kept)
    image = images[0]
    kind = schema.field(image).type
    if not pa.types.is_struct(kind):
        return Columns(image, path, kept)
    inner = path is None and any(kind.field(i).name == "path" for i in range(kind.num_fields))
    return Columns(f"{image}.bytes", f"{image}.path" if inner else path, kept)


def files(names: list[str], suffix: str, glob: Optional[str]) -> Iterator[str]:
    """The files that names stand for: themselves, or those of a folder or glob with the suffix, sorted."""
    count = 0
    for name in names:
        folder, pattern = split_glob(name) if has_wildcard(name) and not os.path.lexists(name) else (name, glob)
        if folder == name and not os.path.isdir(name) and not (is_url(name) and not name.endswith(suffix)):
            count += 1
            yield name
            continue
        regex = glob_regex(pattern or f"**/*{suffix}")
        for below in walk(folder if is_url(folder) else os.fsencode(folder)):
            if regex.match(below):
                count += 1
                yield folder.rstrip("/") + "/" + os.fsdecode(below)
    if count == 0:
        raise InputError(f"{', '.join(names)}: no {suffix} file")


@contextmanager
def open_table(name: str) -> Iterator[pq.ParquetFile]:
    """A parquet file, read a little at a time. Raises InputError."""
    with open_file(name) as file:
        try:
            table = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{name}: not a readable parquet file: {error}") from error
        yield table


def edges(name: str) -> list[Any]:
    """Name, size and a digest of both ends of a file: told apart from another without reading it all."""
    with open_file(name) as file:
        digest = hashlib.sha256(file.read(_EDGE_BYTES))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _EDGE_BYTES))
        digest.update(file.read(_EDGE_BYTES))
    return [name, size, digest.hexdigest()]


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _is_binary(kind.field(i).type) for i in range(kind.num_fields))
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
