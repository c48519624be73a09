"""The files that a shard's rows were read from, as they were then: so that `--sync` can tell which have changed.

Kept beside the shard and committed with it, but no part of the data: the time of a file says nothing of its picture.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metric_learn_client.jobs.output.durable import synced
from metric_learn_client.jobs.output.layout import seen_file
from metric_learn_client.jobs.output.output import Output
from metric_learn_client.jobs.output.shard_files import damage_named, read_table

_DIGEST_BYTES = 16
_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("sha256", pa.binary()),
    ]
)


class Seen(NamedTuple):
    """A file as it was looked at: bytes and time of its last change, None where it was not there or comes from a URL;
    sha256: the first 16 bytes of its digest, None where it was not read."""

    size: Optional[int] = None
    mtime_ns: Optional[int] = None
    sha256: Optional[bytes] = None


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_DIGEST_BYTES]


def write_seen(folder: Path, shard: int, seen: dict[int, Seen]) -> None:
    """seen: by the job's rows."""
    rows = [{"row": row, **seen[row]._asdict()} for row in sorted(seen)]
    with synced(folder / Path(seen_file(shard)).name) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), file)


def read_seen(output: Output, shard: int) -> Optional[dict[int, Seen]]:
    """By the job's rows; None where the shard has none: an earlier version wrote it. Raises OutputError."""
    with damage_named(output, seen_file(shard), shard):
        try:
            table = read_table(output, seen_file(shard), shard)
        except FileNotFoundError:
            return None
        rows: npt.NDArray[np.int64] = table.column("row").to_numpy()
        facts = (table.column(name).to_pylist() for name in Seen._fields)
        return dict(zip(rows.tolist(), map(Seen, *facts)))
