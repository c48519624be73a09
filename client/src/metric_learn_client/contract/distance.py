"""How far an embedding is from its reference: the one measure of every parity gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]  # float32 or float64


def relative_distance(actual: Floats, expected: Floats) -> npt.NDArray[np.float64]:
    """|a - b| / |b| of each row of two [N, D] arrays: float64 [N]. Not finite counts as infinitely far.

    Raises ValueError for arrays of different shapes.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"embeddings have shape {actual.shape}, the references {expected.shape}")
    wanted = expected.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.linalg.norm(actual.astype(np.float64) - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    return np.where(np.isfinite(distance), distance, np.inf)
