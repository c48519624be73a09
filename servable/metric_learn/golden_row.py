"""The picture whose embedding is known, as one more row of a run: other rows go out beside its right one.

Where a run has a place free, it stands there and costs nothing: the whole batch is computed anyway. A full one gives up
a place for it now and then, and the picture that stood there goes through another run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rows = list[tuple[Array]]
Call = Callable[[Any, Sequence[Sequence[Array]]], Sequence[tuple[Array]]]


class WrongRow(Exception):
    """The embedding of the golden picture is another one: rows beside it are not to be trusted."""


class GoldenRow:
    """From several threads. `models`: batch size -> Models of it. picture: uint8 [224, 224, 3]; embedding: float32
    [2048] of unit norm; limit: of the distance from it. every_s: how long full runs of one Model may do without it."""

    def __init__(
        self, models: Mapping[int, Sequence[Any]], picture: Array, embedding: Array, limit: float, every_s: float
    ) -> None:
        self.picture = picture
        self._embedding = embedding.astype(np.float64)
        self._limit, self._every_s = limit, every_s
        self._sizes = {id(model): size for size, of_size in models.items() for model in of_size}
        self._right_at = dict.fromkeys(self._sizes, 0.0)
        self._unseen: dict[int, tuple[float, int]] = {}  # Model -> since when it gave rows without it, and how many
        self._turns = itertools.count()

    def places(self, model: Any) -> int:
        """How many pictures the next run of `model` takes beside the row that is due in it."""
        size = self._sizes[id(model)]
        return size - 1 if size > 1 and self._due(model) else size

    def call(self, model: Any, instances: Sequence[Sequence[Array]], call: Call) -> Rows:
        """call(model, instances), once this Model's golden row has come back right. Raises WrongRow."""
        size, count = self._sizes[id(model)], len(instances)
        if count < size:
            place = next(self._turns) % (count + 1)  # each in its turn: a part of a chip may compute some rows alone
            rows = list(call(model, [*instances[:place], [self.picture], *instances[place:]]))
            self._seen(model, rows.pop(place)[0])
            return rows
        began_at, rows = time.monotonic(), list(call(model, instances))
        if size == 1 and self._due(model):
            self._seen(model, call(model, [[self.picture]])[0][0])
        else:
            since, before = self._unseen.get(id(model), (began_at, 0))
            self._unseen[id(model)] = since, before + count
        return rows

    def check(self, row: Array, size: int, right: Optional[Array] = None) -> None:
        """row: of the network at this batch size; `right` in the place of the embedding. Raises WrongRow."""
        distance = float(np.linalg.norm(unit(row) - (self._embedding if right is None else right)))
        if not distance <= self._limit:  # also true of NaN
            raise WrongRow(
                f"at batch size {size} the golden picture came back {distance:.3g} away from its embedding "
                f"(limit {self._limit:g})"
            )

    def all_right(self) -> None:
        """Every Model gave it, just now, in every place."""
        self._right_at = dict.fromkeys(self._sizes, time.monotonic())
        self._unseen.clear()

    def unseen(self) -> tuple[float, int]:
        """Since when (monotonic) rows have gone out of which no golden row tells that they are right, and how many."""
        open_ = list(self._unseen.values())
        return min((since for since, _ in open_), default=0.0), sum(count for _, count in open_)

    def _due(self, model: Any) -> bool:
        return time.monotonic() - self._right_at[id(model)] >= self._every_s

    def _seen(self, model: Any, row: Array) -> None:
        self.check(row, self._sizes[id(model)])
        self._right_at[id(model)] = time.monotonic()
        self._unseen.pop(id(model), None)


def unit(row: Array) -> Array:
    """float64, of unit norm where it has one."""
    wide = row.astype(np.float64)
    norm = np.linalg.norm(wide)
    return wide / norm if norm else wide
