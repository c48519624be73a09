"""The plan: every row of the input, on disk, cut into shards. Written once, then any shard is read without the others.

Extents: a job starts with one; each `--extend` that finds new rows adds one, with shards of its own, so that shards
once written never change. One Arrow record batch is one shard.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_learn_client.contract.whole_file import write_whole
from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.input_rows import Input, one_batch, planned_schema
from metric_learn_client.jobs.inputs.skipped import as_line
from metric_learn_client.jobs.inputs.sources import edges
from metric_learn_client.jobs.options import MAX_SHARDS, InputSpec
from metric_learn_client.jobs.plan.changes import Changes, Rows
from metric_learn_client.jobs.plan.known import KnownRows
from metric_learn_client.jobs.plan.listing import Listing
from metric_learn_client.jobs.plan.shuffle import shuffled
from metric_learn_client.jobs.plan.unique_paths import PathHashes, path_hashes, repeated, with_unique_paths

_NEW_ROWS = "rows.new"
_RENAMED_ROWS = "rows.renamed"


@dataclass(frozen=True)
class Extent:
    """Rows planned at one time. sha256: of the input's list of rows as it was then."""

    rows: int
    shards: int
    sha256: str


@dataclass(frozen=True)
class Plan:
    """A plan on disk. signature: the input's, where it has one, and of files that went away since; listing: digest of
    its rows when last listed; skipped: what was found then and not taken, {kind: {"count": n, "example": path}};
    changes, generation: what became of its rows (see changes)."""

    folder: Path
    shard_size: int
    kind: str
    root: Optional[str]
    sources: list[str]
    image_column: Optional[str]
    signature: Optional[list[Any]]
    listing: str
    extents: tuple[Extent, ...]
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes.none, compare=False)
    generation: int = 0
    _open: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def rows(self) -> int:
        return sum(extent.rows for extent in self.extents)

    @property
    def shards(self) -> int:
        return sum(extent.shards for extent in self.extents)

    @property
    def in_sources(self) -> bool:
        """Whether the pictures lie in tables or archives, at places that the plan holds."""
        return self.kind == "tar" or self.image_column is not None

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

    def count(self, shard: int) -> int:
        """How many rows of a shard are not gone."""
        return self.span(shard)[1] - len(self.gone(shard))

    def gone(self, shard: int, by: Optional[int] = None) -> Rows:
        """Places in the shard, ascending, of the rows that are gone, or were so by that generation."""
        return self.changes.between(*self.span(shard)).gone_by(self.generation if by is None else by)

    def there(self, shard: int) -> Rows:
        """Places in the shard of the rows that are not gone."""
        return np.delete(np.arange(self.span(shard)[1], dtype=np.int64), self.gone(shard))

    def changed(self, shard: int, since: int) -> Rows:
        """Places in the shard, ascending, of the rows that are to be embedded anew where it is of that generation."""
        return self.changes.between(*self.span(shard)).changed_since(since)

    def generation_of(self, shard: int) -> int:
        """The last one in which a row of the shard changed or went, 0 for none."""
        return int(self.changes.between(*self.span(shard)).generations.max(initial=0))

    def read(self, shard: int) -> pa.RecordBatch:
        """The rows of a shard. Not thread-safe."""
        index, place = self.extent_of(shard)
        if index not in self._open:
            self._open[index] = pa.ipc.open_file(pa.memory_map(os.fsencode(self.folder / _rows_file(index))))
        return self._open[index].get_batch(place)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Every row that is not gone, shard by shard."""
        for shard in range(self.shards):
            rows = self.read(shard)
            yield rows.take(pa.array(self.there(shard))) if len(self.gone(shard)) else rows

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
            "skipped": self.skipped,
        }
        if self.generation:
            self.changes.save(self.folder / _changes_file(self.generation))
        write_whole(self.folder / _plan_file(self.generation), json.dumps(facts).encode())


def load(folder: Path, generation: int, extents: int) -> Optional[Plan]:
    """The plan in `folder` as it was in a generation, with its first extents: one that was not finished does not count.
    None where there is none, or it has fewer."""
    try:
        facts = json.loads((folder / _plan_file(generation)).read_text())
        changes = Changes.load(folder / _changes_file(generation)) if generation else Changes.none()
    except (FileNotFoundError, ValueError):
        return None
    if len(facts["extents"]) < extents:
        return None
    facts["extents"] = tuple(Extent(**each) for each in facts["extents"][:extents])
    return Plan(folder, **facts, changes=changes, generation=generation)


def build(
    source: Input,
    spec: InputSpec,
    shard_size: int,
    folder: Path,
    before: Optional[Plan] = None,
    after_sync: bool = False,
    compared: Optional[list[Any]] = None,
) -> Plan:
    """Lists the input and writes the plan to `folder`. With `before`, which is there: its extents, and one more with
    the rows that it does not have; after_sync: what changed of the others it knows; compared: the input's signature
    when that was found out. Raises InputError, also for an input without rows."""
    folder.mkdir(parents=True, exist_ok=True)
    source.root = source.root if before is None else before.root  # that of tables is a question of what is there
    extents = before.extents if before is not None else ()
    schema = planned_schema(source.columns)
    listing = Listing()
    signature = source.signature()  # before the rows: what is written meanwhile is not to pass for what was listed
    if compared is not None and signature != compared:
        raise InputError("the input changed while it was compared; run the same command once nothing writes to it")
    rows: Iterable[pa.RecordBatch] = listing.through(_limited(source.batches(), spec, before))
    sources, gone = list(source.sources), []
    if before is not None:
        if not after_sync:
            check_places(source, before)
        rows = known_rows(before, source).added(rows, source.sources)
        sources = list(dict.fromkeys([*before.sources, *source.sources]))
        if before.in_sources:  # what is gone now may come back as something else
            gone = [edge for edge in before.signature or () if edge[0] not in set(source.sources)]
        rows = _renumbered(rows, [sources.index(name) for name in source.sources])
    if spec.shuffle_seed is not None:
        rows = _first(shuffled(rows, schema, spec.shuffle_seed + len(extents), folder), spec.limit)
    count, shards = _write(rows, schema, shard_size, folder, before)
    if count == 0 and (before is None or not any(map(before.count, range(before.shards)))):
        skipped = as_line(source.skipped.as_json())
        raise InputError("the input has no images" + (f"; {skipped}; {_OTHERS}" if skipped else ""))
    total = shards + sum(extent.shards for extent in extents)
    if total > MAX_SHARDS:
        raise InputError(f"{total} shards; there can be {MAX_SHARDS}: raise --shard-size above {shard_size}")
    for then, now in zip(signature or (), source.signature() or ()):
        if then != now:
            raise InputError(f"{then[0]} changed while it was listed; run the same command once nothing writes to it")
    if count:
        (folder / _NEW_ROWS).replace(folder / _rows_file(len(extents)))
        extents = (*extents, Extent(count, shards, listing.sha256()))
    plan = Plan(
        folder=folder,
        shard_size=shard_size,
        kind=source.kind,
        root=source.root,
        sources=sources,
        image_column=source.image_column,
        signature=None if signature is None else [*signature, *gone],
        listing=listing.sha256(),
        extents=extents,
        skipped=source.skipped.as_json(),
        changes=before.changes if before is not None else Changes.none(),
        generation=before.generation if before is not None else 0,
    )
    plan.save()
    return plan


def known_rows(plan: Plan, source: Input) -> KnownRows:
    """The rows of the plan, but for those of tables and archives that the input has not any more."""
    there = [number for number, name in enumerate(plan.sources) if name in set(source.sources)]
    rows = plan.batches()
    if plan.in_sources:
        present = pa.array(there, pa.int32())
        rows = (batch.filter(pc.is_in(batch.column("plan:source"), value_set=present)) for batch in rows)
    columns = common_columns(plan, source) if plan.image_column is None else []  # a table that changed is refused
    return KnownRows(rows, plan.sources, columns)


def common_columns(plan: Plan, source: Input) -> list[str]:
    """The user's columns that the input and all extents of the plan have."""
    firsts = itertools.accumulate((extent.shards for extent in plan.extents[:-1]), initial=0)
    return sorted(set(source.columns.names).intersection(*(plan.read(first).schema.names for first in firsts)))


