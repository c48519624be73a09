"""MSService/Predict: one call from its headers to its status.

The call is handled as a stream of one message, so that a caller without a token, or beyond the limits, is answered
before its body is read; on the wire a unary call and a stream of one message are the same.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

import grpc
import grpc.aio

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
from servable.gateway.call.reply import FailedImage, encode_reply
from servable.gateway.call.request import Payload, PredictWork, read_request
from servable.gateway.errors import CallError, Metadata, unavailable
from servable.gateway.limits.admission import Admission
from servable.gateway.limits.bodies import BodyPlaces
from servable.gateway.limits.connections import Share, connection_of, fail, when_answered
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
log = logging.getLogger(__name__)


@dataclass
class _Call:
    """What is known of a call when its line is logged."""

    request_id: str
    began: float
    method: str = "unknown"
    images: int = 0
    failures: Sequence[str] = ()
    bytes: int = 0
    queue_s: Optional[float] = None  # None: nothing of it was sent to the backend
    served: Optional[Served] = None
    fingerprint: str = ""

    def metadata(self) -> Metadata:
        identity: list[tuple[str, Union[str, bytes]]] = [(METADATA_REQUEST_ID, self.request_id)]
        if self.served is not None:
            identity.append((METADATA_VERSION, str(self.served.version)))
        if self.fingerprint:
            identity.append((METADATA_FINGERPRINT, self.fingerprint))
        return tuple(identity)


class PredictService:
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
        self._unread = Share("bytes of replies that are not read", UNREAD_SHARES * unread_each, unread_each)
        self.draining = False

    async def predict(self, _bodies: Any, context: Any) -> bytes:
        began = time.monotonic()
        pairs = context.invocation_metadata() or ()
        metadata = dict(pairs)
        call = _Call(request_id_of(metadata), began)
        token = logs.request_id.set(call.request_id)
        outcome: Union[bytes, CallError, None] = None
        try:
            with self._tracer.span("mindspore.serving.proto.MSService/Predict", metadata) as attributes:
                outcome = await self._outcome(call, pairs, metadata, context)
                code = outcome.status if isinstance(outcome, CallError) else grpc.StatusCode.OK
                if attributes is not None:
                    self._describe(attributes, call, code)
        finally:
            if outcome is None:  # cancelled: by the caller, or by gRPC when the caller's deadline has passed
                over = context.time_remaining() == 0
                code = grpc.StatusCode.DEADLINE_EXCEEDED if over else grpc.StatusCode.CANCELLED
            # Counted and logged when the reply is on its way.
            seconds = time.monotonic() - call.began
            peer = context.peer() if self._settings.log.access else ""
            asyncio.get_running_loop().call_soon(self._record, call, code, seconds, peer)
            logs.request_id.reset(token)
        if isinstance(outcome, CallError):
            fail(context, outcome, call.metadata())
            return b""
        context.set_trailing_metadata(call.metadata())
        assert isinstance(outcome, bytes)
        return outcome

    async def _outcome(
        self, call: _Call, pairs: Sequence[Any], metadata: Mapping[str, Any], context: Any
    ) -> Union[bytes, CallError]:
        try:
            if len(pairs) != len(metadata):
                refuse_repeated(pairs)
            return await self._within_deadline(call, metadata, context)
        except CallError as error:
            # Without its traceback, whose frames hold the request's body.
            return error.with_traceback(None)
        except Exception:
            log.exception("a call ended by an error of the gateway")
            return CallError(
                grpc.StatusCode.INTERNAL, f"the gateway failed; its log has the reason for request {call.request_id}"
            )

    def _describe(self, attributes: Attributes, call: _Call, code: grpc.StatusCode) -> None:
        attributes["rpc.system"] = "grpc"
        attributes["rpc.grpc.status_code"] = code.name
        attributes["metric_learn.method"] = call.method
        attributes["metric_learn.images"] = call.images
        attributes["metric_learn.request_id"] = call.request_id

    async def _within_deadline(self, call: _Call, metadata: Mapping[str, Any], context: Any) -> bytes:
        deadlines = self._settings.deadlines
        left = context.time_remaining()
        seconds = min(deadlines.default_s if left is None else left, deadlines.max_s)
        try:
            with TimeLimit(seconds):
                return await self._serve(call, metadata, context)
        except TimeIsUp:
            raise CallError(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"not done within {seconds:.3g} s; the server's default is {deadlines.default_s:g} s, "
                f"its maximum {deadlines.max_s:g} s",
            ) from None

    async def _serve(self, call: _Call, metadata: Mapping[str, Any], context: Any) -> bytes:
        if self.draining:
            raise unavailable("the server is stopping; send the call to another one", RETRY_AFTER_DRAIN_MS)
        if self._tokens is not None:
            self._tokens.check(metadata.get(METADATA_AUTHORIZATION))
        connection = connection_of(context)
        self._unread.check(connection)
        with self._admission.call():
            with self._admission.body():
                body = await self._read_body(connection, context)
            call.bytes = len(body)
            work = read_request(body, self._settings.limits)
            call.method, call.images = work.method.name, len(work.payloads)
            served = resolve(self._backends, work.version, "servable_spec.version_number")
            call.served = served
            with self._admission.work(len(work.payloads), len(body)), served:
                reply = await self._embed(call, work, served)
        # gRPC keeps it until the caller takes it, or the connection ends.
        self._unread.add(connection, len(reply))
        size = len(reply)
        when_answered(lambda: self._unread.give_back(connection, size))
        return reply

    async def _read_body(self, connection: str, context: Any) -> bytes:
        body = await self._bodies.read(connection, context.read)
        if not isinstance(body, bytes):  # the end of the stream
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, "the call carries no message", field="request")
        return body

    async def _embed(self, call: _Call, work: PredictWork, served: Served) -> bytes:
        most = work.method.size_bytes or self._settings.limits.max_image_bytes
        too_large = [index for index, image in enumerate(work.payloads) if len(image) > most]
        payloads: list[Optional[Payload]] = [*work.payloads]
        for index in too_large:
            payloads[index] = None
        job = PendingCall(work.method, payloads, request_id=call.request_id)
        for index in too_large:
            size = len(work.payloads[index])
            text = f"{ImageErrorCode.TOO_LARGE.value}: {size} bytes; the limit is {most}"
            job.outcomes[index] = FailedImage(ServingCode.SYSTEM_ERROR, text)
        if job.pending:
            await self._dispatcher_of(served).run(job)
        outcomes = [outcome for outcome in job.outcomes if outcome is not None]
        assert len(outcomes) == len(payloads)
        backend = served.backend
        call.fingerprint = job.fingerprint or (backend.fingerprint if backend is not None else "")
        if job.sent_at is not None:
            call.queue_s = job.sent_at - job.queued_at
        call.failures = [outcome.name for outcome in outcomes if isinstance(outcome, FailedImage)]
        dim = backend.embedding_dim if backend is not None else 0
        return encode_reply(call.method, served.version, outcomes, dim)

    def _record(self, call: _Call, code: grpc.StatusCode, seconds: float, peer: str) -> None:
        self._metrics.call_ended(
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
                "peer": peer,
            }
            # Straight to the handlers: looking up who logs takes as long as all the rest of the line.
            record = logging.LogRecord(log.name, logging.INFO, "", 0, "call", None, None)
            record.fields = fields
            log.handle(record)


def refuse_repeated(pairs: Sequence[Any]) -> None:
    """Raises CallError where what must be there once is there twice: others may have looked at the other one."""
    for key, status in (
        (METADATA_AUTHORIZATION, grpc.StatusCode.UNAUTHENTICATED),
        (METADATA_REQUEST_ID, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        count = sum(1 for name, _ in pairs if name == key)
        if count > 1:
            raise CallError(status, f"{count} values of metadata {key!r}; send one")


def request_id_of(metadata: Mapping[str, Any]) -> str:
    """The caller's x-request-id where it is one plain word, else a new one."""
    given = metadata.get(METADATA_REQUEST_ID)
    if isinstance(given, str) and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_PROCESS}{next(_count):016x}"
