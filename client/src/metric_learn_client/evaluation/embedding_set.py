"""Reads embeddings that a job wrote, with the paths and columns of their rows, shard by shard and in order.

Read are the output of `metric-learn embed --output-dir` (either format), the same layout as other tools write it
(img_emb/ and metadata/ without stats/), one parquet file with a column of embeddings, and one .npy file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metric_learn_client.errors import MetricLearnError
from metric_learn_client.image_names import PATH_COLUMNS, path_column

_EMBEDDING_COLUMN = "embedding"


class EmbeddingSetError(MetricLearnError):
    """Embeddings that cannot be read, or must not be put together; the message names the file."""


@dataclass(frozen=True)
class Identity:
    """Whose embeddings these are. fingerprint None: nothing says it."""

    fingerprint: Optional[str] = None
    weights: Optional[str] = None
    version: Optional[int] = None
    model: Optional[str] = None


@dataclass(frozen=True)
class Shard:
    """embeddings float32 [n, D]; table: n rows, with the column image_path and the user's."""

    embeddings: npt.NDArray[np.float32]
    table: pa.Table


@dataclass(frozen=True)
class EmbeddingSet:
    """A whole set in memory. dropped: rows without an embedding (NaN), left out of the others."""

    source: str
    embeddings: npt.NDArray[np.float32]
    table: pa.Table
    identity: Identity
    dropped: int

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def paths(self) -> list[str]:
        found: list[str] = self.table.column("image_path").to_pylist()
        return found

    def take(self, rows: npt.NDArray[np.int64]) -> EmbeddingSet:
        """These rows, in this order."""
        return replace(self, embeddings=self.embeddings[rows], table=self.table.take(pa.array(rows)))


def read_embedding_set(path: Path) -> EmbeddingSet:
    """Raises EmbeddingSetError."""
    embeddings, tables, dropped = [], [], 0
    for shard in iterate_shards(path):
        finite = np.isfinite(shard.embeddings).all(axis=1)
        dropped += int((~finite).sum())
        embeddings.append(shard.embeddings if finite.all() else shard.embeddings[finite])
        tables.append(shard.table if finite.all() else shard.table.filter(pa.array(finite)))
    if not embeddings or not sum(map(len, embeddings)):
        raise EmbeddingSetError(f"{path} holds no embeddings")
    if len({each.shape[1] for each in embeddings}) > 1:
        raise EmbeddingSetError(f"{path}: its shards have embeddings of different lengths")
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    return EmbeddingSet(str(path), np.concatenate(embeddings), table, read_identity(path), dropped)


def read_identity(path: Path) -> Identity:
    """The model that made them; refuses a set with two of them. Raises EmbeddingSetError."""
    if not path.is_dir():
        return _identity_of_parquet(path) if path.suffix == ".parquet" else Identity()
    fingerprints: dict[Optional[str], str] = {}
    for file in _numbered(path / "stats", ".json"):
        fingerprints.setdefault(_json(file).get("fingerprint"), file.name)
    if len(fingerprints) > 1:
        named = ", ".join(f"{name}: {str(value)[:16]}" for value, name in fingerprints.items())
        raise EmbeddingSetError(f"{path} mixes embeddings of different models ({named}); embed the set again with one")
    fingerprint = next(iter(fingerprints), None)
    model = _json(path / "job.json").get("model", {}) if (path / "job.json").is_file() else {}
    version = str(model.get("version"))
    return Identity(
        fingerprint or model.get("fingerprint"),
        model.get("weights"),
        int(version) if version.isdigit() else None,
        model.get("name"),
    )


