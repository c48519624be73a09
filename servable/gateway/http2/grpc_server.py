"""The public port's gRPC server: full path -> handler, and whose call begins next.

Calls begin in turn, connection by connection (limits/turns.py), one in each turn of the event loop. An address whose
new connections have too many calls in that line opens no more until it is short again (limits/newcomers.py).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, Callable, Optional

import grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection import aio as asynchronous  # type: ignore[import-untyped]

from metric_learn_client.wire.messages import POOL, service_names
from servable.config.addresses import Address
from servable.config.sections import DeadlinesSection, LimitsSection
from servable.gateway.errors import RETRY_AFTER_MS, overloaded
from servable.gateway.http2 import frames
from servable.gateway.http2.frame_protocol import CALL_WINDOW, READ_BYTES, greeting
from servable.gateway.http2.grpc_call import GrpcCall
from servable.gateway.http2.http2_connection import Http2Connection
from servable.gateway.http2.pace import Pace
from servable.gateway.limits.connections import MOST_HEAD_BYTES, TAKE_REPLY_S
from servable.gateway.limits.newcomers import Newcomers
from servable.gateway.limits.share import Share, when_answered
from servable.gateway.limits.turns import Turns, address_of
from servable.gateway.listener import Listener

READ_FEW_BYTES = 32 * 1024  # at once from a socket, where no body comes: what is not read at once is kept meanwhile
MOST_WAITING = 1000  # calls that have not begun
MOST_WAITING_BYTES = 32 * 1024 * 1024  # of bodies: of those calls, and of others that nobody reads yet
CROWD, CALM = 256, 32  # calls of new connections of one address, beyond which it opens no more, and until when
LOOK_S = 0.05  # between two looks at them
CARE_S = 1.0  # between two looks at connections: deadlines, silence, age
TOLD_S = 60.0  # between two lines in the log of one kind
REFLECTION_CALLS, REFLECTION_CALLS_EACH = 64, 8  # of one connection; what a caller sends ahead of its answers is kept
log = logging.getLogger(__name__)


class GrpcServer:
    """handlers: coroutines or asynchronous generators that take messages as they come (stream_unary, stream_stream).

    unknown: answers every other path. reflection: the standard service that tells the messages, for tools. context:
    gives the TLS context of the next handshake; None: plain text.
    """

    def __init__(
        self,
        handlers: Mapping[str, grpc.RpcMethodHandler],
        unknown: grpc.RpcMethodHandler,
        limits: LimitsSection,
        deadlines: DeadlinesSection,
        *,
        most_connections: int,
        reflection: bool = False,
        context: Optional[Callable[[], ssl.SSLContext]] = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._handlers = dict(handlers)
        self._unknown = unknown
        if reflection:
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(service_names(), POOL), self)
        self.most_message_bytes = limits.max_request_bytes
        self.streams = limits.max_streams_per_connection
        self.grace_s = deadlines.max_s + TAKE_REPLY_S
        self.greeting = greeting(
            {
                frames.MAX_CONCURRENT_STREAMS: self.streams,
                frames.INITIAL_WINDOW_SIZE: CALL_WINDOW,
                frames.MAX_HEADER_LIST_SIZE: MOST_HEAD_BYTES,
            }
        )
        self.buffer = memoryview(bytearray(READ_BYTES))  # of one connection at a time
        self.small_buffer = self.buffer[:READ_FEW_BYTES]
        self.pace = Pace(self._loop)
        self.turns: Turns[GrpcCall] = Turns(MOST_WAITING)
        self.newcomers = Newcomers([])
        self._listener = Listener(self._connection, most_connections, context)
        self._waiting_bytes = 0
        self._begun = self._round_due = False
        self._care: Optional[asyncio.Task[None]] = None
        self._told_at: dict[str, float] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """As generated code wants it; it adds the same again, as below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        """As generated code wants it."""
        self._handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    async def start(self, address: Address) -> int:
        """Listens; returns the port, 0 on a unix socket. Raises OSError."""
        port = await self._listener.start(address)
        self.newcomers = Newcomers(self._listener.listening)
        self._care = asyncio.ensure_future(self._take_care())
        return port

    async def stop(self, grace_s: float) -> None:
        """No new calls; those that are there end within `grace_s`."""
        await self._listener.close()
        for connection in list(self._listener.open):
            connection.refuse_more()
        waited_until = self._loop.time() + grace_s
        while self._listener.open and self._loop.time() < waited_until:
            await asyncio.sleep(min(0.01, grace_s))
        if self._care is not None:
            self._care.cancel()
        await self._listener.stop()

    # What connections tell

    def line_up(self, call: GrpcCall) -> None:
        """The call waits for its turn."""
        lost = self.turns.add(call.connection, call)
        if lost is not None:
            lost.refuse(overloaded("too many calls wait to begin; try again later", RETRY_AFTER_MS))
        if len(self.turns) > CROWD:
            self._look_at(address_of(call.connection))

    def hold(self, size: int) -> None:
        """So many bytes more, or less, of bodies are kept until somebody reads them. Beyond what is allowed, the
        connection with most of them loses its latest."""
        self._waiting_bytes += size
        if size > 0 and self._waiting_bytes > MOST_WAITING_BYTES:
            call = max(self._listener.open, key=lambda each: each.waiting_bytes).latest_waiting()
            if call is not None:
                call.end(overloaded("too many bodies wait to be read; try again later", RETRY_AFTER_MS))

    def turn(self) -> None:
        """A connection has read what there was: the first call begins at once, where none has in this turn of the
        event loop."""
        if self.turns and not self._begun:
            self._round()

    def answered(self, connection: Http2Connection) -> None:
        """One of its calls was answered without an error."""
        self.turns.answered(connection.key)

    def changed(self, connection: Http2Connection, waits: bool) -> None:
        self._listener.changed(connection, waits)

    def gone(self, connection: Http2Connection) -> None:
        self._listener.gone(connection)

    def _round(self) -> None:
        self._begun = False
        call = self.turns.take()
        while call is not None and call.over:  # taken back meanwhile
            call = self.turns.take()
        if call is not None:
            self._begun = True
            call.begin(self._handlers.get(call.path, self._unknown))
        if self._begun and not self._round_due:
            self._round_due = True
            self._loop.call_soon(self._later_round)

    def _later_round(self) -> None:
        self._round_due = False
        self._round()

    def _connection(self, peer: str, key: str) -> Http2Connection:
        return Http2Connection(self, self._loop, peer, key)

    async def _take_care(self) -> None:
        while True:
            await asyncio.sleep(CARE_S)
            await self._look_at_connections()

    async def _look_at_connections(self) -> None:
        now = self._loop.time()
        for number, connection in enumerate(list(self._listener.open)):
            try:
                connection.look(now)
            except Exception:
                log.exception("a connection ended by an error of the gateway")
                connection.abort()
            if number % 64 == 63:
                await asyncio.sleep(0)

    def _look_at(self, address: str) -> None:
        """Whether too many calls of new connections of this address wait."""
        waiting = self.turns.waiting(address)
        if address in self.newcomers.held or waiting <= CROWD:
            return
        self.newcomers.hold(address)
        self._loop.call_later(LOOK_S, self._look_again, address)
        self._tell("%d calls of new connections of %s wait; further connections from there do, too", waiting, address)

    def _look_again(self, address: str) -> None:
        if self.turns.waiting(address) > CALM:
            self._loop.call_later(LOOK_S, self._look_again, address)
        else:
            self.newcomers.let_go(address)

    def _tell(self, words: str, *values: object) -> None:
        now = self._loop.time()
        if now > self._told_at.get(words, -TOLD_S) + TOLD_S:
            self._told_at[words] = now
            log.warning(words, *values)


class _Reflection(asynchronous.ReflectionServicer):  # type: ignore[misc]
    """A few calls at a time."""

    def __init__(self, services: Any, pool: Any) -> None:
        super().__init__(services, pool)
        self._share = Share("reflection calls that are open", REFLECTION_CALLS, REFLECTION_CALLS_EACH)

    async def ServerReflectionInfo(self, messages: AsyncIterable[Any], context: GrpcCall) -> AsyncIterator[Any]:
        self._share.take(context.connection)
        when_answered(lambda: self._share.give_back(context.connection))
        async for answer in super().ServerReflectionInfo(messages, context):
            yield answer
