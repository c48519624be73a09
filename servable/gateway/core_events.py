"""The events of gRPC's core on an event loop, many at a time.

grpc.aio has a thread that takes each event and wakes the loop for it through a socket. Here the loop takes the events
itself between its other work, and a thread waits for the next one only where the loop is about to sleep.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sized
from typing import Any, Optional

from grpc._cython import cygrpc

MOST = 256  # events in one round of the loop: something else may wait
_NONE, _END = cygrpc.CompletionType.queue_timeout, cygrpc.CompletionType.queue_shutdown
log = logging.getLogger(__name__)


class CoreEvents:
    """`queue` is gRPC's. A tag in it is a function that takes its event; it runs on the loop, and must not wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = cygrpc.CompletionQueue()
        self.calls = 0  # that are open: kept by them
        self._loop = loop
        # What the loop runs next. Where a loop does not show it, the thread waits more often.
        self._ready: Sized = getattr(loop, "_ready", ())
        self._asleep = threading.Lock()  # held while the loop looks after the queue
        self._asleep.acquire()
        self._ended: Optional[asyncio.Future[None]] = None

    def start(self) -> None:
        threading.Thread(target=self._wait, name="grpc-events", daemon=True).start()

    async def stop(self) -> None:
        """Waits for all that is under way: end it before."""
        self._ended = self._loop.create_future()
        self.queue.shutdown()
        await self._ended

    def _wait(self) -> None:
        """With one call or none the loop sleeps before each event anyway: they are handed over one by one."""
        while True:
            event = self.queue.poll()
            rests = self.calls > 1
            try:
                self._loop.call_soon_threadsafe(self._take if rests else self._handle, event)
            except RuntimeError:  # the loop is closed
                return
            if event.completion_type == _END:
                return
            if rests:
                self._asleep.acquire()

    def _take(self, event: Any = None) -> None:
        """This event, and all that are there. The thread rests until the loop is about to sleep."""
        event = event or self.queue.poll(0.0)
        count = 0
        while event.completion_type != _NONE:
            self._handle(event)
            if event.completion_type == _END:
                self._asleep.release()
                return
            count += 1
            if count == MOST:
                break
            event = self.queue.poll(0.0)
        if count or self._ready:
            self._loop.call_soon(self._take)  # by then there may be more
        else:
            self._asleep.release()

    def _handle(self, event: Any) -> None:
        if event.completion_type == _END:
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)
            return
        try:
            event.tag(event)
        except Exception:
            log.exception("an event of gRPC met an error of the gateway")
