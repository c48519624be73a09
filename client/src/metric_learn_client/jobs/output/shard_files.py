"""The files of one shard: what was embedded, what failed, and the stats that say so. Deterministic, byte for byte.

No time, host or endpoint is in them: the same rows and the same model give the same files, whichever engine wrote
them and however often it was interrupted. Times are in runs.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metric_learn_client._version import __version__
from metric_learn_client.contract.digests import sha256_of
from metric_learn_client.jobs.errors import OutputError
from metric_learn_client.jobs.inputs.input_rows import one_batch
from metric_learn_client.jobs.options import JobOptions
from metric_learn_client.jobs.output.durable import output_errors, synced
from metric_learn_client.jobs.output.layout import data_files, stats_file
from metric_learn_client.jobs.output.output import Output

_FAILURES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("image_path", pa.string()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
    ]
)
# Of the stats, those without which nothing can be said of a shard.
_FACTS = {"shard": int, "succeeded": int, "failed": int, "fingerprint": str, "files": dict}
_METADATA_PREFIX = "metric_learn."


@dataclass(frozen=True)
class ShardIdentity:
    """Whose rows these are and which model's embeddings; in the metadata of every file of the shard."""

    shard: int
    first_row: int
    input_sha256: str
    fingerprint: str
    version: str
    generation: int = 0


@dataclass(frozen=True)
class RowFailure:
    """row: its number in the job."""

    row: int
    image_path: str
    code: str
    message: str


@dataclass(frozen=True)
class ShardContent:
    """numbers int64 [n]: the jobs' rows, ascending; rows: image_path and the user's columns of them, n rows;
    embeddings [n, 2048]; failures: the other rows of the shard, ascending."""

    numbers: npt.NDArray[np.int64]
    rows: pa.RecordBatch
    embeddings: npt.NDArray[Any]
    failures: Sequence[RowFailure]


def write_shard(folder: Path, content: ShardContent, identity: ShardIdentity, options: JobOptions) -> dict[str, Any]:
    """Writes and syncs every file of the shard into `folder`, stats last, and returns the stats. OutputError."""
    shard = identity.shard
    names = data_files(options.output_format, shard)
    if not len(content.numbers):  # embedding_reader cannot read a file without rows
        names = names[-1:]
    embeddings = np.ascontiguousarray(content.embeddings, dtype=options.dtype)
    facts = {
        "fingerprint": identity.fingerprint,
        "version": identity.version,
        "client_version": __version__,
        "input_sha256": identity.input_sha256,
        "preprocess": options.preprocess,
    }
    tables = {names[-1]: _failures_table(content.failures, facts)}
    table = _rows_table(content, facts)
    if len(names) == 1:
        pass
    elif options.output_format == "npy":
        with synced(folder / Path(names[0]).name) as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(embeddings))
            file.write(embeddings.reshape(-1).view(np.uint8).data)  # write_array hides the reason of a failed write
        tables[names[1]] = table
    else:
        column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
        tables[names[0]] = table.append_column(options.embedding_column, column)
    for name, each in tables.items():
        with synced(folder / Path(name).name) as file:
            plain = [column for column in each.schema.names if column != options.embedding_column]
            pq.write_table(each, file, compression="snappy", use_dictionary=plain)
    stats = {
        "shard": shard,
        "first_row": identity.first_row,
        "rows": len(content.numbers) + len(content.failures),
        "succeeded": len(content.numbers),
        "failed": len(content.failures),
        **facts,
        "output_format": options.output_format,
        "embedding_column": options.embedding_column,
        "dtype": options.dtype,
        "dim": int(embeddings.shape[1]),
        **({"generation": identity.generation} if identity.generation else {}),  # after a --sync: see plan/changes
        "files": {name: file_digest(folder / Path(name).name) for name in names},
    }
    with synced(folder / Path(stats_file(shard)).name) as file:
        file.write((json.dumps(stats, indent=1) + "\n").encode())
    return stats


