"""What every kind of input gives: rows to plan. Arrow only: no disk.

A planned row is `image_path`, the user's columns, and where the image is, in columns that no user can have named so:

    plan:raw      binary; the file's name where it is not text, and where it does not belong to the input's `root` the
                  whole path or URL; else null; in an archive, why a member has no bytes
    plan:source   int32; index into the input's `sources`, -1 where the row is a file of its own
    plan:offset   int64; first byte in an archive, or row group of a table; -1 for a member without bytes
    plan:size     int64; bytes in an archive, or row in its row group
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Optional

import pyarrow as pa

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.skipped import Skipped

CHUNK_ROWS = 8192
LOCATION = (
    pa.field("plan:raw", pa.binary()),
    pa.field("plan:source", pa.int32()),
    pa.field("plan:offset", pa.int64()),
    pa.field("plan:size", pa.int64()),
)
_RESERVED = ("row", "image_path", "code", "message")

# image_path, the user's values, raw, source, offset, size
Row = tuple[Any, ...]


class Input(ABC):
    """One input. root: what the relative paths of its rows are relative to, None for the working directory.

    image_column: where the images lie in a table, "image.bytes" for a field of a struct. skipped: what was found and
    not taken, known after batches().
    """

    kind: str
    root: Optional[str] = None
    image_column: Optional[str] = None
    sources: Sequence[str] = ()

    def __init__(self) -> None:
        self.skipped = Skipped()

    @property
    def columns(self) -> pa.Schema:
        """The user's columns."""
        return pa.schema([])

    @abstractmethod
    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, a bounded number at a time, as `planned_schema(columns)`. Raises InputError."""

    def signature(self) -> Optional[list[Any]]:
        """Changes when the input's list of rows does; None where only listing it again tells."""
        return None


def planned_schema(columns: pa.Schema) -> pa.Schema:
    """Raises InputError where a column of the user's has a name that the output needs."""
    for name in columns.names:
        if name in _RESERVED or name.startswith("plan:"):
            raise InputError(
                f"the input has a column {name!r}, a name that the output uses itself; keep others with --columns"
            )
    if len(set(columns.names)) < len(columns.names):
        twice = next(name for name in columns.names if columns.names.count(name) > 1)
        raise InputError(f"two columns of the input are called {twice!r}: rename one, or keep others with --columns")
    return pa.schema([pa.field("image_path", pa.string()), *columns, *LOCATION])


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """The rows of a table as one batch. Raises InputError where a column is too large for
    that: Arrow's plain text, bytes and lists take 2 GiB in one batch, and what goes beyond would be another batch."""
    try:
        batches = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    except pa.ArrowInvalid:  # of lists and structs, which it does not divide
        batches = []
    if len(batches) != 1:
        raise InputError(
            f"{table.num_rows} rows of one shard have more than 2 GiB in one column: lower --shard-size, or keep fewer "
            "columns with --columns"
        )
    return batches[0]


def chunked(rows: Iterable[Row], columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows as batches of `planned_schema(columns)`."""
    schema = planned_schema(columns)
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK_ROWS)):
        arrays = [pa.array(values, field.type) for values, field in zip(zip(*chunk), schema)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
