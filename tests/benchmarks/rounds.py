"""Rounds: every slice once a round, in an order that changes; afterwards medians, and ratios within a round."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable

Measured = dict[str, float]


@dataclass
class Rounds:
    count: int
    measured: list[dict[str, Measured]] = field(default_factory=list)  # one mapping slice -> quantities a round

    def run(self, slices: Mapping[str, Callable[[], Measured]]) -> None:
        for number in range(self.count):
            order = list(slices)
            random.shuffle(order)
            results = {name: slices[name]() for name in order}
            self.measured.append({name: results[name] for name in slices})
            print(f"  round {number + 1} of {self.count}", file=sys.stderr, flush=True)

    def values(self, slice_: str, quantity: str) -> list[float]:
        return [each[slice_][quantity] for each in self.measured]

    def median(self, slice_: str, quantity: str) -> float:
        return statistics.median(self.values(slice_, quantity))

    def ratios(self, slice_: str, to: str, quantity: str, to_quantity: str = "") -> list[float]:
        """Of each round: the slice's quantity divided by the other slice's."""
        below = self.values(to, to_quantity or quantity)
        return [value / other for value, other in zip(self.values(slice_, quantity), below)]
