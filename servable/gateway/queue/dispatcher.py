"""From calls to batches: what one version's backend gets, when, and what becomes of the answers.

A call's images wait in a PendingCall. A batch takes images of one method, from as many calls as it needs to be full,
and goes out as soon as the backend's window has room; calls take turns, so a large call does not hold up a small one.
Nothing waits for a batch to fill: while the backend is busy batches fill up by themselves.

Embedding is idempotent: images whose batch met a fault of the backend, or its end, go to its successor. Any of them may
have been the cause, so they are suspects. Each is tried in a process of its own where `trial` gives one, and goes alone
then, before everything else, and with nothing beside it. The one that is there when it happens again fails, with
E_CRASH, and is not sent again, unless a device's worker ended in the network's own run; the others are answered.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Callable, Optional

from servable.gateway.backends import BackendFacts, Served
from servable.gateway.call.reply import Fault, Outcome, crashed, read_reply
from servable.gateway.channel import BackendError, Channel
from servable.gateway.errors import CallError, overloaded, unavailable
from servable.gateway.observe import logs
from servable.gateway.queue.backend_request import LANES
from servable.gateway.queue.flow import LEAST, Flow
from servable.gateway.queue.pending import RETRY_AFTER_FAULT_MS, PendingCall, SharedBatch
from servable.gateway.queue.suspects import REMEMBERED_S, Known, Suspects, Trial
from servable.gateway.tasks import started

# MindSpore Serving's master sends a worker what waits for it in one message of at most 512 MB, and takes the worker for
# dead where it is larger. It keeps three messages a method under way, so the first batches of a worker go alone.
MAX_BATCH_BYTES = 64 * 1024 * 1024
MAX_SENT_BYTES = 256 * 1024 * 1024
TRIAL_S = 12.0  # for all suspects of one end, of which 5 pass anyway until there is a successor
log = logging.getLogger(__name__)


class Dispatcher:
    """One version's queue. `on_images` hears how many images came back; used for the retry hint."""

    def __init__(
        self,
        served: Served,
        *,
        wait_when_down: bool,
        timeout_s: float,
        on_images: Callable[[int], None],
        trial: Optional[Trial] = None,
    ) -> None:
        self._served = served
        self._trial = trial
        self._wait_when_down = wait_when_down
        self._timeout_s = timeout_s
        self._on_images = on_images
        self._calls: deque[PendingCall] = deque()
        self._suspects: deque[tuple[PendingCall, int]] = deque()
        self._untried: deque[tuple[PendingCall, int]] = deque()  # in a process of their own; calls may be over
        self._trying: Optional[asyncio.Task[None]] = None
        self._known = Suspects()
        self._batches: dict[asyncio.Task[int], SharedBatch] = {}
        self._flow = Flow()
        self._lanes = itertools.cycle(LANES)
        self._channel: Optional[Channel] = None
        self._generation = 0
        self._ran = False  # the last end: a suspect was alone in it, in a run of a device
        self._pump_due = False
        self._closed = False
        self.sent = 0  # images that the backend works on
        self.succeeded_at = 0.0  # monotonic; last time that the backend gave an embedding
        served.listeners.append(self._changed)

    @property
    def channel(self) -> Optional[Channel]:
        """To the current backend; None before there was one."""
        return self._channel

    @property
    def waiting_since(self) -> float:
        """When the oldest batch was sent that is not answered yet; now where there is none. Monotonic."""
        return min((batch.made_at for batch in self._batches.values()), default=time.monotonic())

    async def run(self, call: PendingCall) -> None:
        """Returns when every image of `call` has its outcome. Raises CallError. Cancelled: its images are dropped."""
        self._recognise(call)
        if not self._served.serving and not self._wait_when_down and not call.done.done():
            call.fail(self._down())
        if call.pending:
            self._calls.append(call)
        if self._batches:
            self._pump_soon()
        else:  # nothing to share a batch with
            self._pump()
        try:
            await call.done
        finally:
            call.pending.clear()
            if not call.done.done():
                call.done.cancel()

    async def close(self) -> None:
        """Ends every batch; calls that are left fail with UNAVAILABLE."""
        self._closed = True
        self._served.listeners.remove(self._changed)
        self._fail_all()
        self._drop_channel()
        trying = [] if self._trying is None else [self._trying]
        for task in trying:
            task.cancel()
        await asyncio.gather(*self._batches, *trying, return_exceptions=True)

    def _changed(self, served: Served) -> None:
        if served.generation != self._generation and served.backend is not None:
            self._generation = served.generation
            self._drop_channel()
            self._channel = Channel(served.backend.target)
        if served.serving:
            served.images_in_it = False
            self._ran = False
        if served.state.value == "down":
            backend = served.backend  # asked now: its files go with it
            alone = [batch for batch in self._batches.values() if batch.alone]
            self._ran = any(backend is not None and backend.ran_since(batch.made_at) for batch in alone)
            served.images_in_it = served.images_in_it or bool(self._batches)
            self._drop_channel()
        if not served.serving and not self._wait_when_down:
            self._fail_all()
        self._pump_soon()

    def _drop_channel(self) -> None:
        """Batches on the old channel end with an error and go back to their calls."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _fail_all(self) -> None:
        for call in [*self._calls, *(call for call, _ in self._suspects)]:
            call.fail(self._down())
        self._calls.clear()

    def _down(self) -> CallError:
        if self._closed:
            return unavailable("the version is no longer served; send the call again", RETRY_AFTER_FAULT_MS)
        return unavailable("the model is being restarted; try again later", RETRY_AFTER_FAULT_MS)

    def _pump_soon(self) -> None:
        if not self._pump_due:  # once an iteration of the loop: what arrived together goes out together
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._pump_due = False
        self._pump()

    def _pump(self) -> None:
        backend, channel = self._served.backend, self._channel
        if not self._served.serving or backend is None or channel is None:
            return
        while True:
            if not self._has_room(backend):
                return
            batch = self._next_batch(backend.max_batch)
            if batch is None:
                return
            self.sent += len(batch.images)
            self._flow.sent()
            run = self._send(batch, channel, backend.fingerprint, backend.embedding_dim)
            task = started(asyncio.get_running_loop(), run)
            self._batches[task] = batch
            task.add_done_callback(self._batch_ended)

    def _has_room(self, backend: BackendFacts) -> bool:
        """Beyond the least that keeps the workers busy only full batches are worth a place."""
        count = len(self._batches)
        if count < LEAST * backend.workers:
            return count < backend.most_batches
        deep = min(backend.most_batches, self._flow.depth(backend.workers, backend.max_batch))
        if count >= deep or not self._waits(backend.max_batch):
            return False
        return sum(batch.size for batch in self._batches.values()) <= MAX_SENT_BYTES - MAX_BATCH_BYTES

    def _waits(self, images: int) -> bool:
        """Whether so many images wait."""
        for call in self._calls:
            images -= len(call.pending)
            if images <= 0:
                return True
        return False

    def _next_batch(self, most: int) -> Optional[SharedBatch]:
        if self._served.alone:
            return None
        while self._suspects:
            if self._batches or self._trying is not None:
                return None
            call, index = self._suspects.popleft()
            if not call.done.done():
                self._served.alone = True
                return SharedBatch(call.method, [(call, index)], alone=True)
            self._known.note(call.method, call.payload(index), Known.SUSPECT)  # its call is over: when it comes again
        while self._calls and not self._calls[0].pending:
            self._calls.popleft()
        if not self._calls:
            return None
        first = self._calls[0]
        images: list[tuple[PendingCall, int]] = []
        passed_over: list[PendingCall] = []  # they keep their place
        size = 0
        while self._calls and len(images) < most:
            call = self._calls.popleft()
            taken = 0
            while call.pending and call.method is first.method and len(images) < most:
                payload = call.payload(call.pending[0])
                if images and size + len(payload) > MAX_BATCH_BYTES:
                    break
                images.append((call, call.pending.popleft()))
                size += len(payload)
                taken += 1
            if call.pending and taken:
                self._calls.append(call)  # it had its turn
                break
            if call.pending:
                passed_over.append(call)
        self._calls.extendleft(reversed(passed_over))
        return SharedBatch(first.method, images, alone=False) if images else None

    async def _send(self, batch: SharedBatch, channel: Channel, fingerprint: str, dim: int) -> int:
        """How many images it embedded."""
        logs.request_id.set("")  # this task began in some call's context and works for others too
        now = time.monotonic()
        for call, _ in batch.images:
            if call.sent_at is None:
                call.sent_at = now
        count = len(batch.images)
        outcomes: Sequence[Outcome]
        try:
            reply = await channel.predict(batch.encode(next(self._lanes)), self._timeout_s)
        except BackendError as error:
            outcomes = [Fault(str(error))] * count
        else:
            outcomes = read_reply(reply, count, dim)
        return self._settle(batch, outcomes, channel, fingerprint)

    def _settle(self, batch: SharedBatch, outcomes: Sequence[Outcome], channel: Channel, fingerprint: str) -> int:
        good = 0
        faults: list[tuple[PendingCall, int, Fault]] = []
        for (call, index), outcome in zip(batch.images, outcomes):
            if isinstance(outcome, Fault):
                faults.append((call, index, outcome))
            else:
                good += 1
                call.set(index, outcome, fingerprint)
        if good:
            self.succeeded_at = time.monotonic()
            self._served.answered.append((self.succeeded_at, [call.request_id for call, _ in batch.images]))
            self._on_images(good)
        if faults:
            self._faulted(batch, faults, channel)
        elif batch.alone:
            ((call, index),) = batch.images
            self._served.suspect_images["cleared"] += 1
            self._known.forget(call.method, call.payload(index))
        return good

    def _faulted(self, batch: SharedBatch, faults: Sequence[tuple[PendingCall, int, Fault]], channel: Channel) -> None:
        reason = faults[0][2].reason
        ids = sorted({call.request_id for call, _ in batch.images})
        log.warning(
            "a batch of %d images failed: %s", len(batch.images), reason, extra={"fields": {"request_ids": ids}}
        )
        if channel is self._channel and not faults[0][2].overload:
            self._served.doubt(f"a batch failed: {reason}")
        for call, index, fault in faults:
            if fault.overload:
                call.fail(overloaded("the model has too much to do; try again later", RETRY_AFTER_FAULT_MS))
            elif self._closed or self._served.ending or (batch.alone and fault.lives):
                call.fail(self._down())
            elif batch.alone and self._ended_in_network(batch):
                self._take_back(call, index)
            elif batch.alone:
                self._convict(call, index, f"MindSpore Serving twice, the second time alone: {fault.reason}")
            else:
                self._accuse(call, index)
            self._served.images_in_it |= not (fault.overload or fault.lives)

    def _ended_in_network(self, batch: SharedBatch) -> bool:
        """Whether a device's worker ended, or hung, in the run of this one image."""
        backend = self._served.backend
        return self._ran or (backend is not None and backend.ran_since(batch.made_at))

    def _take_back(self, call: PendingCall, index: int) -> None:
        """The device is to blame: the image is one like any other."""
        log.warning("a device ended in a run with a suspect alone in it: the image is not to blame and is sent again")
        self._known.forget(call.method, call.payload(index))
        if not self._wait_when_down:
            call.fail(self._down())
        elif not call.done.done():
            call.pending.append(index)
            if call not in self._calls:
                self._calls.append(call)

    def _accuse(self, call: PendingCall, index: int) -> None:
        """The image goes alone: with its call where that still waits, else when it comes again. One that was found out
        since, in another batch of the same end, is answered at once."""
        if self._refuse(call, index):
            return
        if not self._wait_when_down:
            call.fail(self._down())
        if call.done.done():
            self._known.note(call.method, call.payload(index), Known.SUSPECT)
        else:
            # The last to be sent goes first: what the backend worked on when it ended came early.
            self._suspects.appendleft((call, index))
        if self._trial is not None and not self._closed:
            self._untried.append((call, index))
            if self._trying is None:
                self._trying = asyncio.ensure_future(self._try(self._trial))

    async def _try(self, trial: Trial) -> None:
        """Each suspect in a process that may end, while the successor starts: what ends that needs no second end."""
        limit = time.monotonic() + TRIAL_S
        try:
            async with trial() as ends:
                while self._untried and time.monotonic() < limit:
                    call, index = self._untried.popleft()
                    if self._known.look(call.method, call.payload(index)) is Known.GUILTY:
                        continue
                    trying = ends(call.method.name, call.payload(index))
                    if await asyncio.wait_for(trying, max(0.0, limit - time.monotonic())):
                        if (call, index) in self._suspects:
                            self._suspects.remove((call, index))
                        self._convict(
                            call, index, "MindSpore Serving, or was there, and a process that it was tried in"
                        )
        except asyncio.TimeoutError:
            log.warning("the time for trying suspects is over: those that are left go to MindSpore Serving alone")
        except Exception as error:  # they wait for its end
            log.warning("suspects go to MindSpore Serving without having been tried: %s", error)
        finally:
            self._untried.clear()
            self._trying = None
            self._pump_soon()

    def _convict(self, call: PendingCall, index: int, what: str) -> None:
        """It happened again, and nothing else was there."""
        payload = call.payload(index)
        digest = self._known.note(call.method, payload, Known.GUILTY)
        self._served.suspect_images["failed"] += 1
        log.error(
            "an image gets E_CRASH, now and for %d minutes: it ended or held up %s",
            REMEMBERED_S // 60,
            what,
            extra={
                "fields": {
                    "request_id": call.request_id,
                    "sha256": digest[:16],
                    "bytes": len(payload),
                    "method": call.method.name,
                }
            },
        )
        call.set(index, crashed(), None)
        suspects, self._suspects = self._suspects, deque()
        for other, place in suspects:
            if not self._refuse(other, place):
                self._suspects.append((other, place))
        for other in self._calls:
            self._recognise(other)

    def _recognise(self, call: PendingCall) -> None:
        """Images that are known from before are answered at once, or go alone."""
        if not self._known:
            return
        for index in list(call.pending):
            known = self._known.look(call.method, call.payload(index))
            if known is not None:
                call.pending.remove(index)
                if not self._refuse(call, index):
                    self._suspects.append((call, index))

    def _refuse(self, call: PendingCall, index: int) -> bool:
        guilty = self._known.look(call.method, call.payload(index)) is Known.GUILTY
        if guilty and not call.done.done():
            self._served.suspect_images["remembered"] += 1
            call.set(index, crashed(), None)
        return guilty

    def _batch_ended(self, task: asyncio.Task[int]) -> None:
        batch = self._batches.pop(task)
        self.sent -= len(batch.images)
        if batch.alone:
            self._served.alone = False
        failed = task.cancelled() or task.exception() is not None
        self._flow.answered(0 if failed else task.result())
        if failed and not task.cancelled():
            log.error("a batch ended by an error of the gateway", exc_info=task.exception())
            for call, _ in batch.images:
                call.fail(unavailable("the call could not be finished; send it again", RETRY_AFTER_FAULT_MS))
        self._pump_soon()
