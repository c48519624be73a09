"""A search index over embeddings: FAISS, exact or approximate with its recall measured against exact.

DIR/index.faiss    the index; its ids are row numbers
DIR/items.parquet  image_path and the user's columns, one row per id
DIR/index.json     kind, count, dim, fingerprint, measured recall; written last
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Optional

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metric_learn_client.contract.whole_file import whole_folder
from metric_learn_client.errors import MetricLearnError
from metric_learn_client.evaluation.embedding_set import iterate_shards, read_identity

Kind = Literal["exact", "ivf", "hnsw"]
KINDS: tuple[Kind, ...] = ("exact", "ivf", "hnsw")
SCHEMA_VERSION = 1
_RECALL_K = 10
_RECALL_QUERIES = 1000
_TRAINING_ROWS = 100_000
_HNSW_LINKS = 32
SEED = 1234
# float32 products of unit rows of 2048, summed in another order. FAISS 1.15.1's flat index differed from ivf and hnsw
# by at most 4.8e-7, in 55,000 pairs of random, of positive and of nearly equal rows (AMD EPYC, 2026-11-26): room for
# eight times that.
_ROUNDING = 4e-6


class SearchIndexError(MetricLearnError):
    """An index that cannot be made, read or asked; the message says why and what to do."""


class FingerprintMismatch(SearchIndexError):
    """The query's embedding is another model's: its distances to these would mean nothing."""


@dataclass(frozen=True)
class IndexFacts:
    """recall_at_10: measured share of places whose similarity is not below that of the exact tenth, over
    `recall_queries` of the set's own rows; breadth: nprobe of ivf, efSearch of hnsw, 0 for exact."""

    kind: Kind
    count: int
    dim: int
    fingerprint: Optional[str]
    weights: Optional[str]
    source: str
    recall_at_10: float
    recall_queries: int
    breadth: int
    schema_version: int = SCHEMA_VERSION


