"""Cosine similarity of pairs of rows, to the same bit however the pairs are grouped. Pure; the definition of order.

A matrix product adds in an order that depends on its shape and its threads, so the last bits of its values, and with
them the order of equal images, do too. Here each pair is multiplied in float64 and added by NumPy's pairwise
summation along its own contiguous row, then rounded to a multiple of 2^-40: equal rows, and pairs that are equally
similar in exact arithmetic, give equal similarities, whatever else is in the call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

STEP = 2.0**-40  # 9e-13: thousands of times what float64 rounds off here, a hundred thousandth of what float32 does
_PAIRS_AT_ONCE = 64  # 64 pairs of 2048 numbers are 1 MB a factor in float64: they stay in the core's cache


@dataclass(frozen=True)
class Rows:
    """values: float32 [N, D], C-contiguous, any non-zero norm; inverse_norms: float64 [N]."""

    values: Floats
    inverse_norms: Doubles

    @property
    def count(self) -> int:
        return int(self.values.shape[0])

    @property
    def dim(self) -> int:
        return int(self.values.shape[1])


def rows_of(embeddings: npt.ArrayLike, name: str = "embeddings") -> Rows:
    """Checks and wraps a matrix of embeddings; float16 and float64 become float32.

    Raises ValueError, naming the first bad row, for anything that is not [N, D] of finite rows with a norm above 0.
    """
    values = np.ascontiguousarray(embeddings, np.float32)
    if values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(f"{name} have shape {values.shape}; they must be [N, D]")
    norms = np.empty(len(values), np.float64)
    for start in range(0, len(values), _PAIRS_AT_ONCE):
        block = values[start : start + _PAIRS_AT_ONCE].astype(np.float64)
        block *= block
        norms[start : start + _PAIRS_AT_ONCE] = np.sqrt(np.add.reduce(block, axis=1))
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if bad.size:
        raise ValueError(
            f"row {bad[0]} of the {name} is zero or not finite ({bad.size} such rows); leave failed images out"
        )
    return Rows(values, 1.0 / norms)


def similarity_of_pairs(left: Rows, left_index: Indices, right: Rows, right_index: Indices) -> Doubles:
    """Cosine of left[left_index[n]] and right[right_index[n]] for every n: float64 [n], see the module's text."""
    made = np.empty(len(left_index), np.float64)
    for start in range(0, len(left_index), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        i, j = left_index[part], right_index[part]
        product = left.values[i].astype(np.float64)
        product *= right.values[j]
        made[part] = np.add.reduce(product, axis=1) * (left.inverse_norms[i] * right.inverse_norms[j])
    return np.rint(made / STEP) * STEP  # a power of two: exact
