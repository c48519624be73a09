"""What changed since the last run: which planned rows are gone from the input, and which have another picture now."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, NamedTuple, Optional

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metric_learn_client.jobs.errors import RefusedError
from metric_learn_client.jobs.inputs.input_rows import Input
from metric_learn_client.jobs.output.seen import Seen
from metric_learn_client.jobs.plan.changes import Rows
from metric_learn_client.jobs.plan.known import KnownRows
from metric_learn_client.jobs.plan.plan import Plan, common_columns

Flags = npt.NDArray[np.bool_]
_THREADS = 16  # that look at files at one time ...
_PART_ROWS = 64  # ... so many of them


class Found(NamedTuple):
    """Rows of the job, ascending; unchanged: how many are neither, of those that are there."""

    changed: Rows
    gone: Rows
    unchanged: int


def find_changes(
    plan: Plan,
    source: Input,
    seen_of: Callable[[int], Optional[dict[int, Seen]]],
    look: Callable[[pa.RecordBatch], Sequence[Seen]],
    by: str,
) -> Found:
    """seen_of: what a shard's files were, {} for one that is not committed; look: what they are now, only in what `by`
    compares. Raises RefusedError where nothing was kept that could tell."""
    gone: list[Rows] = []
    changed: list[Rows] = []
    unchanged = 0
    missing = _gone_sources(plan, source) if plan.in_sources else _gone_rows(plan, source)
    with ThreadPoolExecutor(_THREADS) as pool:
        for shard in range(plan.shards):
            first, there = plan.span(shard)[0], plan.there(shard)
            rows = plan.read(shard).take(pa.array(there))
            away = missing(rows)
            gone.append(first + there[away])
            places = there[~away]
            other = np.zeros(len(places), bool)
            if not plan.in_sources:
                seen = seen_of(shard)
                if seen is None:
                    raise RefusedError(
                        "this output was made before it was kept which files its rows come from, so --sync cannot tell "
                        "what changed: --extend embeds what was added, --overwrite begins anew"
                    )
                if seen:
                    then = [seen.get(row, Seen()) for row in (first + places).tolist()]
                    _check(then, by)
                    kept = rows.filter(pa.array(~away))
                    parts = [kept.slice(start, _PART_ROWS) for start in range(0, kept.num_rows, _PART_ROWS)]
                    now = [each for part in pool.map(look, parts) for each in part]
                    other = np.array([_key(a, by) != _key(b, by) for a, b in zip(then, now)], bool)
            changed.append(first + places[other])
            unchanged += len(places) - int(other.sum())
    nothing = np.empty(0, np.int64)
    return Found(np.concatenate([nothing, *changed]), np.concatenate([nothing, *gone]), unchanged)


def _key(seen: Seen, by: str) -> object:
    return seen.sha256 if by == "digest" else (seen.size, seen.mtime_ns)


def _check(then: Sequence[Seen], by: str) -> None:
    if by == "time" and any(seen.sha256 is not None and seen.mtime_ns is None for seen in then):
        raise RefusedError(
            "pictures that come from URLs have no time to go by: --sync --sync-by digest reads every one again"
        )


def _gone_rows(plan: Plan, source: Input) -> Callable[[pa.RecordBatch], Flags]:
    source.root = plan.root
    input_rows = KnownRows(source.batches(), source.sources, common_columns(plan, source))
    return lambda rows: input_rows.unknown(rows, plan.sources)


def _gone_sources(plan: Plan, source: Input) -> Callable[[pa.RecordBatch], Flags]:
    """Of a table or an archive that is not what it was, every row goes, and comes again from where it is now."""
    then = {edge[0]: edge for edge in plan.signature or ()}
    now = {edge[0]: edge for edge in source.signature() or ()}
    away = [number for number, name in enumerate(plan.sources) if then.get(name) != now.get(name, 0)]
    return lambda rows: np.isin(np.array(rows.column("plan:source").to_pylist(), np.int64), away)
