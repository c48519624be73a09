"""The small calls beside Predict (health, GetModel): a share for each connection, own words for what fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Callable

import grpc

from metric_learn_client.wire import METADATA_REQUEST_ID
from servable.gateway.call.calls import refuse_repeated, request_id_of
from servable.gateway.errors import CallError
from servable.gateway.limits.connections import Share, connection_of, fail, when_answered

# Not answered, or answered and not read: gRPC keeps the reply of a caller that does not take it.
OPEN, OPEN_EACH = 2048, 32
log = logging.getLogger(__name__)


class Questions:
    """Wraps handlers that take and return bytes and may raise CallError."""

    def __init__(self) -> None:
        self._share = Share("calls that are open", OPEN, OPEN_EACH)

    def answers(self, answer: Callable[[bytes, Any], Awaitable[bytes]]) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(body: bytes, context: Any) -> bytes:
            identity = _identity(context)
            try:
                self._admit(context)
                reply = await answer(body, context)
            except Exception as error:
                _fail(error, context, identity)
                return b""
            context.set_trailing_metadata(identity)
            return reply

        return handle

    def streams(
        self, answer: Callable[[bytes, Any], AsyncIterator[bytes]]
    ) -> Callable[[bytes, Any], AsyncIterator[bytes]]:
        async def handle(body: bytes, context: Any) -> AsyncIterator[bytes]:
            identity = _identity(context)
            try:
                self._admit(context)
                async for reply in answer(body, context):
                    yield reply
            except Exception as error:
                _fail(error, context, identity)

        return handle

    def _admit(self, context: Any) -> None:
        refuse_repeated(context.invocation_metadata() or ())
        connection = connection_of(context)
        self._share.take(connection)
        when_answered(lambda: self._share.give_back(connection))


def _identity(context: Any) -> tuple[tuple[str, str], ...]:
    return ((METADATA_REQUEST_ID, request_id_of(dict(context.invocation_metadata() or ()))),)


def _fail(error: Exception, context: Any, identity: tuple[tuple[str, str], ...]) -> None:
    if not isinstance(error, CallError):
        log.error("a call ended by an error of the gateway, request %s", identity[0][1], exc_info=error)
        words = f"the gateway failed; its log has the reason for request {identity[0][1]}"
        error = CallError(grpc.StatusCode.INTERNAL, words)
    fail(context, error, identity)
