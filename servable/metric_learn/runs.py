"""The network's own threads: batches run as soon as their pictures are decoded, while this worker's stages go on.

All Python stages of a worker share one thread of MindSpore Serving. A stage hands a batch over and gets a ticket; a
later stage redeems it. In between the next batches are handed over and decoded, so the network need not wait for them.

The thread takes turns between two lanes of batches. Where runs are long it would come to wait for the rows of the only
batch that it has, while the next one, sent when the one before was answered, is on its way: the network would wait for
that in turn. So the thread lingers before it does, and takes the next batch in on its way.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, TimeoutError
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Optional, Union

import numpy as np
import numpy.typing as npt

LONG_S = 0.04  # a run: beside shorter ones there are more batches (servable.gateway.queue.flow)
LINGER = 1 / 3  # of a long run, for the next batch to come; what is left is for its decoding

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
    """`embeds` run the network, each in a thread of this object and with `most` pictures or fewer where the batches are
    no larger. With several of them one run's pictures go to the device while another's are computed. `describe` gives
    the error of a picture that could not be decoded."""

    def __init__(
        self, embeds: Sequence[Embed], describe: Callable[[Exception], str], *, most: int, dim: int, kept: int
    ) -> None:
        self._describe = describe
        self._most, self._dim, self._kept = most, dim, kept
        self._lock = threading.Lock()  # of the batches' counts
        self._numbers = itertools.count(1)
        self._batches: dict[int, _Batch] = {}
        self._ready: deque[_Batch] = deque()
        self._running = 0
        self._run_s = 0.0  # that the last run took
        self._changed = threading.Condition()  # of the two above
        for embed in embeds:
            threading.Thread(target=self._run, args=(embed,), name="runs", daemon=True).start()

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

    def linger(self, ticket: int) -> None:
        """Where runs are long and no other batch is there that has not run: waits for a part of a run's time, or for
        this one's end."""
        batch = self._batches.get(ticket)
        if batch is None or self._run_s < LONG_S:
            return
        if all(each is batch or each.outcome.done() for each in self._batches.values()):
            with suppress(TimeoutError):
                batch.outcome.exception(LINGER * self._run_s)

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
            with self._changed:
                self._ready.append(batch)
                self._changed.notify()

    def _run(self, embed: Embed) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._worth_a_run)
                batches = self._take()
                self._running += 1
            began_at = time.monotonic()
            try:
                outcomes = self._outcomes(embed, batches)
            except Exception as error:
                for batch in batches:
                    batch.outcome.set_exception(error)
            else:
                for batch, outcome in zip(batches, outcomes):
                    batch.outcome.set_result(outcome)
            for batch in batches:
                batch.pictures.clear()  # rows may wait for longer, or for nobody
            with self._changed:
                self._running -= 1
                self._run_s = time.monotonic() - began_at
                self._changed.notify()

    def _worth_a_run(self) -> bool:
        """Beside a run that is under way only a full one is: small batches wait for its end, and then run together."""
        if not self._running:
            return bool(self._ready)
        return sum(len(batch.pictures) for batch in self._ready) >= self._most

    def _take(self) -> list[_Batch]:
        batches = [self._ready.popleft()]
        count = len(batches[0].pictures)
        while self._ready and count + len(self._ready[0].pictures) <= self._most:
            batches.append(self._ready.popleft())
            count += len(batches[-1].pictures)
        return batches

    def _outcomes(self, embed: Embed, batches: Sequence[_Batch]) -> list[Outcome]:
        pictures = [picture for batch in batches for picture in batch.pictures]
        good = [(index, picture) for index, picture in enumerate(pictures) if not isinstance(picture, Exception)]
        rows = np.zeros((len(pictures), self._dim), np.float32)
        if good:
            for (index, _), row in zip(good, embed([picture for _, picture in good])):
                rows[index] = row
        outcomes, start = [], 0
        for batch in batches:
            stop = start + len(batch.pictures)
            errors = [self._describe(each) if isinstance(each, Exception) else None for each in batch.pictures]
            outcomes.append((rows[start:stop], errors))
            start = stop
        return outcomes
