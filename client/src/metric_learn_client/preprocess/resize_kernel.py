"""The compiled resize (_resize.c), loaded and checked against OpenCV; None where either fails.

One compiled file serves every Python: it is called through ctypes, which also lets other threads run meanwhile.
METRIC_LEARN_RESIZE=opencv leaves it out.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Callable, Optional

import numpy as np

from metric_learn_client.preprocess.header import SIDE_PX, Pixels, short_side_size

# (pixels [height, width, 3], (width, height) after the first resize) -> [side, side, 3]
Resize = Callable[[Pixels, tuple[int, int]], Pixels]
LIBRARY = Path(__file__).with_name("_resize.so")
# Enlarging, reducing, taller, wider, a single column: every branch of the kernel, a few milliseconds in all.
_CHECKED_SHAPES = ((40, 60), (301, 250), (90, 1), (17, 400))


def load_kernel(reference: Resize) -> Optional[Resize]:
    """The compiled resize where it is there and gives the pixels of `reference`; else None. Never raises."""
    if os.environ.get("METRIC_LEARN_RESIZE") == "opencv":
        return None
    try:
        function = ctypes.CDLL(str(LIBRARY)).metric_learn_resize
    except (OSError, AttributeError):  # not built, built for another machine, or an older one
        return None
    function.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 5, ctypes.c_void_p]
    function.restype = ctypes.c_int

    def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
        height, width, channels = pixels.shape
        if channels != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels are uint8 [height, width, 3], not {pixels.dtype} {pixels.shape}")
        if pixels.strides[1:] != (3, 1) or pixels.strides[0] < 3 * width:
            pixels = np.ascontiguousarray(pixels)
        resized = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
        if function(pixels.ctypes.data, height, width, pixels.strides[0], size[1], size[0], resized.ctypes.data):
            raise MemoryError("no memory for the resize")
        return resized

    return resize if _agrees(resize, reference) else None


def _agrees(resize: Resize, reference: Resize) -> bool:
    for height, width in _CHECKED_SHAPES:
        # Noise without a generator: importing one costs more than the whole check.
        numbers = np.arange(height * width * 3, dtype=np.uint32) * np.uint32(2654435761)
        pixels = (numbers >> np.uint32(24)).astype(np.uint8).reshape(height, width, 3)
        size = short_side_size(width, height)
        if not np.array_equal(resize(pixels, size), reference(pixels, size)):
            return False
    return True