def check_places(source: Input, plan: Plan) -> None:
    """Raises InputError where a table or an archive has its pictures elsewhere than the plan says.

    A table that changed in any way counts: nothing tells whether row 7 is the picture that it was. To an archive,
    members may have been added.
    """
    check_kind(source, plan)
    if not plan.in_sources:
        return
    then = {edge[0]: edge for edge in plan.signature or ()}
    changed = [edge[0] for edge in source.signature() or () if edge != then.get(edge[0], edge)]
    if not changed:
        return
    if plan.kind == "tar":
        known = known_rows(plan, source)
        for _ in known.added(source.batches(), source.sources):
            pass
        if not known.missing:
            return
    raise InputError(
        f"{changed[0]} changed since its rows were planned, and they cannot be told from others any more: --sync "
        "embeds it anew, --overwrite begins anew. Put new rows into files of their own"
    )


def may_have_moved(plan: Plan) -> bool:
    """Whether a table or archive of the plan is another than it was; one that cannot be read gave no wrong picture."""
    for then in plan.signature or () if plan.in_sources else ():
        with suppress(Exception):  # whatever reading it raises
            if edges(then[0]) != then:
                return True
    return False


def check_kind(source: Input, plan: Plan) -> None:
    """Raises InputError where pictures lay in tables or archives and now do not, or the other way about."""
    if plan.in_sources != (source.kind == "tar" or source.image_column is not None):
        raise InputError(f"{source.sources[0]}: its pictures were {_HELD[plan.in_sources]}: --overwrite begins anew")