class SearchIndex:
    """An index and its items. Thread-safe for searching."""

    def __init__(self, index: Any, items: pa.Table, facts: IndexFacts) -> None:
        self._index, self.items, self.facts = index, items, facts

    @property
    def paths(self) -> list[str]:
        found: list[str] = self.items.column("image_path").to_pylist()
        return found

    def search(
        self, queries: npt.ArrayLike, k: int = 10, *, fingerprint: Optional[str] = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """(ids int64 [Q, k], cosine similarity float32 [Q, k]), best first; id -1 where too few were found.

        queries [Q, dim] of any norm. fingerprint: of the model that made them; raises FingerprintMismatch where the
        index has another. Raises SearchIndexError for another dim or a k that is not 1..count.
        """
        rows = _units(queries)
        if rows.shape[1] != self.facts.dim:
            raise SearchIndexError(f"queries have {rows.shape[1]} dimensions, the index {self.facts.dim}")
        if not 1 <= k <= self.facts.count:
            raise SearchIndexError(f"k is {k}; the index holds {self.facts.count} images")
        check_fingerprint(self.facts.fingerprint, fingerprint)
        similarity, ids = self._index.search(rows, k)
        return ids, similarity

    def vectors(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """The stored unit rows, float32 [n, dim]."""
        return np.stack([self._index.reconstruct(int(each)) for each in ids])

    def save(self, folder: Path) -> None:
        """Whole or not at all. Raises SearchIndexError where the folder exists, or has a name that FAISS cannot open,
        OSError where it cannot be written."""
        try:
            str(folder).encode()
        except UnicodeEncodeError as error:
            raise SearchIndexError(f"{folder}: FAISS opens no file whose name is not UTF-8; name another") from error
        if folder.exists():
            raise SearchIndexError(f"{folder} exists; build into a new directory, or remove it")
        with whole_folder(folder) as aside:
            try:
                faiss.write_index(self._index, str(aside / "index.faiss"))
            except RuntimeError as error:  # FAISS' only one; the system's reason is in brackets at its end
                reason = re.search(r"\(([^()]*)\)\s*$", str(error))
                raise OSError(errno.EIO, reason[1] if reason else "it cannot be written", str(folder)) from error
            pq.write_table(self.items, aside / "items.parquet")
            (aside / "index.json").write_text(json.dumps(asdict(self.facts), indent=2) + "\n")


def check_fingerprint(index: Optional[str], query: Optional[str]) -> None:
    """Raises FingerprintMismatch where both are known and differ."""
    if index and query and index != query:
        raise FingerprintMismatch(
            f"the index holds embeddings of model {index[:16]}, the query's are of {query[:16]}: "
            "build an index of embeddings by the model that is served"
        )


def load_index(folder: Path) -> SearchIndex:
    """Raises SearchIndexError."""
    try:
        facts = IndexFacts(**json.loads((folder / "index.json").read_text()))
        index = faiss.read_index(str(folder / "index.faiss"))
        items = pq.read_table(folder / "items.parquet", partitioning=None)
    except FileNotFoundError as error:
        raise SearchIndexError(f"{folder} is not an index ({Path(error.filename).name} is missing)") from error
    except (RuntimeError, ValueError, TypeError, pa.ArrowInvalid) as error:
        said = str(error).strip().splitlines()
        raise SearchIndexError(
            f"{folder} cannot be read ({said[-1] if said else 'damaged'}); build it again"
        ) from error
    if facts.schema_version != SCHEMA_VERSION or not index.ntotal == items.num_rows == facts.count:
        raise SearchIndexError(f"{folder} is of another version, or its files do not belong together; build it again")
    _widen(index, facts.kind, facts.breadth)
    return SearchIndex(index, items, facts)


def build_index(source: Path, kind: Kind = "exact", *, target_recall: float = 0.95) -> SearchIndex:
    """Builds from a job's output, one shard in memory at a time beside the index. Raises SearchIndexError.

    An approximate index searches as wide as it takes for a Recall@10 of target_recall against exact.
    """
    identity = read_identity(source)
    tables, count, dim = [], 0, 0
    flat: Any = None
    for shard in iterate_shards(source):
        finite = np.isfinite(shard.embeddings).all(axis=1) & (np.abs(shard.embeddings).max(axis=1, initial=0) > 0)
        if flat is None:
            dim = shard.embeddings.shape[1]
            flat = faiss.IndexFlatIP(dim)
        if shard.embeddings.shape[1] != dim:
            raise SearchIndexError(f"{source}: embeddings of {dim} and of {shard.embeddings.shape[1]} dimensions")
        flat.add(_units(shard.embeddings[finite]))
        tables.append(shard.table.filter(pa.array(finite)))
        count += int(finite.sum())
    if flat is None or not count:
        raise SearchIndexError(f"{source} holds no embeddings")
    items = pa.concat_tables(tables, promote_options="default").combine_chunks()
    items = items.replace_schema_metadata(None)
    index, recall, queries, breadth = flat, 1.0, 0, 0
    if kind != "exact":
        index = _approximate(flat, kind, count, dim)
        recall, queries, breadth = _tune(index, flat, kind, count, target_recall)
    facts = IndexFacts(kind, count, dim, identity.fingerprint, identity.weights, str(source), recall, queries, breadth)
    return SearchIndex(index, items, facts)


def _approximate(flat: Any, kind: Kind, count: int, dim: int) -> Any:
    rng = np.random.default_rng(SEED)
    index: Any
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
    else:
        lists = int(max(1, min(4 * np.sqrt(count), count / 39)))  # FAISS asks for 39 training rows a list
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = SEED
        chosen = np.sort(rng.choice(count, min(count, _TRAINING_ROWS), replace=False))
        index.train(_stored(flat)[chosen])
    index.add(_stored(flat))
    if kind == "ivf":
        index.make_direct_map()
    return index


def _stored(flat: Any) -> npt.NDArray[np.float32]:
    rows: npt.NDArray[np.float32] = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)
    return rows


def _tune(index: Any, flat: Any, kind: Kind, count: int, target: float) -> tuple[float, int, int]:
    """(recall, queries it was measured on, breadth): the narrowest search, by doubling, that reaches the target."""
    k = min(_RECALL_K, count - 1)
    if k < 1:
        return 1.0, 0, 1
    chosen = np.sort(np.random.default_rng(SEED + 1).choice(count, min(count, _RECALL_QUERIES), replace=False))
    queries = _stored(flat)[chosen]
    similarity, ids = flat.search(queries, k + 1)
    least = [_others(*row, k)[-1] for row in zip(similarity, ids, chosen)]
    widest = index.nlist if kind == "ivf" else max(16, min(count, 4096))
    breadth = 1 if kind == "ivf" else 16
    while True:
        _widen(index, kind, breadth)
        similarity, ids = index.search(queries, k + 1)
        # Not by id: of pictures that are alike any is as right as another.
        places = [_others(*row, k) for row in zip(similarity, ids, chosen)]
        recall = float(np.mean([(place >= kth - _ROUNDING).sum() / k for place, kth in zip(places, least)]))
        if recall >= target or breadth >= widest:
            return recall, len(chosen), breadth
        breadth = min(2 * breadth, widest)


def _others(
    similarity: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], own: int, k: int
) -> npt.NDArray[np.float32]:
    """The similarities of at most k found rows, best first, without the row itself, which says nothing of the index."""
    others: npt.NDArray[np.float32] = similarity[(ids != own) & (ids >= 0)]
    return others[:k]


def _widen(index: Any, kind: Kind, breadth: int) -> None:
    if kind == "ivf":
        index.nprobe = breadth
    elif kind == "hnsw":
        index.hnsw.efSearch = breadth


def _units(rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
    values = np.array(rows, np.float32, ndmin=2)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(values).all() or not (norms > 0).all():
        raise SearchIndexError("an embedding is zero or not finite")
    return np.ascontiguousarray(values / norms)
