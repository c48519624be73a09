"""Paths that tell rows apart: the second row of a path is given another one, `a.jpg#2`. Arrow only: no disk.

For rows whose picture lies in a table or an archive; a list may name a picture as often as it likes. Two passes: one
that takes eight bytes a row, and one over the rows, where there is a path to change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

PathHashes = npt.NDArray[np.uint64]


def path_hashes(batch: pa.RecordBatch) -> PathHashes:
    """uint64 [n]. Two paths that share one only cost a row its short name."""
    digests = b"".join(hashlib.sha256(path.encode()).digest()[:8] for path in batch.column(0).to_pylist())
    return np.frombuffer(digests, np.uint64)


def repeated(new: Sequence[PathHashes], known: Sequence[PathHashes]) -> set[int]:
    """The hashes that stand more than once in `new`, or in `known` as well; each is a path to change."""
    values, counts = np.unique(np.concatenate([*new, np.empty(0, np.uint64)]), return_counts=True)
    also_known = np.isin(values, np.unique(np.concatenate([*known, np.empty(0, np.uint64)])))
    return set(values[(counts > 1) | also_known].tolist())


def with_unique_paths(
    batches: Iterable[pa.RecordBatch], changed: set[int], new: Sequence[PathHashes], known: Sequence[PathHashes]
) -> Iterator[pa.RecordBatch]:
    """The same rows; of those that share a path the first keeps it, unless it is known."""
    taken = np.unique(np.concatenate([*new, *known]))
    given = set(np.unique(np.concatenate([*known, np.empty(0, np.uint64)])).tolist()) & changed
    numbers: dict[int, int] = {}
    made: set[str] = set()
    for batch in batches:
        paths = batch.column(0).to_pylist()
        for index, value in enumerate(path_hashes(batch).tolist()):
            if value not in changed:
                continue
            if value not in given:
                given.add(value)
                continue
            paths[index] = _another(paths[index], value, numbers, made, taken)
        yield pa.RecordBatch.from_arrays([pa.array(paths, pa.string()), *batch.columns[1:]], schema=batch.schema)


def _another(path: str, value: int, numbers: dict[int, int], made: set[str], taken: PathHashes) -> str:
    while True:
        numbers[value] = numbers.get(value, 1) + 1
        name = f"{path}#{numbers[value]}"
        wanted = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], np.uint64)[0]
        place = min(int(np.searchsorted(taken, wanted)), len(taken) - 1)
        if taken[place] != wanted and name not in made:
            made.add(name)
            return name
