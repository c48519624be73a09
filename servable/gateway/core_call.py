"""One call at gRPC's core: its messages, and what a handler may ask of it and say.

The same as with grpc.aio, whose handlers run here unchanged, with one task for a call in place of two.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Callable, Optional

import grpc
import grpc.aio
from grpc._cython import cygrpc

from servable.gateway.core_events import CoreEvents

NEVER_S = 1e18  # seconds since 1970: how gRPC writes that there is no deadline is beyond this
log = logging.getLogger(__name__)


class _Gone(Exception):
    """The caller has gone, or the connection has ended."""


class CoreCall:
    """event: what gRPC's core tells of a new call.

    It is the `context` of its handler: of grpc.aio.ServicerContext what stands below.
    """

    def __init__(self, event: Any, loop: asyncio.AbstractEventLoop, events: CoreEvents) -> None:
        self._call = event.call
        self._loop = loop
        self._events = events
        self.method: str = event.call_details.method.decode("utf-8", "replace")
        self._metadata = event.invocation_metadata
        self._deadline: float = event.call_details.deadline
        self._peer: Optional[str] = None
        self._code: Optional[grpc.StatusCode] = None
        self._details = ""
        self._trailing: Sequence[Any] = ()
        self._head_sent = False
        self._status_sent = False
        self._task: Optional[asyncio.Task[None]] = None

    def begin(self, handler: grpc.RpcMethodHandler, answered: Callable[[str, bool], None]) -> None:
        """Runs the handler to its end. answered: hears the peer of a call of one reply that was taken, and
        whether it went well."""
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(0),), self._closed)
        self._events.calls += 1
        self._task = self._loop.create_task(self._run(handler, answered))

    def peer(self) -> str:
        """The caller's address, as gRPC writes it."""
        if self._peer is None:
            self._peer = self._call.peer().decode()
        return self._peer

    def invocation_metadata(self) -> Sequence[Any]:
        return self._metadata  # type: ignore[no-any-return]

    def time_remaining(self) -> Optional[float]:
        """Seconds until the caller's deadline; None without one."""
        return None if self._deadline > NEVER_S else max(0.0, self._deadline - time.time())

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> Optional[grpc.StatusCode]:
        """None: no error so far."""
        return self._code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: Sequence[Any]) -> None:
        self._trailing = tuple(metadata)

    async def read(self) -> Any:
        """The caller's next message, bytes; grpc.aio.EOF at their end, and when the caller has gone."""
        operation = cygrpc.ReceiveMessageOperation(0)
        await self._batch((operation,))
        message = operation.message()
        return grpc.aio.EOF if message is None else message

    async def _run(self, handler: grpc.RpcMethodHandler, answered: Callable[[str, bool], None]) -> None:
        try:
            if handler.response_streaming:
                await self._answer_many(handler)
                await self._end(None)
            elif await self._end(await self._answer(handler)):
                answered(self.peer(), self._code is None)
        except (asyncio.CancelledError, _Gone):
            pass
        except Exception:
            log.exception("a call ended by an error of the gateway")
            self._code, self._details, self._trailing = grpc.StatusCode.INTERNAL, "the gateway failed", ()
            await self._end(None)
        finally:
            if not self._status_sent:
                self._call.cancel()

    async def _answer(self, handler: grpc.RpcMethodHandler) -> Optional[bytes]:
        handle = handler.stream_unary or handler.unary_unary
        reply = await handle(await self._asked(handler), self)
        return None if self._code is not None else _with(handler.response_serializer, reply)

    async def _answer_many(self, handler: grpc.RpcMethodHandler) -> None:
        handle = handler.stream_stream or handler.unary_stream
        replies = handle(await self._asked(handler), self)
        try:
            async for reply in replies:
                head, self._head_sent = self._head(), True
                message = cygrpc.SendMessageOperation(_with(handler.response_serializer, reply), 0)
                if not await self._batch((*head, message)):
                    raise _Gone
        finally:
            await replies.aclose()

    async def _asked(self, handler: grpc.RpcMethodHandler) -> Any:
        """What the handler takes: the one message, or all of them as they come."""
        if handler.request_streaming:
            return self._messages(handler.request_deserializer)
        message = await self.read()
        if message is grpc.aio.EOF:
            raise _Gone
        return _with(handler.request_deserializer, message)

    async def _messages(self, deserialize: Optional[Callable[[bytes], Any]]) -> AsyncIterator[Any]:
        while True:
            message = await self.read()
            if message is grpc.aio.EOF:
                return
            yield _with(deserialize, message)

    async def _end(self, reply: Optional[bytes]) -> bool:
        """Returns when the caller has taken everything; False where it has gone."""
        message = () if reply is None else (cygrpc.SendMessageOperation(reply, 0),)
        code = 0 if self._code is None else self._code.value[0]
        status = cygrpc.SendStatusFromServerOperation(self._trailing, code, self._details, 0)
        sent = self._batch((*self._head(), *message, status))
        self._status_sent = True
        return await sent

    def _head(self) -> tuple[Any, ...]:
        """What stands before the first thing that is sent."""
        return () if self._head_sent else (cygrpc.SendInitialMetadataOperation(None, 0),)

    def _batch(self, operations: tuple[Any, ...]) -> asyncio.Future[bool]:
        """Done when all of them are; False: the call ended before."""
        done = self._loop.create_future()
        error = self._call.start_server_batch(operations, functools.partial(_settle, done))
        if error:
            raise RuntimeError(f"gRPC did not take {operations}: error {error}")
        return done

    def _closed(self, event: Any) -> None:
        """The call has ended; before its status was sent, it was the caller who ended it, or gRPC."""
        self._events.calls -= 1
        if event.batch_operations[0].cancelled() and not self._status_sent and self._task is not None:
            self._task.cancel()


def _settle(done: asyncio.Future[bool], event: Any) -> None:
    if not done.done():  # whoever waited may have been cancelled
        done.set_result(event.success)


def _with(transform: Optional[Callable[[Any], Any]], message: Any) -> Any:
    return message if transform is None else transform(message)
