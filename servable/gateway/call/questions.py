"""The small calls beside Predict (health, GetModel): a share for each connection, own words for what fails.

Each is handled as a stream of one message, as Predict is (call/predict.py), so that it is known here before its body is
taken.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Callable

import grpc

from metric_learn_client.wire import METADATA_REQUEST_ID
from servable.gateway.call.calls import refuse_repeated, request_id_of
from servable.gateway.errors import CallError
from servable.gateway.limits.bodies import BodyPlaces
from servable.gateway.limits.share import Share, fail, message_of, when_answered

# Not answered, or answered and not read.
OPEN, OPEN_EACH = 2048, 32
# Bodies on their way: they are a few bytes long and come with the headers. One that does not gives way after FAIR_S
# where others wait.
BODIES, READ_S, FAIR_S = 8, 2.0, 0.05
MOST_BYTES = 4096  # of a body
log = logging.getLogger(__name__)


class Questions:
    """Wraps handlers that take and return bytes and may raise CallError."""

    def __init__(self) -> None:
        self._share = Share("calls that are open", OPEN, OPEN_EACH)
        self._bodies = BodyPlaces(BODIES, READ_S, OPEN, FAIR_S)

    def answers(self, answer: Callable[[bytes, Any], Awaitable[bytes]]) -> grpc.RpcMethodHandler:
        async def handle(_bodies: Any, context: Any) -> bytes:
            identity = _identity(context)
            try:
                reply = await answer(await self._read(context), context)
            except Exception as error:
                _fail(error, context, identity)
                return b""
            context.set_trailing_metadata(identity)
            return reply

        return grpc.stream_unary_rpc_method_handler(handle)

    def streams(self, answer: Callable[[bytes, Any], AsyncIterator[bytes]]) -> grpc.RpcMethodHandler:
        async def handle(_bodies: Any, context: Any) -> AsyncIterator[bytes]:
            identity = _identity(context)
            try:
                async for reply in answer(await self._read(context), context):
                    yield reply
            except Exception as error:
                _fail(error, context, identity)

        return grpc.stream_stream_rpc_method_handler(handle)

    def refuses(self, error: CallError) -> grpc.RpcMethodHandler:
        """Whatever the body is; it is not read."""

        async def handle(_bodies: Any, context: Any) -> bytes:
            identity = _identity(context)
            try:
                self._admit(context)
                _fail(error, context, identity)
            except CallError as other:
                _fail(other, context, identity)
            return b""

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _read(self, context: Any) -> bytes:
        read = self._bodies.read(self._admit(context), context.come, lambda: context.read_one(MOST_BYTES))
        return message_of(await read)

    def _admit(self, context: Any) -> str:
        """The connection. Raises CallError."""
        refuse_repeated(context.invocation_metadata() or ())
        connection: str = context.connection
        self._share.take(connection)
        when_answered(lambda: self._share.give_back(connection))
        return connection


def _identity(context: Any) -> tuple[tuple[str, str], ...]:
    return ((METADATA_REQUEST_ID, request_id_of(dict(context.invocation_metadata() or ()))),)


def _fail(error: Exception, context: Any, identity: tuple[tuple[str, str], ...]) -> None:
    if not isinstance(error, CallError):
        log.error("a call ended by an error of the gateway, request %s", identity[0][1], exc_info=error)
        words = f"the gateway failed; its log has the reason for request {identity[0][1]}"
        error = CallError(grpc.StatusCode.INTERNAL, words)
    fail(context, error, identity)
