"""The network's own thread: batches run as soon as their pictures are decoded, while this worker's stages go on.

All Python stages of a worker share one thread of MindSpore Serving. A stage hands a batch over and gets a ticket; a
later stage redeems it. In between the next batches are handed over and decoded, so the network need not wait for them.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Callable, Optional, Union

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Picture = Union[Array, Exception]  # uint8 [224, 224, 3], or why there is none
Outcome = tuple[Array, list[Optional[str]]]  # float32 [images, dim], and the error of each image that has one
Embed = Callable[[list[Array]], Sequence[Array]]  # pictures -> float32 [dim] each


class _Batch:
    """The pictures of one instance, and the rows that come of them."""

    def __init__(self, count: int) -> None:
        self.pictures: list[Picture] = [ValueError("not decoded")] * count
        self.undecoded = count
        self.outcome: Future[Outcome] = Future()


class Runs:
    """`embed` runs the network; it is called in this object's thread alone, with `most` pictures or fewer where the
    batches are no larger. `describe` gives the error of a picture that could not be decoded."""

    def __init__(self, embed: Embed, describe: Callable[[Exception], str], *, most: int, dim: int, kept: int) -> None:
        self._embed = embed
        self._describe = describe
        self._most, self._dim, self._kept = most, dim, kept
        self._lock = threading.Lock()  # of the batches' counts
        self._numbers = itertools.count(1)
        self._batches: dict[int, _Batch] = {}
        self._ready: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="runs", daemon=True).start()

    def submit(self, pictures: Sequence[Union[Future[Array], Picture]]) -> int:
        """Returns the batch's ticket."""
        number, batch = next(self._numbers), _Batch(len(pictures))
        self._batches[number] = batch
        # MindSpore Serving drops what stands between two stages when it gives a request up.
        self._batches.pop(number - self._kept, None)
        for index, picture in enumerate(pictures):
            if isinstance(picture, Future):
                picture.add_done_callback(partial(self._future_done, batch, index))
            else:
                self._decoded(batch, index, picture)
        return number

    def redeem(self, ticket: int) -> Outcome:
        """Waits for the batch. Raises what the run raised."""
        return self._batches.pop(ticket).outcome.result()

    def _future_done(self, batch: _Batch, index: int, future: Future[Array]) -> None:
        error = future.exception()
        if error is None:
            self._decoded(batch, index, future.result())
        else:
            self._decoded(batch, index, error if isinstance(error, Exception) else RuntimeError(str(error)))

    def _decoded(self, batch: _Batch, index: int, picture: Picture) -> None:
        batch.pictures[index] = picture
        with self._lock:
            batch.undecoded -= 1
            last = not batch.undecoded
        if last:
            self._ready.put(batch)

    def _run(self) -> None:
        following: Optional[_Batch] = None
        while True:
            batches = [following or self._ready.get()]
            following, count = None, len(batches[0].pictures)
            while following is None:  # small ones run together
                try:
                    batch = self._ready.get_nowait()
                except queue.Empty:
                    break
                count += len(batch.pictures)
                if count > self._most:
                    following = batch
                else:
                    batches.append(batch)
            try:
                outcomes = self._outcomes(batches)
            except Exception as error:
                for batch in batches:
                    batch.outcome.set_exception(error)
            else:
                for batch, outcome in zip(batches, outcomes):
                    batch.outcome.set_result(outcome)
            for batch in batches:
                batch.pictures.clear()  # rows may wait for longer, or for nobody

    def _outcomes(self, batches: Sequence[_Batch]) -> list[Outcome]:
        pictures = [picture for batch in batches for picture in batch.pictures]
        good = [(index, picture) for index, picture in enumerate(pictures) if not isinstance(picture, Exception)]
        rows = np.zeros((len(pictures), self._dim), np.float32)
        if good:
            for (index, _), row in zip(good, self._embed([picture for _, picture in good])):
                rows[index] = row
        outcomes, start = [], 0
        for batch in batches:
            stop = start + len(batch.pictures)
            errors = [self._describe(each) if isinstance(each, Exception) else None for each in batch.pictures]
            outcomes.append((rows[start:stop], errors))
            start = stop
        return outcomes