def read_stats(output: Output, shard: int) -> dict[str, Any]:
    """Raises OutputError where the file is not as written."""
    name = stats_file(shard)
    with output_errors(Path(output.name) / name), output.open(name, shard) as file:
        content = file.read()
    try:
        stats: Any = json.loads(content)
        if not isinstance(stats, dict) or not isinstance(stats.get("generation", 0), int):
            raise ValueError("no object with its facts")
        if missing := [fact for fact in _FACTS if not isinstance(stats.get(fact), _FACTS[fact])]:
            raise ValueError(f"{missing[0]} is missing")
        return stats
    except ValueError as error:
        raise OutputError(f"{output.name}/{name}: not the stats of a shard: {error}; {_anew(output, shard)}") from error


def read_shard(output: Output, stats: dict[str, Any]) -> ShardContent:
    """What `write_shard` wrote. Raises OutputError."""
    with damage_named(output, f"shard {stats['shard']}", stats["shard"]):
        return _shard_of(output, stats)


def _shard_of(output: Output, stats: dict[str, Any]) -> ShardContent:
    names = list(stats["files"])

    def table_of(name: str) -> pa.Table:
        with damage_named(output, name, stats["shard"]):
            return read_table(output, name, stats["shard"])

    failures = [RowFailure(**each) for each in table_of(names[-1]).to_pylist()]
    if len(names) == 1:
        nothing = pa.RecordBatch.from_pylist([], schema=pa.schema([pa.field("image_path", pa.string())]))
        return ShardContent(np.empty(0, np.int64), nothing, np.empty((0, stats["dim"]), stats["dtype"]), failures)
    if stats["output_format"] == "npy":
        with damage_named(output, names[0], stats["shard"]), output.open(names[0], stats["shard"]) as file:
            embeddings = np.load(file, allow_pickle=False)
        table = table_of(names[1])
    else:
        table = table_of(names[0])
        column = table.column(stats["embedding_column"]).combine_chunks()
        embeddings = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
        table = table.drop_columns([stats["embedding_column"]])
    rows = one_batch(table.drop_columns(["row"]))
    return ShardContent(table.column("row").to_numpy(), rows, embeddings, failures)


@contextmanager
def damage_named(output: Output, name: str, shard: int) -> Iterator[None]:
    """What reading a shard's file raises becomes an OutputError with its name, and with what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise OutputError(f"{output.name}/{name} is missing; {_anew(output, shard)}") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutputError(f"{output.name}/{name} cannot be read: {reason}; {_anew(output, shard)}") from error


def _anew(output: Output, shard: int) -> str:
    return f"remove {output.name}/{stats_file(shard)} and run the same command again: it does this shard anew"


def read_table(output: Output, name: str, shard: int, columns: Optional[list[str]] = None) -> pa.Table:
    """A parquet file of a shard. Raises FileNotFoundError, pa.ArrowException.

    Arrow gets the bytes, not the file: its threads hold on to that for a moment longer, and one that drops an object of
    Python's while the interpreter ends aborts the process (seen with pyarrow 26).
    """
    content = pa.BufferOutputStream()
    with output.open(name, shard) as file:
        while block := file.read(1 << 20):
            content.write(block)
    return pq.ParquetFile(pa.BufferReader(content.getvalue())).read(columns)


def file_digest(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> dict[str, Any]:
    """Of a file that was opened just now."""
    sha256 = sha256_of(file)
    return {"bytes": file.tell(), "sha256": sha256}


def _rows_table(content: ShardContent, facts: dict[str, str]) -> pa.Table:
    schema = pa.schema([pa.field("row", pa.int64()), *content.rows.schema], metadata=_metadata(facts))
    return pa.Table.from_arrays([pa.array(content.numbers, pa.int64()), *content.rows.columns], schema=schema)


def _failures_table(failures: Sequence[RowFailure], facts: dict[str, str]) -> pa.Table:
    schema = _FAILURES_SCHEMA.with_metadata(_metadata(facts))
    return pa.Table.from_pylist([vars(failure) for failure in failures], schema=schema)


def _metadata(facts: dict[str, str]) -> dict[str, str]:
    return {_METADATA_PREFIX + key: value for key, value in facts.items()}