def iterate_shards(path: Path) -> Iterator[Shard]:
    """The shards in the order of their numbers. Raises EmbeddingSetError."""
    if path.is_file():
        yield _read_npy(path, None) if path.suffix == ".npy" else _read_parquet(path)
        return
    if not path.is_dir():
        raise EmbeddingSetError(f"{path}: no such file or directory")
    files, metadata = _numbered(path / "img_emb", ".npy"), _numbered(path / "metadata", ".parquet")
    committed = {int(file.stem) for file in _numbered(path / "stats", ".json")}
    if not files:
        files = _numbered(path / "embeddings", ".parquet")
        if not files:
            raise EmbeddingSetError(f"{path} has neither img_emb/ nor embeddings/: it is not the output of a job")
    by_number = {_number(file): file for file in metadata}
    for file in files:
        number = _number(file)
        if committed and number not in committed:
            continue  # being written, or left over from a run that was stopped
        if file.suffix == ".parquet":
            yield _read_parquet(file)
            continue
        if number not in by_number:
            raise EmbeddingSetError(f"{file} has no metadata file of the same number")
        yield _read_npy(file, by_number[number])


def _read_npy(file: Path, metadata: Optional[Path]) -> Shard:
    try:
        values = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise EmbeddingSetError(f"{file} cannot be read: {error}") from error
    if values.ndim != 2:
        raise EmbeddingSetError(f"{file} has shape {values.shape}; embeddings are [n, D]")
    if metadata is None:
        table = pa.table({"image_path": [f"{file.name}#{row}" for row in range(len(values))]})
    else:
        table = _with_path(_table(metadata), metadata)
    if table.num_rows != len(values):
        raise EmbeddingSetError(f"{file} has {len(values)} rows, {metadata} {table.num_rows}")
    return Shard(values.astype(np.float32, copy=False), table)


def _read_parquet(file: Path) -> Shard:
    table = _table(file)
    names = [each for each in table.column_names if pa.types.is_list(table.schema.field(each).type)]
    names += [each for each in table.column_names if pa.types.is_fixed_size_list(table.schema.field(each).type)]
    name = _EMBEDDING_COLUMN if _EMBEDDING_COLUMN in table.column_names else next(iter(names), None)
    if name is None:
        raise EmbeddingSetError(f"{file} has no column {_EMBEDDING_COLUMN!r}: {', '.join(table.column_names)}")
    column = table.column(name).combine_chunks()
    if not _holds_vectors(column.type):
        raise EmbeddingSetError(f"{file}: the column {name!r} holds {column.type}; embeddings are lists of numbers")
    if column.null_count:
        keep = column.is_valid()
        table, column = table.filter(keep), column.filter(keep)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if len(column) and flat.size % len(column):
        raise EmbeddingSetError(f"{file}: the embeddings in {name!r} have different lengths")
    values = flat.reshape(len(column), -1).astype(np.float32, copy=False)
    return Shard(values, _with_path(table.drop_columns([name]), file))


def _holds_vectors(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _table(file: Path) -> pa.Table:
    try:
        with pa.OSFile(os.fsencode(file)) as opened:  # a name as text must be UTF-8
            return pq.read_table(opened, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise EmbeddingSetError(f"{file} cannot be read: {error}") from error


def _with_path(table: pa.Table, file: Path) -> pa.Table:
    """With its column of paths named image_path."""
    name = path_column(table.column_names)
    if name is None:
        raise EmbeddingSetError(f"{file} has no column of paths; one of {', '.join(PATH_COLUMNS)} is needed")
    return table.rename_columns(["image_path" if each == name else each for each in table.column_names])


def _identity_of_parquet(file: Path) -> Identity:
    try:
        with pa.OSFile(os.fsencode(file)) as opened:
            stored = pq.read_schema(opened).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise EmbeddingSetError(f"{file} cannot be read: {error}") from error
    for key, value in stored.items():
        if key.decode("utf-8", "replace").endswith("fingerprint"):
            return Identity(value.decode("utf-8", "replace") or None)
    return Identity()


def _numbered(folder: Path, suffix: str) -> list[Path]:
    """By number, not by name: shard 10 comes after shard 9 however they are padded."""
    if not folder.is_dir():
        return []
    return sorted((f for f in folder.iterdir() if f.suffix == suffix and re.search(r"\d", f.stem)), key=_number)


def _number(file: Path) -> int:
    return int(re.findall(r"\d+", file.stem)[-1])


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise EmbeddingSetError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise EmbeddingSetError(f"{file} holds no JSON object")
    return found
