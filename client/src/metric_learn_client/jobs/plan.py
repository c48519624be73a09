"""The plan: every row of the input, on disk, cut into shards. Written once, then any shard is read without the others.

Extents: a job starts with one; each `--extend` that finds new rows adds one, with shards of its own, so that shards
once written never change. One Arrow record batch is one shard.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import pyarrow as pa

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs import Input
from metric_learn_client.jobs.inputs.rows import planned_schema
from metric_learn_client.jobs.listing import Listing, known_paths, without
from metric_learn_client.jobs.options import MAX_SHARDS, InputSpec
from metric_learn_client.jobs.shuffle import shuffled


@dataclass(frozen=True)
class Extent:
    """Rows planned at one time. sha256: of the input's list of rows as it was then."""

    rows: int
    shards: int
    sha256: str


@dataclass(frozen=True)
class Plan:
    """A plan on disk. signature: the input's, where it has one; listing: digest of its rows when last listed."""

    folder: Path
    shard_size: int
    kind: str
    root: Optional[str]
    sources: list[str]
    image_column: Optional[str]
    signature: Optional[list[Any]]
    listing: str
    extents: tuple[Extent, ...]
    _open: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def rows(self) -> int:
        return sum(extent.rows for extent in self.extents)

    @property
    def shards(self) -> int:
        return sum(extent.shards for extent in self.extents)

    def extent_of(self, shard: int) -> tuple[int, int]:
        """(extent, place in it) of a shard."""
        place = shard
        for index, extent in enumerate(self.extents):
            if place < extent.shards:
                return index, place
            place -= extent.shards
        raise IndexError(shard)

    def span(self, shard: int) -> tuple[int, int]:
        """(its first row, its number of rows) of a shard."""
        index, place = self.extent_of(shard)
        before = sum(extent.rows for extent in self.extents[:index])
        first = place * self.shard_size
        return before + first, min(self.shard_size, self.extents[index].rows - first)

    def read(self, shard: int) -> pa.RecordBatch:
        """The rows of a shard. Not thread-safe."""
        index, place = self.extent_of(shard)
        if index not in self._open:
            self._open[index] = pa.ipc.open_file(pa.memory_map(str(self.folder / _rows_file(index))))
        return self._open[index].get_batch(place)

    def truncated(self, extents: int) -> Plan:
        """The plan with its first extents only."""
        return replace(self, extents=self.extents[:extents], _open={})

    def save(self) -> None:
        """Writes the plan's facts; whole or not at all."""
        facts = {
            "shard_size": self.shard_size,
            "kind": self.kind,
            "root": self.root,
            "sources": self.sources,
            "image_column": self.image_column,
            "signature": self.signature,
            "listing": self.listing,
            "extents": [vars(extent) for extent in self.extents],
        }
        aside = self.folder / "plan.json.new"
        aside.write_text(json.dumps(facts))
        aside.replace(self.folder / "plan.json")


def load(folder: Path) -> Optional[Plan]:
    """The plan in `folder`, None where there is none."""
    try:
        facts = json.loads((folder / "plan.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    facts["extents"] = tuple(Extent(**each) for each in facts["extents"])
    return Plan(folder, **facts)


def build(source: Input, spec: InputSpec, shard_size: int, folder: Path, before: Optional[Plan] = None) -> Plan:
    """Lists the input and writes the plan to `folder`. With `before`, which is there: its extents, and one more with
    the rows whose image_path it does not have. Raises InputError, also for an input without rows."""
    folder.mkdir(parents=True, exist_ok=True)
    extents = before.extents if before is not None else ()
    schema = planned_schema(source.columns)
    listing = Listing()
    rows: Iterable[pa.RecordBatch] = listing.through(_limited(source.batches(), spec, before))
    if before is not None:
        rows = without(rows, known_paths(_paths(before)))
    if spec.shuffle_seed is not None:
        rows = _first(shuffled(rows, schema, spec.shuffle_seed + len(extents), folder), spec.limit)
    count = shards = 0
    aside = folder / "rows.new"
    with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for shard in cut(rows, shard_size):
            writer.write_batch(shard)
            count, shards = count + shard.num_rows, shards + 1
    if count == 0 and before is None:
        raise InputError("the input has no images" + _skipped(source))
    total = shards + sum(extent.shards for extent in extents)
    if total > MAX_SHARDS:
        raise InputError(f"{total} shards; there can be {MAX_SHARDS}: raise --shard-size above {shard_size}")
    if count:
        aside.replace(folder / _rows_file(len(extents)))
        extents = (*extents, Extent(count, shards, listing.sha256()))
    plan = Plan(
        folder=folder,
        shard_size=shard_size,
        kind=source.kind,
        root=source.root,
        sources=source.sources,
        image_column=source.image_column,
        signature=source.signature(),
        listing=listing.sha256(),
        extents=extents,
    )
    plan.save()
    return plan


def listing_of(source: Input, spec: InputSpec) -> str:
    """The digest of the input's rows as they are now, without planning them."""
    listing = Listing()
    for _ in listing.through(_limited(source.batches(), spec, None)):
        pass
    return listing.sha256()


def cut(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `size`; the last one may be shorter."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= size:
            table = pa.Table.from_batches(held)
            yield _one(table.slice(0, size))
            held, count = table.slice(size).to_batches(), count - size
    if count:
        yield _one(pa.Table.from_batches(held))


def _paths(plan: Plan) -> Iterator[list[str]]:
    return (plan.read(shard).column(0).to_pylist() for shard in range(plan.shards))


def _limited(batches: Iterable[pa.RecordBatch], spec: InputSpec, before: Optional[Plan]) -> Iterator[pa.RecordBatch]:
    shuffles = spec.shuffle_seed is not None or before is not None
    return _first(batches, None if shuffles else spec.limit)


def _first(batches: Iterable[pa.RecordBatch], limit: Optional[int]) -> Iterator[pa.RecordBatch]:
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            continue
        yield batch.slice(0, left)
        left -= min(left, batch.num_rows)
        if left == 0:
            return


def _one(table: pa.Table) -> pa.RecordBatch:
    return table.combine_chunks().to_batches()[0]


def _rows_file(extent: int) -> str:
    return f"rows-{extent:03d}.arrow"


def _skipped(source: Input) -> str:
    skipped = getattr(source, "skipped", 0)
    return f"; {skipped} files are not images by their names (other names: --glob)" if skipped else ""
