"""Bounds on all similarities from 8-bit integers, compared with thresholds by the compiled kernel (_int8.c).

As in retrieval.bounds, a similarity is x'_i . x'_j + b_i + b_j + |mu|^2 of rows centred by mu. An orthonormal
transform, random signs and Hadamard's matrix, first spreads what few dimensions hold over all, so that one step of
|x'|_max / 127 suits every dimension. With x' = s q + e a product is s_i s_j (q_i . q_j), exact in integers, plus
x'_i . e_j + e_i . s_j q_j, which by Cauchy and Schwarz is at most |x'_i| |e_j| + |e_i| |s_j q_j|. |e| is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from metric_learn_client.int8_kernel import FIELDS, MOST_DIMENSIONS, PANEL, Arrays, Compared, Int8Kernel, Margins
from metric_learn_client.retrieval.bounds import BLOCK_ROWS, UNIT_ROUNDOFF
from metric_learn_client.retrieval.similarity import STEP, Doubles, Floats, Indices, Rows

MOST_NORM = 1e10
SAMPLE = 512, 2048  # queries and images on which it is decided whether this pays
# A pair that takes float32 costs as much as thirty of integers; one that float32 leaves open, hundreds.
MOST_SETTLED, MOST_OPEN = 0.1, 0.01
SPREAD_SHARE = 0.1
Span = tuple[int, int]
QUAD = 4  # numbers that one instruction multiplies and adds


@dataclass(frozen=True)
class Quantised:
    """arrays: what the kernel takes, padded to whole panels; count: the rows that are real."""

    arrays: Arrays
    count: int
    largest: float
    most_bias: float
    typical_width: float  # of the bounds of two ordinary rows

    def take(self, index: Indices) -> Quantised:
        """A copy of some rows without `packed`, whose thresholds rise by themselves."""
        padded = -(-len(index) // PANEL) * PANEL
        arrays: Arrays = {"packed": np.zeros(0, np.uint8)}
        for name, array in self.arrays.items():
            if name not in ("packed", "rows", "inverse_norms", "start", "top"):
                arrays[name] = np.zeros((padded, *array.shape[1:]), array.dtype)
                arrays[name][: len(index)] = array[index]
        arrays["rows"], arrays["inverse_norms"] = self.arrays["rows"][index], self.arrays["inverse_norms"][index]
        start = self.arrays["start"]
        sizes = start[index + 1] - start[index]
        arrays["start"] = np.concatenate([[0], np.cumsum(sizes)])
        place = np.arange(sizes.sum()) + np.repeat(start[index] - arrays["start"][:-1], sizes)
        arrays["top"] = self.arrays["top"][place]
        return Quantised(arrays, len(index), self.largest, self.most_bias, self.typical_width)


def quantisable(rows: Rows) -> bool:
    """Norms far from 1 would lose the products of float32 to underflow, or overflow."""
    norms = rows.inverse_norms
    return rows.dim <= MOST_DIMENSIONS and bool(norms.min() > 1 / MOST_NORM) and bool(norms.max() < MOST_NORM)


def quantise(kernel: Int8Kernel, rows: Rows, mean: Doubles, labels: Indices, own: Indices, pool: Executor) -> Quantised:
    """labels int64 [n], fewer than 2^31 different ones; own int64 [n]: the image that each row leaves out, or -1."""
    count, dim = rows.count, rows.dim
    padded = -(-count // PANEL) * PANEL
    arrays: Arrays = {name: np.zeros(padded, kind) for name, kind in FIELDS.items()}
    arrays["values"] = np.zeros((padded, -(-dim // QUAD) * QUAD), np.int8)
    arrays.update({name: np.zeros(padded) for name in ("square", "lost", "dot")})
    signs = np.random.default_rng(3).choice(np.array([-1, 1], np.float32), 2 * dim)

    def one(start: int) -> None:
        part = slice(start, start + BLOCK_ROWS)
        kernel.quantise(rows.values[part], rows.inverse_norms[part], mean, signs, arrays, start)

    list(pool.map(one, range(0, count, BLOCK_ROWS)))
    arrays["packed"] = kernel.pack(arrays["values"], count)
    # Rounding: one roundoff of |x| to float32 and one for each of at most 2 log2(D) + 2 stages; doubled.
    stages = 2 * (2 * int(np.ceil(np.log2(max(2, dim)))) + 4) * UNIT_ROUNDOFF
    norm = np.sqrt(arrays.pop("square")) * (1 + 1e-6)
    error = np.sqrt(arrays.pop("lost")) * (1 + 1e-6) + stages * norm
    arrays.update(norm=-_below(-norm), error=-_below(-error), reach=-_below(-norm - error))
    bias = arrays.pop("dot")
    arrays["bias"] = bias.astype(np.float32)
    arrays["label"][:count], arrays["own"][:count] = labels, own
    arrays["start"] = np.zeros(count + 1, np.int64)
    arrays["rows"], arrays["inverse_norms"] = rows.values, rows.inverse_norms
    for name in ("low_best", "high_best", "low_cut"):
        arrays[name][:] = np.inf
    width = float(np.median(error) * np.median(norm))
    return Quantised(arrays, count, float(norm.max()), float(np.abs(bias).max()), width)


def margins_of(left: Quantised, right: Quantised, mean: Doubles) -> Margins:
    """slack: a dozen operations of float32 on numbers below `most`. spread: 64 partial sums of products of unit rows,
    each of D / 64, and the thresholds' rounding."""
    most = 2 * left.largest * right.largest + 2 * left.most_bias + 2 * right.most_bias
    spread = (len(mean) / 64 + 16) * UNIT_ROUNDOFF + STEP
    return Margins(16 * UNIT_ROUNDOFF * most + STEP, float(mean @ mean), spread)


