"""Parquet tables with a column of paths or of encoded images; the other columns are kept. Read batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Optional

import pyarrow as pa
import pyarrow.parquet as pq

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.columns import as_type, choose, dotted, holds_images, plain
from metric_learn_client.jobs.inputs.input_rows import CHUNK_ROWS, LOCATION, Input, planned_schema
from metric_learn_client.jobs.inputs.sources import Source, edges, find_sources
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.jobs.storage import is_url, open_file


class TableInput(Input):
    """Files in the order given, rows in theirs. A column of structs with `bytes` (as Hugging Face has it) counts.

    The keys of Hive's folders (label=a/part-0.parquet) are columns, too, as text, unless the table has a column of
    that name. Relative paths belong to the working directory, or, where the first row's is not there, to the folder
    of their table.
    """

    kind = "parquet"

    def __init__(self, names: list[str], spec: InputSpec) -> None:
        super().__init__()
        self._spec = spec
        self._sources = find_sources(names, ".parquet", spec.glob, self.skipped)
        self.sources = [source.name for source in self._sources]
        with open_table(self.sources[0]) as table:
            whole = self._whole = table.schema_arrow
            self._partitions = self._keys(whole)
            if spec.columns is not None:
                spec = replace(spec, columns=tuple(name for name in spec.columns if name not in self._partitions))
            self.found = choose(whole, spec, self.sources[0])
            self.image_column = None if self.found.image is None else dotted(self.found.image)
            kept = [pa.field(name, plain(whole.field(name).type)) for name in self.found.kept]
            self._schema = pa.schema([*kept, *(pa.field(name, pa.string()) for name in self._partitions)])
            self.root = spec.root if spec.root is not None else self._root(table)

    @property
    def columns(self) -> pa.Schema:
        return self._schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        schema = planned_schema(self.columns)
        for number, source in enumerate(self._sources):
            with open_table(source.name) as table:
                self._check(table.schema_arrow, source.name)
                first = 0
                for group in range(table.num_row_groups):
                    first_in_group = first
                    for batch in self._read(table, group, source.name):
                        yield self._planned(batch, schema, number, group, first - first_in_group, first)
                        first += batch.num_rows
                if first != table.metadata.num_rows:
                    raise InputError(f"{source.name}: {table.metadata.num_rows} rows by its footer, {first} in it")

    def signature(self) -> Optional[list[Any]]:
        return [edges(name) for name in self.sources]

    def _keys(self, schema: pa.Schema) -> list[str]:
        """The partition columns, in the order in which paths have them."""
        keys = dict.fromkeys(key for source in self._sources for key in source.partitions if key not in schema.names)
        wanted = self._spec.columns
        return [key for key in keys if wanted is None or key in wanted]

    def _root(self, table: pq.ParquetFile) -> Optional[str]:
        """The folder of the first table where its first relative path is there and not below the working directory."""
        if self.found.image is not None or self.found.path is None:
            return None
        folder = os.path.dirname(self.sources[0])
        first = next(table.iter_batches(1, columns=[self.found.path[0]]), None)
        path = first.column(0)[0].as_py() if first is not None and first.num_rows else None
        if not isinstance(path, str) or not path or "\0" in path or is_url(path) or is_url(self.sources[0]):
            return None
        beside = os.path.exists(os.fsencode(os.path.join(folder, path)))
        return folder or None if beside and not os.path.exists(os.fsencode(path)) else None

    def _read(self, table: pq.ParquetFile, group: int, name: str) -> Iterator[pa.RecordBatch]:
        path = [] if self.found.path is None else [dotted(self.found.path)]
        wanted = [*path, *self.found.kept]
        if not wanted:  # reading no column gives no rows
            count = table.metadata.row_group(group).num_rows
            for start in range(0, count, CHUNK_ROWS):
                nothing = pa.nulls(min(CHUNK_ROWS, count - start))
                yield pa.RecordBatch.from_arrays([nothing], names=["nothing"])
            return
        try:
            yield from table.iter_batches(CHUNK_ROWS, row_groups=[group], columns=wanted)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{name}, row group {group}: {str(error).splitlines()[0]}") from error

    def _planned(
        self, batch: pa.RecordBatch, schema: pa.Schema, number: int, group: int, row: int, first: int
    ) -> pa.RecordBatch:
        count = batch.num_rows
        source = self._sources[number]
        paths = self._paths(batch, source, first)
        location = (
            self._places(paths, source),
            pa.array([number if self.found.image is not None else -1] * count, LOCATION[1].type),
            pa.array([group] * count, LOCATION[2].type),
            pa.array(range(row, row + count), LOCATION[3].type),
        )
        try:
            kept = [as_type(_column(batch, name), self._schema.field(name).type) for name in self.found.kept]
        except pa.ArrowException as error:
            raise InputError(f"{source.name}, row group {group}: {str(error).splitlines()[0]}") from error
        folders = [pa.array([source.partitions.get(key)] * count, pa.string()) for key in self._partitions]
        return pa.RecordBatch.from_arrays([paths, *kept, *folders, *location], schema=schema)

    def _paths(self, batch: pa.RecordBatch, source: Source, first: int) -> pa.Array:
        made_up = [f"{source.shown}#{first + index}" for index in range(batch.num_rows)]
        if self.found.path is None:
            return pa.array(made_up, pa.string())
        name, inner = self.found.path
        column = _column(batch, name)
        if inner is not None:
            column = column.field(inner)
        absent = made_up if self.found.image is not None else [""] * batch.num_rows
        given = [path if path is not None else other for path, other in zip(column.to_pylist(), absent)]
        return pa.array([str(path) for path in given], pa.string())

    def _places(self, paths: pa.Array, source: Source) -> pa.Array:
        """`plan:raw`: for a table that is not in the folder of the first, which is `root`, where its relative paths
        lead."""
        folder = os.path.dirname(source.name)
        if self.found.image is not None or self.root in (None, self._spec.root, folder) or is_url(source.name):
            return pa.nulls(len(paths), LOCATION[0].type)
        whole = os.path.abspath(os.fsencode(folder or "."))
        places = [None if is_url(path) else os.path.join(whole, path.encode()) for path in paths.to_pylist()]
        return pa.array(places, LOCATION[0].type)

    def _check(self, schema: pa.Schema, name: str) -> None:
        """Raises InputError where a table is not like the first one."""
        first = self.sources[0]
        for column in self.found.needed:
            if schema.names.count(column) != 1:
                there = "there twice" if column in schema.names else "missing"
                raise InputError(f"{name}: column {column!r} is {there}; {first} has it; choose others with --columns")
            kind, wanted = plain(schema.field(column).type), plain(self._whole.field(column).type)
            same = kind in (wanted, pa.null())
            if self.found.image is not None and column == self.found.image[0]:
                same = holds_images(kind) == holds_images(wanted)
                same = same and pa.types.is_struct(kind) == pa.types.is_struct(wanted)
            if not same:
                raise InputError(
                    f"{name}: column {column!r} is {kind}; in {first} it is {wanted}; "
                    "choose other columns with --columns"
                )
        more = [column for column in schema.names if column not in self._whole.names]
        if more and self._spec.columns is None:
            raise InputError(f"{name}: {first} has no column {more[0]!r}; say with --columns which to keep")


@contextmanager
def open_table(name: str) -> Iterator[pq.ParquetFile]:
    """A parquet file, read a little at a time. Raises InputError."""
    with open_file(name) as file:
        try:
            table = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{name}: not a readable parquet file: {str(error).splitlines()[0]}") from error
        yield table


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """By its name: Arrow also reads columns whose names begin with this one and a dot."""
    return batch.column(batch.schema.get_field_index(name))
