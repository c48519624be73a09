"""The compiled comparison of 8-bit rows (_int8.c), loaded and checked against NumPy; None where either fails.

Called through ctypes, so other threads run meanwhile. METRIC_LEARN_INT8=off leaves it out.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

LIBRARY = Path(__file__).with_name("_int8.so")
PANEL, ROWS = 64, 6  # images and queries that are compared at once; compiled in
BUFFER = 1 << 14  # open pairs of one call; more than 2 * ROWS * PANEL
MOST_DIMENSIONS = 2**15  # what 32-bit sums hold
UNSURE, REACH = 1, 2  # bits of a pair's `open`
PAIR = np.dtype([("query", np.int32), ("image", np.int32), ("open", np.int32), ("", np.int32), ("middle", np.float64)])
# What one set of rows consists of, in the order of the C structure; all arrays [n padded to whole panels, ...].
FIELDS = {
    "values": np.int8,
    "packed": np.uint8,
    "scale": np.float32,
    "norm": np.float32,
    "error": np.float32,
    "reach": np.float32,
    "bias": np.float32,
    "low_best": np.float32,
    "high_best": np.float32,
    "low_cut": np.float32,
    "sum": np.int32,
    "label": np.int32,
    "own": np.int32,
    "rows": np.float32,
    "inverse_norms": np.float64,
    "start": np.int64,
    "top": np.float32,
    "lock": np.uint8,
}
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Margins:
    """slack: what float32 rounds off in a bound; offset: similarity minus what thresholds are compared with;
    spread: how far a similarity in float32 is off."""

    slack: float
    offset: float
    spread: float


@dataclass(frozen=True)
class Compared:
    """Images surely before best, int32 per row and per column; open pairs (PAIR); how many pairs took float32."""

    ahead_rows: npt.NDArray[np.int32]
    ahead_columns: npt.NDArray[np.int32]
    open: npt.NDArray[Any]
    settled: int


class _Side(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in FIELDS]


class Int8Kernel:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._quantise = library.metric_learn_int8_quantise
        self._quantise.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 6
        self._quantise.restype = ctypes.c_int
        self._pack = library.metric_learn_int8_pack
        self._pack.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
        self._pack.restype = None
        self._compare = library.metric_learn_int8_compare
        self._compare.argtypes = [
            *[ctypes.c_void_p] * 2,
            *[ctypes.c_int64] * 6,
            ctypes.c_float,
            *[ctypes.c_double] * 2,
            ctypes.c_int,
            *[ctypes.c_void_p] * 3,
            ctypes.c_int64,
            *[ctypes.c_void_p] * 2,
        ]
        self._compare.restype = ctypes.c_int64

    def quantise(
        self,
        rows: npt.NDArray[np.float32],
        inverse_norms: npt.NDArray[np.float64],
        mean: npt.NDArray[np.float64],
        signs: npt.NDArray[np.float32],
        out: Arrays,
        start: int,
    ) -> None:
        """rows float32 [n, D], C-contiguous, into out[start:] of values, scale, sum, square |x|^2, lost |e|^2, dot."""
        parts = [out[name][start:].ctypes.data for name in ("values", "scale", "sum", "square", "lost", "dot")]
        padded = out["values"].shape[1]
        if self._quantise(
            rows.ctypes.data,
            inverse_norms.ctypes.data,
            mean.ctypes.data,
            signs.ctypes.data,
            *rows.shape,
            padded,
            *parts,
        ):
            raise MemoryError("no memory for one row")

    def pack(self, values: npt.NDArray[np.int8], count: int) -> npt.NDArray[np.uint8]:
        """int8 [n padded, D] of which `count` rows count -> the kernel's order of the same."""
        packed = np.empty(values.size, np.uint8)
        self._pack(values.ctypes.data, count, values.shape[1], packed.ctypes.data)
        return packed

    def compare(
        self,
        left: Arrays,
        right: Arrays,
        rows: tuple[int, int],
        columns: tuple[int, int],
        margins: Margins,
        *,
        both: bool,
    ) -> Compared:
        """One tile; `both`: its columns are queries too.

        Raises low_cut of the queries. Each tile may be given once: every pair counts once.
        """
        sides = [_Side(*[side[name].ctypes.data for name in FIELDS]) for side in (left, right)]
        ahead = np.zeros(rows[1] - rows[0], np.int32), np.zeros(columns[1] - columns[0], np.int32)
        groups = -(-len(ahead[0]) // ROWS) * -(-len(ahead[1]) // PANEL)
        buffer, position, made = np.empty(BUFFER, PAIR), np.zeros(2, np.int64), []
        while position[0] < groups:
            count = self._compare(
                *[ctypes.byref(side) for side in sides],
                left["values"].shape[1],
                left["rows"].shape[1],
                *rows,
                *columns,
                margins.slack,
                margins.offset,
                margins.spread,
                both,
                *[part.ctypes.data for part in ahead],
                buffer.ctypes.data,
                BUFFER,
                position[:1].ctypes.data,
                position[1:].ctypes.data,
            )
            made.append(buffer[:count].copy())
        return Compared(*ahead, np.concatenate(made), int(position[1]))


@lru_cache(1)
def int8_kernel() -> Optional[Int8Kernel]:
    """The kernel where it is there, runs on this processor and adds as NumPy does; else None. Never raises."""
    if os.environ.get("METRIC_LEARN_INT8") == "off":
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if not library.metric_learn_int8_supported():
            return None
        kernel = Int8Kernel(library)
    except (OSError, AttributeError):  # not built, built for another machine, or an older one
        return None
    return kernel if _agrees(kernel) else None


def _agrees(kernel: Int8Kernel) -> bool:
    """Every product of a few rows, read back through a threshold below all of them."""
    count, dim, every = 71, 68, 2 * PANEL
    numbers = np.arange(every * dim, dtype=np.uint32) * np.uint32(2654435761)
    values = np.ascontiguousarray((numbers >> np.uint32(24)).astype(np.int64).reshape(every, dim) % 255 - 127, np.int8)
    side: Arrays = {name: np.zeros(every, kind) for name, kind in FIELDS.items()}
    side.update(values=values, packed=kernel.pack(values, count), sum=values.sum(1, dtype=np.int32))
    side.update(scale=np.ones(every, np.float32), rows=values.astype(np.float32), inverse_norms=np.ones(every))
    side.update(label=np.arange(every, dtype=np.int32), own=np.arange(every, dtype=np.int32))
    wanted = values[:count].astype(np.int32) @ values[:count].astype(np.int32).T
    np.fill_diagonal(wanted, -(2**24))
    # Each query's threshold is one of its products: those above it are ahead, those equal stay open.
    best = np.sort(wanted, axis=1)[np.arange(count), np.arange(count) % count]
    for name in ("low_best", "high_best", "low_cut"):
        side[name] = np.full(every, np.inf, np.float32)
    side["low_best"][:count] = side["high_best"][:count] = best
    compared = kernel.compare(side, side, (0, count), (0, count), Margins(0.0, 0.0, 0.0), both=False)
    ahead, pairs = compared.ahead_rows, compared.open
    made = np.zeros((count, count), np.int32)
    made[pairs["query"], pairs["image"]] = pairs["middle"]
    equal = (wanted == best[:, None]) & ~np.eye(count, dtype=bool)
    return np.array_equal(ahead, (wanted > best[:, None]).sum(1)) and np.array_equal(made, np.where(equal, wanted, 0))
