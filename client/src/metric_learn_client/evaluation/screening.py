"""All similarities of some queries to a gallery in float32: one matrix product, and how far off it can be. Pure.

It settles which pairs are far apart; the few that are nearer than its error are computed by
similarity.similarity_of_pairs, so that no decision depends on how the product was cut or rounded.

The rows are centred. With mu the mean unit row and x' = x - mu, a cosine is x'_q . x'_n + mu . x'_n + mu . x_q. Where
all images look alike to the network, x' is short and the error shrinks with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from metric_learn_client.evaluation.similarity import STEP, Doubles, Floats, Indices, Rows

UNIT_ROUNDOFF = 2.0**-24  # of float32
BLOCK_ROWS = 256  # of 2048 numbers in float64: 4 MB


class Screened(NamedTuple):
    """values float32 [n, N]; the cosine of query i and image j is within slack[i] of values[i, j] + offset[i]."""

    values: Floats
    offset: Doubles
    slack: Doubles


class Screen:
    """One gallery, ready to be compared. Holds one factor as large as the gallery."""

    def __init__(self, gallery: Rows) -> None:
        self._mean = np.zeros(gallery.dim)
        for part in _parts(gallery.count):
            self._mean += gallery.inverse_norms[part] @ gallery.values[part]
        self._mean /= gallery.count
        self._factor = np.empty((gallery.count, gallery.dim + 1), np.float32)
        self._reach = self._most_bias = 0.0
        for part in _parts(gallery.count):
            centred = gallery.values[part] * gallery.inverse_norms[part, None] - self._mean
            bias = centred @ self._mean
            self._factor[part, :-1], self._factor[part, -1] = centred, bias
            self._reach = max(self._reach, float(np.linalg.norm(centred, axis=1).max()))
            self._most_bias = max(self._most_bias, float(np.abs(bias).max()))

    def compare(self, queries: Rows, index: Indices) -> Screened:
        """queries[index] with the whole gallery."""
        units = queries.values[index] * queries.inverse_norms[index, None]
        centred = units - self._mean
        factor = np.ones((len(index), queries.dim + 1), np.float32)
        factor[:, :-1] = centred
        # D + 1 products added in any order err by at most D + 1 roundoffs of the sum of their magnitudes (Cauchy and
        # Schwarz); 8 more for the rounding of both factors and of thresholds.
        largest = np.linalg.norm(centred, axis=1) * self._reach + self._most_bias
        slack = (queries.dim + 9) * UNIT_ROUNDOFF * largest + STEP
        return Screened(factor @ self._factor.T, units @ self._mean, slack)


def _parts(count: int) -> list[slice]:
    return [slice(start, start + BLOCK_ROWS) for start in range(0, count, BLOCK_ROWS)]