_OTHERS = "other names: --glob; folders of tables or archives: --input-format parquet or tar"
_HELD = {True: "in it, and now it holds paths", False: "files of their own, and now they are in it"}


def _write(
    rows: Iterable[pa.RecordBatch], schema: pa.Schema, shard_size: int, folder: Path, before: Optional[Plan]
) -> tuple[int, int]:
    """(rows, shards) written to _NEW_ROWS; with unique paths where the pictures lie in tables or archives."""
    hashes: list[PathHashes] = []
    count = shards = 0
    with _shard_writer(folder / _NEW_ROWS, schema) as writer:
        for shard in cut(rows, shard_size):
            writer.write_batch(shard)
            count, shards = count + shard.num_rows, shards + 1
            if len(shard) and shard.column("plan:source")[0].as_py() >= 0:
                hashes.append(path_hashes(shard))
    if hashes:
        known = [path_hashes(batch) for batch in before.batches()] if before is not None else []
        if changed := repeated(hashes, known):
            with pa.memory_map(os.fsencode(folder / _NEW_ROWS)) as mapped, pa.ipc.open_file(mapped) as file:
                written = (file.get_batch(index) for index in range(file.num_record_batches))
                with _shard_writer(folder / _RENAMED_ROWS, schema) as writer:
                    for shard in with_unique_paths(written, changed, hashes, known):
                        writer.write_batch(shard)
            (folder / _RENAMED_ROWS).replace(folder / _NEW_ROWS)
    return count, shards


@contextmanager
def _shard_writer(path: Path, schema: pa.Schema) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    with pa.OSFile(os.fsencode(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        yield writer


def _renumbered(batches: Iterable[pa.RecordBatch], numbers: list[int]) -> Iterator[pa.RecordBatch]:
    """plan:source, an index into the input's sources, becomes one into the plan's."""
    for batch in batches:
        place = batch.schema.get_field_index("plan:source")
        own = batch.column(place).to_pylist()
        column = pa.array([numbers[each] if each >= 0 else each for each in own], pa.int32())
        columns = [*batch.columns[:place], column, *batch.columns[place + 1 :]]
        yield pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def listing_of(source: Input, spec: InputSpec) -> str:
    """The digest of the input's rows as they are now, without planning them."""
    listing = Listing()
    for _ in listing.through(_limited(source.batches(), spec, None)):
        pass
    return listing.sha256()


def cut(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `size`; the last one may be shorter. Raises InputError for too large ones."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= size:
            table = pa.Table.from_batches(held)
            yield one_batch(table.slice(0, size))
            held, count = table.slice(size).to_batches(), count - size
    if count:
        yield one_batch(pa.Table.from_batches(held))


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


def _plan_file(generation: int) -> str:
    return f"plan-{generation}.json" if generation else "plan.json"


def _changes_file(generation: int) -> str:
    return f"changes-{generation}.arrow"


def _rows_file(extent: int) -> str:
    return f"rows-{extent:03d}.arrow"
