"""Whether a version gives right answers: its golden picture through the whole pipeline, compared with what is known.

A backend that was just started or met a fault serves again when the golden picture comes back right. One that stays
wrong, or silent while nothing else comes back either, is reported for replacement. Traffic that succeeds stands in
for the golden picture for a while, so that a busy backend is not asked and a slow one not called dead. With several
workers, of which one hangs, golden pictures and traffic go on through the others: there, images without an answer tell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Callable, Optional

import numpy as np

from servable.config.sections import ReadinessSection
from servable.gateway.backends import BackendFacts, Served, State, WrongEmbedding
from servable.gateway.call.methods import METHODS
from servable.gateway.call.reply import FailedImage, Fault, read_reply
from servable.gateway.channel import BackendError, Channel
from servable.gateway.observe.metrics import GatewayMetrics
from servable.gateway.queue.backend_request import LANES, batch_pieces
from servable.gateway.queue.dispatcher import Dispatcher

RETRY_S = 0.25  # after a quick failure: a restarting worker answers with one at once
MAX_INTERVAL_S = 30.0
# Images without an answer for so many times the silence that ends a lone worker hang in one of several: 30 s by
# default, more than a batch of the largest pictures takes.
PATIENCE = 3
log = logging.getLogger(__name__)


class Readiness:
    """Watches one version until it is cancelled."""

    def __init__(
        self,
        served: Served,
        dispatcher: Dispatcher,
        settings: ReadinessSection,
        on_unhealthy: Callable[[Served, str], None],
        metrics: GatewayMetrics,
    ) -> None:
        self._served = served
        self._dispatcher = dispatcher
        self._settings = settings
        self._hang_s = settings.failures_before_replace * settings.deadline_s  # a lone worker's silence
        self._on_unhealthy = on_unhealthy
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._generation = 0
        self._reported = False
        self._failures = 0
        self._failing_since = 0.0
        self._golden_at = float("-inf")
        self._cost_s = 0.0
        served.listeners.append(self._wake)

    def _wake(self, _served: Served) -> None:
        self._changed.set()

    async def run(self) -> None:
        try:
            while True:
                self._changed.clear()
                if self._served.generation != self._generation:
                    self._generation = self._served.generation
                    self._reported, self._failures, self._cost_s = False, 0, 0.0
                await self._pause(await self._step())
        finally:
            self._served.listeners.remove(self._wake)

    async def _pause(self, seconds: Optional[float]) -> None:
        """Until `seconds` have passed, something changed, or calls wait for a backend that has gone silent."""
        limit = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if limit is None else max(0.0, limit - time.monotonic())
            slice_s = None if left is None else min(left, self._settings.interval_s, self._settings.deadline_s / 10)
            try:
                await asyncio.wait_for(self._changed.wait(), slice_s)
                return
            except asyncio.TimeoutError:
                if left is None or left == slice_s or self._silent() or self._stuck():
                    return

    def _silent(self) -> bool:
        """It was given images and has answered nothing for a while: the cost cap must not delay the question."""
        last = max(self._dispatcher.succeeded_at, self._golden_at)
        return self._dispatcher.sent > 0 and time.monotonic() - last > self._settings.deadline_s

    def _silent_since(self) -> float:
        """Since when it has owed an answer: to a golden picture that failed, or to images that wait for longer."""
        last = max(self._dispatcher.succeeded_at, self._golden_at)
        return max(last, min(self._failing_since, self._dispatcher.waiting_since))

    def _patience_s(self, now: float) -> float:
        """The golden picture's deadline. Asked again beside images that wait, it gets what is left to a hang."""
        full = self._settings.deadline_s
        if not self._failures or self._reported or not self._dispatcher.sent:
            return full
        return min(full, max(RETRY_S, self._silent_since() + self._hang_s - now))

    def _stuck(self) -> bool:
        """One of several workers hangs with images in it."""
        backend = self._served.backend
        if backend is None or backend.workers < 2:
            return False
        return time.monotonic() - self._dispatcher.waiting_since > PATIENCE * self._hang_s

    async def _step(self) -> Optional[float]:
        """One look; returns the seconds to the next, None: until something changes."""
        served, channel = self._served, self._dispatcher.channel
        if served.state is State.DOWN or served.backend is None or channel is None:
            return None
        if self._stuck() and not self._reported:
            self._report("one of the workers does not answer")
        if served.state is State.SERVING and self._traffic_stands_in():
            return self._settings.interval_s
        began, generation = time.monotonic(), served.generation
        if not self._failures:
            self._failing_since = began
        try:
            await self._probe(served.backend, channel, self._patience_s(began))
        except (BackendError, WrongEmbedding) as error:
            if served.generation != generation or not self._up():
                return 0.0
            return self._failed(error, began)
        self._golden_at = time.monotonic()
        self._cost_s = self._golden_at - began
        self._metrics.probe(self._cost_s, ok=True)
        self._failures = 0
        if served.generation == generation and served.state is State.PROBING:
            log.info("version %d serves: its golden picture came back right in %.3f s", served.version, self._cost_s)
            self._move(State.SERVING, "")
        return min(MAX_INTERVAL_S, max(self._settings.interval_s, self._cost_s / self._settings.max_cost_share))

    def _move(self, state: State, reason: str) -> None:
        self._served.move(state, reason)
        self._changed.clear()  # what this told itself

    def _up(self) -> bool:
        return self._served.state is not State.DOWN

    def _traffic_stands_in(self) -> bool:
        now = time.monotonic()
        return (
            now - self._dispatcher.succeeded_at < self._settings.interval_s
            and now - self._golden_at < self._settings.forced_interval_s
        )

    async def _probe(self, backend: BackendFacts, channel: Channel, deadline_s: float) -> None:
        method = METHODS["embed"]
        golden = backend.golden
        body = batch_pieces(method.name, LANES[0], [golden.image])
        reply = await channel.predict(body, deadline_s)
        outcome = read_reply(reply, 1, backend.embedding_dim)[0]
        if isinstance(outcome, FailedImage):
            raise WrongEmbedding(f"the golden picture failed: {outcome.name}")
        if isinstance(outcome, Fault):
            raise BackendError(outcome.reason)
        distance = golden.distance(np.frombuffer(outcome, "<f4"))
        if distance > self._settings.max_relative_distance:
            raise WrongEmbedding(
                f"the golden picture's embedding is off by {distance:.3g}; "
                f"the most is {self._settings.max_relative_distance:g}"
            )

    def _failed(self, error: Exception, began: float) -> float:
        served, settings, now = self._served, self._settings, time.monotonic()
        wrong = isinstance(error, WrongEmbedding)
        if not wrong and self._dispatcher.succeeded_at > began:
            return settings.interval_s  # others were answered meanwhile: busy, not dead
        self._failures += 1
        self._metrics.probe(now - began, ok=False)
        reason = f"golden picture: {error}"
        if served.state is State.SERVING or served.reason != reason:
            log.warning("version %d is not ready: %s", served.version, reason)
            self._move(State.PROBING, reason)
        enough = settings.failures_before_replace
        # Quick failures are those of a worker that is being restarted, which takes seconds: time counts, not number.
        hangs = now - self._silent_since() >= self._hang_s - RETRY_S
        if (self._failures >= enough if wrong else hangs) and not self._reported:
            self._report(reason)
        return RETRY_S

    def _report(self, reason: str) -> None:
        self._reported = True
        self._on_unhealthy(self._served, reason)
