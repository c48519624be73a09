"""Are these the reference embeddings? Relative distance row by row, and for float16 the neighbours. Pure.

A cosine proves nothing: features behind a ReLU all point the same way, and a wrong resize filter still gives 0.9999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client.contract.distance import relative_distance

Floats = npt.NDArray[np.floating]
Precision = Literal["float32", "float16"]

TOLERANCES: dict[str, float] = {"float32": 1e-4, "float16": 2e-2}  # worst row; by the precision the device computes in
# Files against ready-made pixels on one endpoint: the same network on both sides, so what is left is preprocessing.
PIXEL_TOLERANCES: dict[str, float] = {"float32": 1e-4, "float16": 2e-3}
_NEIGHBOURS = 10
_SIMILARITY_STEP = 2.0**-11  # float16's relative spacing: neighbours that differ by less may swap places


@dataclass(frozen=True)
class RowCheck:
    """distance: |answer - reference| / |reference|, infinite where there is no answer; error: why there is none."""

    name: str
    distance: float
    within: bool
    error: Optional[str] = None


@dataclass(frozen=True)
class Parity:
    """One comparison of answers with references. neighbours: share of queries whose nearest ten agree, if asked."""

    rows: tuple[RowCheck, ...]
    tolerance: float
    neighbours: Optional[float]

    @property
    def passed(self) -> bool:
        return all(row.within for row in self.rows) and self.neighbours in (None, 1.0)

    @property
    def worst(self) -> float:
        return max(row.distance for row in self.rows)

    @property
    def median(self) -> float:
        return float(np.median([row.distance for row in self.rows]))


def unit_rows(rows: Floats) -> npt.NDArray[np.float64]:
    """Each row divided by its norm; a row of zeros stays one."""
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = wide / np.where(norms > 0, norms, 1.0)
    return unit


def neighbours_agree(actual: Floats, expected: Floats) -> npt.NDArray[np.bool_]:
    """Per row: are its nearest _NEIGHBOURS other rows the same ones in both sets? bool [N].

    A neighbour may stand in for another one whose reference similarity differs by less than float16 can tell. With
    _NEIGHBOURS + 1 rows or fewer every neighbour is among them, and order is compared by the nearest one alone.
    """
    rows = len(expected)
    kept = min(_NEIGHBOURS, max(1, rows - 2))
    agree = np.zeros(rows, np.bool_)
    reference, answered = unit_rows(expected), unit_rows(np.nan_to_num(actual))
    for row in range(rows):
        wanted, got = reference @ reference[row], answered @ answered[row]
        wanted[row] = got[row] = -np.inf
        last = np.sort(wanted)[-kept]
        agree[row] = bool((wanted[np.argsort(-got, kind="stable")[:kept]] >= last - _SIMILARITY_STEP).all())
    return agree


def compare(
    names: tuple[str, ...],
    actual: Floats,
    expected: Floats,
    *,
    tolerance: float,
    check_neighbours: bool = False,
    errors: Optional[dict[int, str]] = None,
) -> Parity:
    """Compares row by row; errors: index -> why that picture has no embedding, which is a failed row."""
    errors = errors or {}
    distance = relative_distance(actual, expected)
    rows = tuple(
        RowCheck(name, float(each), bool(each <= tolerance), errors.get(index))
        for index, (name, each) in enumerate(zip(names, distance))
    )
    agree = float(np.mean(neighbours_agree(actual, expected))) if check_neighbours and len(names) > 2 else None
    return Parity(rows, tolerance, agree)
