"""Upper bounds on all similarities from a few dimensions: most pairs need never be computed in full. Pure.

With mu the mean unit row, x' = x - mu and b = mu . x', a similarity is x_i . x_j = x'_i . x'_j + b_i + b_j + |mu|^2.
Let y = V^T x' for orthonormal columns V and r the norm of what V does not reach. By Cauchy and Schwarz
|x'_i . x'_j - y_i . y_j| <= r_i r_j. So one matrix product of [y, r, b, 1] with [y, r, 1, b] bounds every pair from
above, and that minus 2 r_i r_j from below. Centring matters where all images look alike to the network: rounding
errors shrink with |x'|. With every dimension kept, r is 0 and the bound is the similarity itself, up to rounding.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from metric_learn_client.retrieval.similarity import STEP, Doubles, Floats, Indices, Rows

UNIT_ROUNDOFF = 2.0**-24  # of float32
CHUNK = 512  # dimensions that one matrix product adds
SUBSPACES = (64, 128, 256, 512)  # dimensions that can be kept
BLOCK_ROWS = 256  # of 2048 numbers in float64: 4 MB


@dataclass(frozen=True)
class Bounds:
    """left[q] @ right[n] (float32), with `slack` added, is at least similarity - offset for every pair.

    left float32 [Q, p + 3], right float32 [N, p + 3]; left_rest [Q], right_rest [N]: the r above. offset: |mu|^2.
    exact: every dimension is kept, so that the product is the similarity minus offset, within `slack`.
    """

    left: Floats
    right: Floats
    left_rest: Doubles
    right_rest: Doubles
    offset: float
    slack: float
    exact: bool


@dataclass(frozen=True)
class Projected:
    """Rows in the leading directions: values float32 [N, p], their squared norms |x'|^2, and b. basis None: all."""

    values: Floats
    squares: Doubles
    bias: Doubles

    def largest(self) -> float:
        """The largest |x'|."""
        return float(np.sqrt(self.squares.max()))

    def most_bias(self) -> float:
        return float(np.abs(self.bias).max())

    def rest(self, dimensions: int, rounding: float) -> Doubles:
        """r, the norm of what the first `dimensions` directions leave out; never too small."""
        rest = np.empty(len(self.values))
        for start in range(0, len(rest), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            kept = self.values[part, :dimensions].astype(np.float64)
            rest[part] = self.squares[part] * (1 + rounding) - np.add.reduce(kept * kept, axis=1)
        return np.sqrt(np.maximum(0.0, rest))


def product(left: Floats, right: Floats) -> Floats:
    """left @ right.T, added in chunks of the inner dimension so that rounding stays below a bound that is useful."""
    inner = left.shape[1]
    first = inner if inner <= CHUNK + 3 else CHUNK
    total: Floats = left[:, :first] @ right[:, :first].T
    for start in range(first, inner, CHUNK):
        total += left[:, start : start + CHUNK] @ right[:, start : start + CHUNK].T
    return total


def mean_unit_row(rows: Rows) -> Doubles:
    total = np.zeros(rows.dim)
    for start in range(0, rows.count, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        total += rows.inverse_norms[part] @ rows.values[part]
    return total / rows.count


def principal_directions(rows: Rows, mean: Doubles, count: int) -> Floats:
    """Orthonormal float32 [D, count] near the leading directions of a sample of the centred rows, leading one first.

    Subspace iteration on the sample; any orthonormal basis keeps the bounds true, a good one makes them tight.
    """
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(rows.count, min(rows.count, 8 * count), replace=False))
    sample = (rows.values[chosen] * rows.inverse_norms[chosen, None] - mean).astype(np.float32)
    basis = rng.standard_normal((rows.dim, count), dtype=np.float32)
    for _ in range(2):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    projected = sample @ basis
    _, directions = np.linalg.eigh(projected.T @ projected)
    return np.ascontiguousarray(np.linalg.qr(basis @ directions[:, ::-1])[0], np.float32)


def project(rows: Rows, mean: Doubles, basis: Floats | None, pool: Executor) -> Projected:
    values = np.empty((rows.count, rows.dim if basis is None else basis.shape[1]), np.float32)
    squares, bias = np.empty(rows.count), np.empty(rows.count)

    def one(start: int) -> None:
        part = slice(start, start + BLOCK_ROWS)
        centred = rows.values[part] * rows.inverse_norms[part, None] - mean
        squares[part] = np.einsum("nd,nd->n", centred, centred)
        bias[part] = centred @ mean
        values[part] = centred if basis is None else centred.astype(np.float32) @ basis

    list(pool.map(one, range(0, rows.count, BLOCK_ROWS)))
    return Projected(values, squares, bias)


def make_bounds(left: Projected, right: Projected, mean: Doubles, dimensions: int) -> Bounds:
    """Bounds from the first `dimensions` directions; all of the embedding's make them exact."""
    dim = len(mean)
    exact = dimensions == dim
    rounding = 4 * dim * UNIT_ROUNDOFF
    left_rest = np.zeros(len(left.bias)) if exact else left.rest(dimensions, rounding)
    right_rest = np.zeros(len(right.bias)) if exact else right.rest(dimensions, rounding)
    # Adding n products in any order errs by at most n roundoffs of the sum of their magnitudes; `product` adds at most
    # CHUNK of them and then the chunks. 8 more: the rounding of the factors, of the bias, and of thresholds.
    terms = min(CHUNK + 3, dimensions + 3) + dimensions // CHUNK + 8
    rest = float(left_rest.max(initial=0) * right_rest.max(initial=0))
    slack = (
        terms * UNIT_ROUNDOFF * (left.largest() * right.largest() + rest + left.most_bias() + right.most_bias()) + STEP
    )
    return Bounds(
        _factor(left, left_rest, dimensions, transposed=False),
        _factor(right, right_rest, dimensions, transposed=True),
        left_rest,
        right_rest,
        float(mean @ mean),
        slack,
        exact,
    )


def _factor(rows: Projected, rest: Doubles, dimensions: int, *, transposed: bool) -> Floats:
    factor = np.empty((len(rest), dimensions + 3), np.float32)
    factor[:, :dimensions] = rows.values[:, :dimensions]
    factor[:, dimensions] = rest
    factor[:, dimensions + 1] = 1.0 if transposed else rows.bias
    factor[:, dimensions + 2] = rows.bias if transposed else 1.0
    return factor


def take(rows: Rows, index: Indices) -> Rows:
    return Rows(rows.values[index], rows.inverse_norms[index])


def take_projected(rows: Projected, index: Indices) -> Projected:
    return Projected(rows.values[index], rows.squares[index], rows.bias[index])
