"""A call's images on their way to the backend and back, and the batches in which they go. No I/O."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Optional, Union

from servable.gateway.call.methods import Method
from servable.gateway.call.reply import FailedImage, Row
from servable.gateway.call.request import Payload
from servable.gateway.errors import CallError, unavailable
from servable.gateway.queue.backend_request import batch_pieces

RETRY_AFTER_FAULT_MS = 1000


class PendingCall:
    """The images of one call on their way. `outcomes` in the order of `payloads`, complete when `done` is.

    A payload of None needs no embedding. request_id: for the log.
    """

    def __init__(
        self,
        method: Method,
        payloads: Sequence[Optional[Payload]],
        *,
        request_id: str = "",
    ) -> None:
        self.method = method
        self.request_id = request_id
        self.payloads = payloads
        self.pending: deque[int] = deque(index for index, payload in enumerate(payloads) if payload is not None)
        self.outcomes: list[Optional[Union[Row, FailedImage]]] = [None] * len(payloads)
        self.left = len(self.pending)
        self.fingerprint: Optional[str] = None
        self.queued_at = time.monotonic()
        self.sent_at: Optional[float] = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def payload(self, index: int) -> Payload:
        """Of an image that needs an embedding."""
        payload = self.payloads[index]
        assert payload is not None
        return payload

    def fail(self, error: CallError) -> None:
        self.pending.clear()
        if not self.done.done():
            self.done.set_exception(error)

    def set(self, index: int, outcome: Union[Row, FailedImage], fingerprint: Optional[str]) -> None:
        """fingerprint: of the model that gave the outcome; None where none did."""
        if self.done.done():
            return
        if fingerprint is not None:
            if self.fingerprint not in (None, fingerprint):
                # Two halves of one call from two models: never mixed.
                self.fail(unavailable("the model changed during the call; send it again", RETRY_AFTER_FAULT_MS))
                return
            self.fingerprint = fingerprint
        self.outcomes[index] = outcome
        self.left -= 1
        if not self.left:
            self.done.set_result(None)


@dataclass(frozen=True)
class SharedBatch:
    """What goes to the backend at once: images of one method, each by its call and its place there.

    alone: one image that was there when a backend ended, with nothing beside it.
    """

    method: Method
    images: list[tuple[PendingCall, int]]
    alone: bool
    made_at: float = field(default_factory=time.monotonic)

    @cached_property
    def size(self) -> int:
        """Bytes of its images."""
        return sum(len(call.payload(index)) for call, index in self.images)

    def encode(self, lane: str) -> tuple[Payload, ...]:
        """The request in pieces."""
        return batch_pieces(self.method.name, lane, [call.payload(index) for call, index in self.images])