def set_thresholds(side: Quantised, best: Doubles, start: Indices, reached: Doubles, offset: float) -> None:
    """The rows as queries: best float64 [n], inf for none; reached[start[n] : start[n + 1]]: as many similarities as
    images are wanted, that so many are known to reach."""
    arrays, part = side.arrays, slice(0, side.count)
    arrays["low_best"][part] = _below(best - offset)
    arrays["high_best"][part] = -_below(offset - best)
    arrays["start"], arrays["top"] = start, _below(reached - offset)
    some = np.flatnonzero(start[1:] > start[:-1])
    arrays["low_cut"][some] = np.minimum.reduceat(arrays["top"], start[some]) if some.size else 0


@dataclass(frozen=True)
class Comparison:
    """Two sets with thresholds, ready to be compared. left is right: one set, all of which can be queries."""

    kernel: Int8Kernel
    left: Quantised
    right: Quantised
    margins: Margins

    def tiles(self, rows: int) -> Iterator[tuple[Span, Span, bool]]:
        """(rows, columns, whether its columns are queries too); one set with itself: half the matrix."""
        side = max(PANEL, rows // PANEL * PANEL)
        for start in range(0, self.left.count, side):
            for column in range(start if self.left is self.right else 0, self.right.count, side):
                row_span = start, min(start + side, self.left.count)
                column_span = column, min(column + side, self.right.count)
                yield row_span, column_span, self.left is self.right and column > start

    def compare(self, tile: tuple[Span, Span, bool]) -> Compared:
        rows, columns, both = tile
        return self.kernel.compare(self.left.arrays, self.right.arrays, rows, columns, self.margins, both=both)

    def pays(self) -> bool:
        """Whether a sample of pairs is nearly all settled by the integers, and nearly all of the rest by float32."""
        if self.margins.spread > SPREAD_SHARE * self.left.typical_width:
            return False  # the images look so alike that float32 adds nothing
        rng = np.random.default_rng(2)
        left = self.left.take(np.sort(rng.choice(self.left.count, min(self.left.count, SAMPLE[0]), replace=False)))
        right = self.right.take(np.sort(rng.choice(self.right.count, min(self.right.count, SAMPLE[1]), replace=False)))
        right.arrays["packed"] = self.kernel.pack(right.arrays["values"], right.count)
        tile = (0, left.count), (0, right.count), False
        made = Comparison(self.kernel, left, right, self.margins).compare(tile)
        pairs = left.count * right.count
        return made.settled <= MOST_SETTLED * pairs and len(made.open) <= MOST_OPEN * pairs


def _below(values: Doubles) -> Floats:
    """The float32 next below each float64."""
    below: Floats = np.nextafter(values.astype(np.float32), np.float32(-np.inf))
    return below
