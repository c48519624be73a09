"""MSService/Predict, MindSpore Serving's own call, over gRPC.

The call is handled as a stream of one message, so that a caller without a token, or beyond the limits, is answered
before its body is read; on the wire a unary call and a stream of one message are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Generic, TypeVar

from servable.config.sections import LimitsSection
from servable.gateway.call.calls import Call, Calls, Embedded
from servable.gateway.call.reply import encode_reply
from servable.gateway.call.request import PredictWork, read_request
from servable.gateway.errors import CallError
from servable.gateway.limits.share import fail, message_of, when_answered

SPAN = "mindspore.serving.proto.MSService/Predict"
VERSION_FIELD = "servable_spec.version_number"
_Work = TypeVar("_Work", bound=PredictWork)


class GrpcCalls(Generic[_Work]):
    """A call of one message each way. parse: the body -> what it asks for; encode: the outcomes -> the reply.

    wire, span: as logs, metrics and traces name the call. Both functions are pure and may raise CallError.
    """

    def __init__(
        self,
        calls: Calls,
        wire: str,
        span: str,
        version_field: str,
        parse: Callable[[bytes], _Work],
        encode: Callable[[_Work, Embedded], bytes],
    ) -> None:
        self._calls = calls
        self._wire = wire
        self._span = span
        self._version_field = version_field
        self._parse = parse
        self._encode = encode

    async def handle(self, _bodies: Any, context: Any) -> bytes:
        pairs: Sequence[Any] = context.invocation_metadata() or ()
        call = Call(
            self._wire, self._span, pairs, dict(pairs), context.connection, context.peer, context.time_remaining
        )
        outcome = await self._calls.answer(call, lambda: self._embed(call, context))
        if isinstance(outcome, CallError):
            fail(context, outcome, call.identity())
            return b""
        context.set_trailing_metadata(call.identity())
        return outcome

    async def _embed(self, call: Call, context: Any) -> bytes:
        # One that came with its call, as those of small images do, needs no place to wait in.
        body = context.read_one_now()
        if body is None:
            body = await self._calls.read(call, context.come, context.read_one)
        body = message_of(body)
        call.bytes = len(body)
        work = self._parse(body)
        embedded = await self._calls.embed(call, work, len(body), self._version_field)
        reply = self._encode(work, embedded)
        # It is kept until the caller takes it, or the connection ends.
        size = len(reply)
        self._calls.unread.add(call.connection, size)
        when_answered(lambda: self._calls.unread.give_back(call.connection, size))
        return reply


def predict(calls: Calls, limits: LimitsSection) -> GrpcCalls[PredictWork]:
    """MindSpore Serving's wire."""
    return GrpcCalls(
        calls,
        "grpc",
        SPAN,
        VERSION_FIELD,
        lambda body: read_request(body, limits),
        lambda _, embedded: encode_reply(embedded.method, embedded.version, embedded.outcomes, embedded.dim),
    )
