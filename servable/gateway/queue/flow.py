"""How many batches a backend is given at one time: as many as keep its workers busy, and no more. Pure.

What a worker has beside the batch that it works on must last until the gateway has heard of an answer and the next
batch is there, decoded: some milliseconds, whatever a batch takes. So the depth follows the measured time of a batch.
What is deeper only makes a small call wait behind more of a large one's images.

A worker takes batches in only between two for whose rows it waits, and takes turns between the lanes. With two of each
lane it has taken in the next one when it waits for rows (servable.metric_learn.runs); with an odd number it came to
wait twice in a row, and the device with it. Where a batch takes long, two are enough: the worker waits a while for the
second one before it waits for the rows of the first.
"""

from __future__ import annotations

import math
import time
from typing import Callable

from servable.gateway.queue.backend_request import LANES

# From an answer to the next batch in the worker, its images decoded: 1 to 3 ms for pixels, and a batch's decoding where
# the cores are as fast as the network.
AHEAD_S = 0.016
LEAST = 2  # batches of one worker: one is worked on, one waits there
SHORT_S = 0.05  # a full batch that takes less: 1 to 3 ms in which a device waits are 2 % of it and more
FORGET_S = 0.25  # of busy time, after which what was measured counts half


class Flow:
    """`sent` and `answered` tell what happens; `depth` is the number of batches that may be there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._batches = 0  # under way
        self._since = 0.0  # it is busy, or when it was heard of last
        self._busy_s = 0.0
        self._images = 0.0

    def sent(self) -> None:
        if not self._batches:
            self._since = self._clock()
        self._batches += 1

    def answered(self, images: int) -> None:
        """One batch less. images: how many embeddings came of it; 0 where it failed."""
        now = self._clock()
        self._batches -= 1
        self._busy_s += now - self._since
        self._images += images
        self._since = now
        if self._busy_s > FORGET_S:
            self._busy_s /= 2
            self._images /= 2

    @property
    def images_per_s(self) -> float:
        """Of the backend while it is busy; 0 as long as nothing is known."""
        return self._images / self._busy_s if self._busy_s else 0.0

    def depth(self, workers: int, max_batch: int) -> int:
        """Full batches for all workers together."""
        if not self.images_per_s:
            return workers * LEAST
        batch_s = max_batch * workers / self.images_per_s
        deep = max(LEAST, 1 + math.ceil(AHEAD_S / batch_s))
        if batch_s < SHORT_S:
            deep = max(2 * len(LANES), deep + deep % len(LANES))
        return workers * deep
