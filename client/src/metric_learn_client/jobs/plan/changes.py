"""What became of planned rows since: `--sync` takes away and embeds anew. The plan's rows stay where they are.

Each sync that finds something is a generation. A shard whose stats name an older one than its rows have is to be
written again: without the rows that are gone, and with the changed ones embedded anew. Arrow only, and a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Changes:
    """rows int64 [n], ascending: numbers of the job; generations int32 [n]: the last in which each changed or went;
    gone bool [n]."""

    rows: Rows
    generations: npt.NDArray[np.int32]
    gone: npt.NDArray[np.bool_]

    @classmethod
    def none(cls) -> Changes:
        return cls(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, bool))

    def and_then(self, generation: int, changed: Rows, gone: Rows) -> Changes:
        """These, and those of one more generation."""
        new = np.concatenate([changed, gone])
        kept = ~np.isin(self.rows, new)
        rows = np.concatenate([self.rows[kept], new])
        order = np.argsort(rows, kind="stable")
        generations = np.concatenate([self.generations[kept], np.full(len(new), generation, np.int32)])
        flags = np.concatenate([self.gone[kept], np.zeros(len(changed), bool), np.ones(len(gone), bool)])
        return Changes(rows[order], generations[order], flags[order])

    def between(self, first: int, count: int) -> Changes:
        """Those of the rows [first, first + count), numbered from first."""
        start, end = np.searchsorted(self.rows, [first, first + count])
        return Changes(self.rows[start:end] - first, self.generations[start:end], self.gone[start:end])

    def gone_by(self, generation: int) -> Rows:
        return self.rows[self.gone & (self.generations <= generation)]

    def changed_since(self, generation: int) -> Rows:
        return self.rows[~self.gone & (self.generations > generation)]

    def save(self, path: Path) -> None:
        columns = [pa.array(self.rows), pa.array(self.generations), pa.array(self.gone)]
        batch = pa.RecordBatch.from_arrays(columns, names=["row", "generation", "gone"])
        with pa.OSFile(os.fsencode(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)

    @classmethod
    def load(cls, path: Path) -> Changes:
        with pa.OSFile(os.fsencode(path)) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
        rows, generations, gone = (table.column(name).to_numpy() for name in ("row", "generation", "gone"))
        return cls(rows, generations, gone)
