"""What rows an input has, as digests: one of all of them in order, and one a row, to tell known from new. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Of each of some paths, whether it is known: bool [n].
Has = Callable[[list[str]], npt.NDArray[np.bool_]]

_DIGEST_CHARS = 32  # 128 bits of a path's digest: no two of a billion paths share one


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


def known_paths(blocks: Iterable[list[str]]) -> Has:
    """A function that says of each of some paths whether it is in `blocks`: 32 bytes of memory a path."""
    known = np.sort(np.concatenate([_path_digests(block) for block in blocks]))

    def has(paths: list[str]) -> npt.NDArray[np.bool_]:
        digests = _path_digests(paths)
        place = np.minimum(np.searchsorted(known, digests), len(known) - 1)
        return np.asarray(known[place] == digests)

    return has


def _path_digests(paths: list[str]) -> Any:
    digests = [hashlib.sha256(path.encode()).hexdigest()[:_DIGEST_CHARS] for path in paths]
    return np.array(digests, dtype=f"S{_DIGEST_CHARS}")


def without(batches: Iterable[pa.RecordBatch], has: Has) -> Iterator[pa.RecordBatch]:
    """The rows whose image_path is not known."""
    for batch in batches:
        yield batch.filter(pa.array(~has(batch.column(0).to_pylist())))
