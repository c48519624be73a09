"""One BLAS thread per caller for a while. OpenBLAS' own threads spin and contend with those that work on tiles."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any, Callable, Optional

# Names of the pair of functions in the builds that NumPy's wheels have had: ILP64 with and without its prefix, LP64.
_NAMES = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
)


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[bool]:
    """True where NumPy's OpenBLAS was found and set to one thread until the end; otherwise nothing is changed."""
    found = _controls()
    if found is None:
        yield False
        return
    get, put = found
    before = get()
    put(1)
    try:
        yield True
    finally:
        put(before)


def _controls() -> Optional[tuple[Callable[[], int], Callable[[int], Any]]]:
    try:
        with open("/proc/self/maps") as file:
            libraries = {line.split()[-1] for line in file if "openblas" in line and "numpy" in line}
        for path in sorted(libraries):
            library = ctypes.CDLL(path)
            for get, put in _NAMES:
                if hasattr(library, get) and hasattr(library, put):
                    return getattr(library, get), getattr(library, put)
    except OSError:
        pass
    return None
