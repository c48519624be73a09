"""Which rows of an input a plan has already. Arrow only: no disk.

A row is told by where its picture is: its source and the place there, where it lies in a table or an archive, else its
path; and by what else the input says of it, the user's columns. A row that the input has three times and the plan
once is new twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_DIGEST_BYTES = 16  # no two of a billion rows share one
_OWN = ("plan:raw", "plan:source", "plan:offset", "plan:size")


class KnownRows:
    """The rows of a plan: 36 bytes of memory for each. rows: the plan's, batch by batch; sources: what their
    `plan:source` counts in; columns: the user's that plan and input have both, in any order."""

    def __init__(self, rows: Iterable[pa.RecordBatch], sources: Sequence[str], columns: Sequence[str]) -> None:
        self._columns = columns
        found = [_digests(batch, sources, self._columns) for batch in rows]
        nothing = np.empty(0, f"S{2 * _DIGEST_BYTES}")
        self._keys, counts = np.unique(np.concatenate([*found, nothing]), return_counts=True)
        self._left = counts.astype(np.int32)

    def added(self, batches: Iterable[pa.RecordBatch], sources: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of `batches` that are not known, once; `sources` are the input's."""
        return (batch.filter(pa.array(self.unknown(batch, sources))) for batch in batches)

    def unknown(self, batch: pa.RecordBatch, sources: Sequence[str]) -> npt.NDArray[np.bool_]:
        """bool [n]: which rows are not known; each known one is taken once, over all calls."""
        if not len(self._keys):
            return np.ones(batch.num_rows, bool)
        keys = _digests(batch, sources, self._columns)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        new: npt.NDArray[np.bool_] = self._keys[places] != keys
        for index in np.flatnonzero(~new):
            place = places[index]
            new[index] = self._left[place] == 0
            self._left[place] = max(0, self._left[place] - 1)
        return new

    @property
    def missing(self) -> int:
        """After `added`: how many known rows were not among the batches."""
        return int(self._left.sum())


def _digests(batch: pa.RecordBatch, sources: Sequence[str], columns: Sequence[str]) -> npt.NDArray[np.bytes_]:
    names = batch.schema.names
    paths = batch.column(0).to_pylist()
    raws, source, offset, size = (batch.column(names.index(name)).to_pylist() for name in _OWN)
    values = [batch.column(names.index(name)).to_pylist() for name in columns]
    digests = bytearray()
    for index, path in enumerate(paths):
        if source[index] >= 0:
            row = [sources[source[index]], offset[index], size[index]]
        else:
            row = [path, None if raws[index] is None else raws[index].hex()]
        row += [str(value[index]) for value in values]
        digests += hashlib.sha256(json.dumps(row).encode()).digest()[:_DIGEST_BYTES]
    # Hexadecimal, because NumPy takes the zeros at the end of a bytes value for padding.
    return np.frombuffer(digests.hex().encode(), dtype=f"S{2 * _DIGEST_BYTES}")
