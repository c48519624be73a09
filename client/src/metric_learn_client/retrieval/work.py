"""How the work is cut: threads, tiles and memory. Changes no result."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from metric_learn_client.retrieval.similarity import Indices

MANY = 64  # relevant images of one query, above which its gallery is sorted
BYTES_PER_PAIR = 48  # of one tile at its worst: the product, masks, and index lists where every pair is undecided
DEFAULT_MEMORY_MB = 512  # of all tiles in work together, beside the embeddings and two factors as large as they are
MOST_ROWS = 1536  # of a tile: enough for the matrix product's full speed


@dataclass(frozen=True)
class Work:
    """threads: blocks in work at once; block_rows: queries of one block, None for what memory_mb allows."""

    threads: int = 0
    block_rows: Optional[int] = None
    memory_mb: int = DEFAULT_MEMORY_MB
    many: int = MANY

    def thread_count(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))

    def rows(self, width: Optional[int] = None) -> int:
        """Rows of a tile that is `width` wide; None: as wide as tall."""
        pairs = self.memory_mb * 2**20 // self.thread_count() // BYTES_PER_PAIR
        most = int(pairs**0.5) if width is None else pairs // width
        return self.block_rows or max(1, min(most, MOST_ROWS))

    def blocks(self, index: Indices, width: int) -> Iterator[Indices]:
        rows = self.rows(width)
        for start in range(0, len(index), rows):
            yield index[start : start + rows]
