"""A shuffle that never holds all rows: deal them into buckets on disk, then shuffle one bucket at a time.

Both passes draw uniform doubles, one a row, in order: the result depends on the seed and the rows alone, not on how
the rows came in batches. Every order is possible; a bucket holds about one row in _BUCKETS.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

_BUCKETS = 64


def shuffled(batches: Iterable[pa.RecordBatch], schema: pa.Schema, seed: int, folder: Path) -> Iterator[pa.RecordBatch]:
    """The rows of `batches` in an order that `seed` decides. `folder` exists and takes the buckets meanwhile."""
    deal, order = (np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(seed).spawn(2))
    names = [folder / f"bucket-{bucket:02d}.arrow" for bucket in range(_BUCKETS)]
    with ExitStack() as stack:
        files = [stack.enter_context(pa.OSFile(os.fsencode(name), "wb")) for name in names]
        writers = [stack.enter_context(pa.ipc.new_stream(file, schema)) for file in files]
        for batch in batches:
            into = (deal.random(batch.num_rows) * _BUCKETS).astype(np.int64)
            for bucket in np.unique(into):
                writers[bucket].write_batch(batch.take(pa.array(np.flatnonzero(into == bucket))))
    for name in names:
        with pa.OSFile(os.fsencode(name)) as file, pa.ipc.open_stream(file) as reader:
            table = reader.read_all()
        name.unlink()
        permutation = np.argsort(order.random(table.num_rows), kind="stable")
        yield from table.take(pa.array(permutation)).to_batches()
