"""Files that ended a decoder a short while ago: the same file again is refused without trying. No I/O; thread-safe."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Callable, Optional, Union

import numpy as np
import numpy.typing as npt

from metric_learn_client.preprocess import ImageError

REMEMBERED = 256  # files at most ...
REMEMBERED_S = 600.0  # ... for so long


class CrashedFiles:
    """clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # (size, sha256) of a file -> when it ended a decoder, and what its caller was told
        self._files: dict[tuple[int, bytes], tuple[float, ImageError]] = {}
        self._sizes: set[int] = set()  # an honest file is rarely hashed

    def add(self, image: bytes, error: ImageError) -> None:
        with self._lock:
            self._files[(len(image), hashlib.sha256(image).digest())] = self._clock(), error
            while len(self._files) > REMEMBERED:
                del self._files[next(iter(self._files))]  # the oldest
            self._sizes = {size for size, _ in self._files}

    def error_of(self, image: Union[bytes, npt.NDArray[np.uint8]]) -> Optional[ImageError]:
        """What the very same file was refused with, if it was."""
        if len(image) not in self._sizes:
            return None
        digest = hashlib.sha256(image if isinstance(image, bytes) else image.data).digest()
        with self._lock:
            known = self._files.get((len(image), digest))
        return known[1] if known is not None and self._clock() - known[0] < REMEMBERED_S else None
