"""The network's own threads: batches run as soon as their pictures are decoded, while this worker's stages go on.

All Python stages of a worker share one thread of MindSpore Serving. A stage hands a batch over and gets a ticket; a
later stage redeems it. In between the next batches are handed over and decoded, so the network need not wait for them.

The thread takes turns between two lanes of batches, and within one goes for rows before it takes further batches in. So
it would wait for the rows of all that it has, one after the other, while the next batches stand at the door, and the
network would wait for those in turn. Therefore a ticket is held back until the batch before has its rows: the thread
comes to take the next batch in while a run is under way. Where runs are long there is one batch beside the one that
runs, sent when the one before was answered; the thread holds its ticket back for a while, and takes the next one in.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Optional, Union

import numpy as np
import numpy.typing as npt

LONG_S = 0.04  # a run: beside shorter ones there are more batches (servable.gateway.queue.flow)
RECENT = 64  # tickets: one of an earlier batch was dropped by MindSpore Serving
LINGER = 2 / 3  # of a long run, for the next batch to come; what is left of it is for decoding that

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
        self._run_s = self._ended_at = 0.0  # what the last run took, beside another since that one's end; when
        self._changed = threading.Condition()  # of what is ready and what runs
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

    def hold_back(self, ticket: int) -> None:
        """Until one of the batches before this one has its rows, or this one has. Where it is the only one and runs are
        long: for a part of a run, in which the next one comes, or until it has its rows."""
        batch = self._batches.get(ticket)
        if batch is None:
            return
        before = [each.outcome for number, each in self._batches.items() if ticket - RECENT <= number < ticket]
        if before:
            wait((*before, batch.outcome), return_when=FIRST_COMPLETED)
        elif self._run_s >= LONG_S and len(self._batches) == 1:
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
                now = time.monotonic()
                self._run_s, self._ended_at = now - max(began_at, self._ended_at), now
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
