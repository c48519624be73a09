"""Near-duplicates of a set: images whose embeddings are at least so similar, in groups. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metric_learn_client.evaluation.screening import UNIT_ROUNDOFF
from metric_learn_client.evaluation.similarity import STEP, Rows, similarity_of_pairs

BLOCK_ROWS = 1024
_MOST_PAIRS = 5_000_000


class TooManyPairs(ValueError):
    """The threshold is so low that nearly everything is a duplicate of everything."""


@dataclass(frozen=True)
class Group:
    """rows: two or more, ascending; least: the lowest similarity that links them."""

    rows: tuple[int, ...]
    least: float


def near_duplicates(rows: Rows, threshold: float) -> list[Group]:
    """Groups of rows linked by a cosine of at least threshold, largest group first. Raises TooManyPairs."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be above 0 and at most 1")
    units = rows.values * rows.inverse_norms[:, None].astype(np.float32)
    wanted = np.float32(threshold - 2 * (rows.dim + 8) * UNIT_ROUNDOFF - STEP)
    parent = np.arange(rows.count)
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    total = 0
    for start in range(0, rows.count, BLOCK_ROWS):
        for other in range(start, rows.count, BLOCK_ROWS):
            similar = units[start : start + BLOCK_ROWS] @ units[other : other + BLOCK_ROWS].T
            left, right = np.nonzero(similar >= wanted)
            left, right = left + start, right + other
            above = left < right
            left, right = left[above], right[above]
            total += len(left)
            if total > _MOST_PAIRS:
                raise TooManyPairs(f"more than {_MOST_PAIRS:,} pairs reach {threshold}; raise the threshold")
            exact = similarity_of_pairs(rows, left, rows, right)
            kept = exact >= threshold - STEP
            pairs.append((left[kept], right[kept], exact[kept]))
    for left, right, _ in pairs:
        for a, b in zip(left.tolist(), right.tolist()):
            a, b = _root(parent, a), _root(parent, b)
            parent[max(a, b)] = min(a, b)
    least: dict[int, float] = {}
    for left, _, exact in pairs:
        for a, value in zip(left.tolist(), exact.tolist()):
            root = _root(parent, a)
            least[root] = min(least.get(root, 1.0), value)
    members: dict[int, list[int]] = {}
    for row in range(rows.count):
        root = _root(parent, row)
        if root in least:
            members.setdefault(root, []).append(row)
    groups = [Group(tuple(found), least[root]) for root, found in members.items()]
    return sorted(groups, key=lambda group: (-len(group.rows), group.rows))


def _root(parent: np.ndarray, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row
