"""The one call behind every wire: from its arrival to its embeddings, its line in the log and its place in the metrics.

A wire (Predict of gRPC, each form of HTTP) knows how bytes become images and how rows become bytes. Who may call, how
much of it and for how long, which version answers and what is told of it is decided here, the same for all:

    outcome = await calls.answer(call, handle)      # CallError, or what `handle` returned
    async def handle():                             # the wire's own
        body = await calls.read(call, come, receive)  # its bytes, where the wire cannot see their size before
        work = parse(body)
        embedded = await calls.embed(call, work, len(body))
        return encode(embedded)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, TypeVar, Union

import grpc

from metric_learn_client.wire import (
    METADATA_AUTHORIZATION,
    METADATA_FINGERPRINT,
    METADATA_REQUEST_ID,
    METADATA_VERSION,
    ImageErrorCode,
    ServingCode,
)
from servable.config.sections import Config
from servable.gateway.backends import Backends, Served
from servable.gateway.call.model_service import resolve
from servable.gateway.call.reply import FailedImage, Row
from servable.gateway.call.request import Payload, PredictWork
from servable.gateway.errors import CallError, Metadata, unavailable
from servable.gateway.limits.admission import Admission
from servable.gateway.limits.bodies import BodyPlaces
from servable.gateway.limits.share import Share
from servable.gateway.limits.time_limit import TimeIsUp, TimeLimit
from servable.gateway.observe import logs
from servable.gateway.observe.metrics import GatewayMetrics
from servable.gateway.observe.tracing import Attributes, Tracer
from servable.gateway.queue.dispatcher import Dispatcher
from servable.gateway.queue.pending import PendingCall
from servable.gateway.security.tokens import Tokens

RETRY_AFTER_DRAIN_MS = 1000
# Replies that callers do not take, for all: a quarter of max_in_flight_bytes, since they cost about twice their size.
UNREAD_PART, UNREAD_SHARES, LEAST_UNREAD_BYTES = 4, 8, 8 * 1024 * 1024
_PROCESS, _count = secrets.token_hex(8), itertools.count(1)  # of the ids that are made here
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Call:
    """One call: what its wire knows of it when it arrives, and what becomes known of it.

    wire: as logs and metrics name it. span: as traces name it. pairs: metadata or headers as they came, names in
    lower case; metadata: the same by name. connection: whose share of the limits it uses; peer: for the log.
    time_left_s: the caller's own deadline, None without one; may raise CallError.
    """

    wire: str
    span: str
    pairs: Sequence[Any]
    metadata: Mapping[str, Any]
    connection: str
    peer: str
    time_left_s: Callable[[], Optional[float]]
    began: float = field(default_factory=time.monotonic)
    request_id: str = ""
    method: str = "unknown"
    images: int = 0
    failures: Sequence[str] = ()
    bytes: int = 0
    queue_s: Optional[float] = None  # None: nothing of it was sent to the backend
    served: Optional[Served] = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        self.request_id = request_id_of(self.metadata)

    def identity(self) -> Metadata:
        """What every answer carries: the request's id and, as far as they are known, the model's version and name."""
        identity: list[tuple[str, Union[str, bytes]]] = [(METADATA_REQUEST_ID, self.request_id)]
        if self.served is not None:
            identity.append((METADATA_VERSION, str(self.served.version)))
        if self.fingerprint:
            identity.append((METADATA_FINGERPRINT, self.fingerprint))
        return tuple(identity)


@dataclass(frozen=True)
class Embedded:
    """One outcome for each image, in order: float32 [dim] as little-endian bytes, or why there is none."""

    method: str
    version: int
    dim: int
    outcomes: list[Union[Row, FailedImage]]


class Calls:
    """`dispatcher_of` gives a version's queue; `draining` tells that no new call is taken."""

    def __init__(
        self,
        settings: Config,
        backends: Backends,
        admission: Admission,
        dispatcher_of: Callable[[Served], Dispatcher],
        tokens: Optional[Tokens],
        metrics: GatewayMetrics,
        tracer: Tracer,
    ) -> None:
        self._settings = settings
        self._backends = backends
        self._admission = admission
        self._dispatcher_of = dispatcher_of
        self._tokens = tokens
        self._metrics = metrics
        self._tracer = tracer
        limits = settings.limits
        self._bodies = BodyPlaces(
            limits.max_reading_calls, settings.deadlines.read_body_s, max_waiting=limits.max_in_flight_calls
        )
        unread_each = max(LEAST_UNREAD_BYTES, limits.max_in_flight_bytes // UNREAD_PART // UNREAD_SHARES)
        self.unread = Share("bytes of replies that are not read", UNREAD_SHARES * unread_each, unread_each)
        self.draining = False

    async def answer(self, call: Call, handle: Callable[[], Awaitable[T]]) -> Union[T, CallError]:
        """What `handle` returns, run within the call's deadline and place, or why the call fails as a whole.

        Counted and logged either way. Raises CancelledError alone.
        """
        token = logs.request_id.set(call.request_id)
        outcome: Union[T, CallError, None] = None
        code = grpc.StatusCode.CANCELLED
        try:
            with self._tracer.span(call.span, call.metadata) as attributes:
                outcome = await self._outcome(call, handle)
                code = outcome.status if isinstance(outcome, CallError) else grpc.StatusCode.OK
                if attributes is not None:
                    _describe(attributes, call, code)
            return outcome
        finally:
            if outcome is None and call.time_left_s() == 0:
                # Cancelled: by the caller, or by the connection when the caller's deadline has passed.
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            # Counted and logged when the reply is on its way.
            seconds = time.monotonic() - call.began
            asyncio.get_running_loop().call_soon(self._record, call, code, seconds)
            logs.request_id.reset(token)

    async def read(self, call: Call, come: Callable[[], Awaitable[bool]], receive: Callable[[], Awaitable[T]]) -> T:
        """What `receive` returns, as BodyPlaces.read does. Raises CallError as that does."""
        with self.reading():
            return await self._bodies.read(call.connection, come, receive)

    def reading(self) -> AbstractContextManager[None]:
        """While a body comes whose bytes the wire counts itself. Raises CallError (RESOURCE_EXHAUSTED) at its end."""
        return self._admission.body()

    async def embed(self, call: Call, work: PredictWork, size: int, version_field: str) -> Embedded:
        """size: bytes of the body. version_field: how the wire writes the version that is asked for.

        Raises CallError: NOT_FOUND, RESOURCE_EXHAUSTED, UNAVAILABLE.
        """
        call.bytes, call.method, call.images = size, work.method.name, len(work.payloads)
        served = resolve(self._backends, work.version, version_field)
        call.served = served
        with self._admission.work(call.connection, len(work.payloads), size), served:
            return await self._embed(call, work, served)

    async def _outcome(self, call: Call, handle: Callable[[], Awaitable[T]]) -> Union[T, CallError]:
        try:
            if len(call.pairs) != len(call.metadata):
                refuse_repeated(call.pairs)
            return await self._within_deadline(call, handle)
        except CallError as error:
            # Without its traceback, whose frames hold the request's body.
            return error.with_traceback(None)
        except Exception:
            log.exception("a call ended by an error of the gateway")
            return CallError(
                grpc.StatusCode.INTERNAL, f"the gateway failed; its log has the reason for request {call.request_id}"
            )

    async def _within_deadline(self, call: Call, handle: Callable[[], Awaitable[T]]) -> T:
        deadlines = self._settings.deadlines
        left = call.time_left_s()
        seconds = min(deadlines.default_s if left is None else left, deadlines.max_s)
        try:
            with TimeLimit(seconds):
                self._admit(call)
                with self._admission.call():
                    return await handle()
        except TimeIsUp:
            raise CallError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"not done within {seconds:.3g} s; the server's default is {deadlines.default_s:g} s, "
                f"its maximum {deadlines.max_s:g} s",
            ) from None

    def _admit(self, call: Call) -> None:
        """Before a byte of the body is read."""
        if self.draining:
            raise unavailable("the server is stopping; send the call to another one", RETRY_AFTER_DRAIN_MS)
        if self._tokens is not None:
            self._tokens.check(call.metadata.get(METADATA_AUTHORIZATION))
        self.unread.check(call.connection)

    async def _embed(self, call: Call, work: PredictWork, served: Served) -> Embedded:
        most = work.method.size_bytes or self._settings.limits.max_image_bytes
        failed = {
            index: f"{ImageErrorCode.TOO_LARGE.value}: {len(image)} bytes; the limit is {most}"
            for index, image in enumerate(work.payloads)
            if len(image) > most
        }
        failed.update(work.failed or {})
        payloads: list[Optional[Payload]] = [*work.payloads]
        for index in failed:
            payloads[index] = None
        pending = PendingCall(work.method, payloads, request_id=call.request_id)
        for index, text in failed.items():
            pending.outcomes[index] = FailedImage(ServingCode.SYSTEM_ERROR, text)
        if pending.pending:
            await self._dispatcher_of(served).run(pending)
        outcomes = [outcome for outcome in pending.outcomes if outcome is not None]
        assert len(outcomes) == len(payloads)
        backend = served.backend
        call.fingerprint = pending.fingerprint or (backend.fingerprint if backend is not None else "")
        if pending.sent_at is not None:
            call.queue_s = pending.sent_at - pending.queued_at
        call.failures = [outcome.name for outcome in outcomes if isinstance(outcome, FailedImage)]
        dim = backend.embedding_dim if backend is not None else 0
        return Embedded(call.method, served.version, dim, outcomes)

    def _record(self, call: Call, code: grpc.StatusCode, seconds: float) -> None:
        self._metrics.call_ended(
            call.wire,
            call.method,
            code.name,
            seconds=seconds,
            queue_s=call.queue_s,
            size=call.bytes,
            images=call.images,
            failures=call.failures,
        )
        if self._settings.log.access and log.isEnabledFor(logging.INFO):
            fields = {
                "method": call.method,
                "code": code.name,
                "images": call.images,
                "failed": len(call.failures),
                "bytes": call.bytes,
                "duration_ms": round(1000 * seconds, 2),
                "queue_ms": round(1000 * (call.queue_s or 0.0), 2),
                "version": call.served.version if call.served is not None else None,
                "wire": call.wire,
                "peer": call.peer,
            }
            # Straight to the handlers: looking up who logs takes as long as all the rest of the line.
            record = logging.LogRecord(log.name, logging.INFO, "", 0, "call", None, None)
            record.fields = fields
            log.handle(record)


def _describe(attributes: Attributes, call: Call, code: grpc.StatusCode) -> None:
    attributes["metric_learn.wire"] = call.wire
    attributes["rpc.grpc.status_code"] = code.name
    attributes["metric_learn.method"] = call.method
    attributes["metric_learn.images"] = call.images
    attributes["metric_learn.request_id"] = call.request_id


def refuse_repeated(pairs: Sequence[Any]) -> None:
    """Raises CallError where what must be there once is there twice: others may have looked at the other one."""
    for key, status in (
        (METADATA_AUTHORIZATION, grpc.StatusCode.UNAUTHENTICATED),
        (METADATA_REQUEST_ID, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        count = sum(1 for name, _ in pairs if name == key)
        if count > 1:
            raise CallError(status, f"{count} values of {key!r}; send one")


def request_id_of(metadata: Mapping[str, Any]) -> str:
    """The caller's x-request-id where it is one plain word, else a new one."""
    given = metadata.get(METADATA_REQUEST_ID)
    if isinstance(given, str) and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_PROCESS}{next(_count):016x}"
