"""What rows an input has, as one digest of all of them in order. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import pyarrow as pa


class Listing:
    """SHA-256 over image_path and the user's columns, row by row; the same however the rows are batched."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def through(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        encode = json.JSONEncoder(default=str).encode
        for batch in batches:
            names = [name for name in batch.schema.names if not name.startswith("plan:")]
            values = [batch.column(index).to_pylist() for index in range(len(names))]
            self._sha256.update("".join(encode(row) + "\n" for row in zip(*values)).encode())
            yield batch

    def sha256(self) -> str:
        return self._sha256.hexdigest()
