"""Calls of gRPC to one trusted peer on this host: one message each way, over one connection of HTTP/2.

What is sent is not copied, and what comes is copied once. The peer's windows bound how much is under way; what it has
not read stays where the caller keeps it. How many calls the peer takes at one time is not looked at: gRPC's servers do
not bound it unless told to, and beyond a bound they refuse the stream, which is UNAVAILABLE here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Optional

import grpc

from servable.gateway.errors import CallError
from servable.gateway.http2 import frames
from servable.gateway.http2.frame_protocol import READ_BYTES, FrameProtocol, greeting
from servable.gateway.http2.frames import ConnectionFault, Reason
from servable.gateway.http2.header_block import BlockReader, ReplyHead, reply_head, request_block
from servable.gateway.http2.http2_stream import PREFIX, Buffer, Http2Stream

GREETING = frames.PREFACE + greeting({frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: frames.MOST_WINDOW})
# https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Errors"; any other reason: INTERNAL
_STATUS_OF: dict[int, grpc.StatusCode] = {
    Reason.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    Reason.CANCEL: grpc.StatusCode.CANCELLED,
    Reason.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_block = lru_cache(maxsize=16)(request_block)


class _BackendCall(Http2Stream):
    """reply: the message that came, or CallError."""

    def __init__(self, client: GrpcClient, stream: int, window: int, block: bytes) -> None:
        super().__init__(stream, window, block)
        self.end_block = b""
        self.reply: asyncio.Future[Buffer] = client.loop.create_future()
        self.body = bytearray()
        self.deadline = 0.0  # of the event loop's clock
        self._client = client

    def sent(self) -> None:
        """Nobody waits for that."""

    def arrived(self, piece: memoryview) -> bool:
        self.body += piece
        return len(self.body) <= self._client.most_reply_bytes + PREFIX.size

    def padded(self, _size: int) -> bool:
        return True

    def no_more(self) -> None:
        self.half_closed = True
        self._client.fail(self, grpc.StatusCode.INTERNAL, "the reply ended without a status")


class GrpcClient(FrameProtocol[_BackendCall]):
    """One connection. `takes_calls` tells whether there can be further ones."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most_reply_bytes: int) -> None:
        super().__init__(loop, frames.MOST_WINDOW)
        self.most_reply_bytes = most_reply_bytes
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._blocks = BlockReader(reply_head, lambda why: ReplyHead(fault=why))
        self._next_stream = 1
        self._going = False  # no further calls
        self._timer: Optional[asyncio.TimerHandle] = None  # one for all: a call has its reply long before it is late

    @property
    def takes_calls(self) -> bool:
        return not self._going and self._transport is not None and not self._transport.is_closing()

    async def call(self, path: str, message: Iterable[Buffer], timeout_s: float) -> Buffer:
        """The reply. message: pieces that stay as they are until the call is over.

        Raises CallError: what the peer said, DEADLINE_EXCEEDED, UNAVAILABLE where the connection ended, INTERNAL for
        what is no reply. Cancelled: the peer is told.
        """
        call = _BackendCall(self, self._next_stream, self._first_window, _block(path, timeout_s))
        call.deadline = self.loop.time() + timeout_s
        self._last_stream = call.stream
        self._next_stream += 2
        self._going |= self._next_stream > frames.MOST_STREAM
        self._calls[call.stream] = call
        call.put(message)
        self.push(call)
        if self._timer is None or call.deadline < self._timer.when():
            self._expire_at(call.deadline)
        try:
            return await call.reply
        finally:
            if call.stream in self._calls:  # cancelled
                self._over(call)

    def fail(self, call: _BackendCall, status: grpc.StatusCode, words: str) -> None:
        self._over(call)
        if not call.reply.done():
            call.reply.set_exception(CallError(status, words))

    def end(self, status: grpc.StatusCode, words: str) -> None:
        """All calls fail, and the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
        self._going = True
        if self._transport is not None:
            self._transport.abort()
        for call in list(self._calls.values()):
            self.fail(call, status, words)

    def _expire_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self.loop.time()
        for call in [each for each in self._calls.values() if each.deadline <= now]:
            self.fail(call, grpc.StatusCode.DEADLINE_EXCEEDED, "no reply in time")
        if self._calls:
            self._expire_at(min(each.deadline for each in self._calls.values()))

    def _over(self, call: _BackendCall) -> None:
        self._calls.pop(call.stream, None)
        self._due.pop(call.stream, None)
        if call.left or not call.half_closed:
            self.send(frames.reset(call.stream, Reason.CANCEL))
        if self._going and not self._calls and self._transport is not None:
            self.loop.call_soon(self._transport.close)  # when the rest is sent

    # The transport's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(GREETING)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.end(grpc.StatusCode.UNAVAILABLE, f"the connection ended{'' if exc is None else f': {exc}'}")

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        came = self._buffer[:nbytes]
        data = memoryview(self._rest + came) if self._rest else came
        try:
            position, _ = self._take(data, math.inf)
        except ConnectionFault as fault:
            self.end(grpc.StatusCode.UNAVAILABLE, f"the peer does not speak gRPC: {fault.words}")
            return
        self._rest = bytes(data[position:])

    def _write(self, out: list[Buffer]) -> None:
        assert self._transport is not None
        self._transport.writelines(out)

    # What the peer says

    def _headers_of(self, flags: int, stream: int, block: bytes) -> float:
        head, _ = self._blocks.read(block)
        if self._blocks.lost or not 0 < stream <= self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, head.fault or f"a reply on stream {stream}, where no call is")
        call = self._calls.get(stream)
        if call is None:
            return 0.0
        call.half_closed = bool(flags & frames.END_STREAM)
        if head.fault:
            self.fail(call, grpc.StatusCode.INTERNAL, head.fault)
        elif call.half_closed:
            self._take_end(call, head)
        return 0.0

    def _take_end(self, call: _BackendCall, head: ReplyHead) -> None:
        body = call.body
        if head.status is not grpc.StatusCode.OK:
            self.fail(call, head.status or grpc.StatusCode.UNKNOWN, head.message)
        elif len(body) < PREFIX.size or PREFIX.unpack_from(body) != (0, len(body) - PREFIX.size):
            self.fail(call, grpc.StatusCode.INTERNAL, f"a reply of {len(body)} bytes that are not one message")
        else:
            self._over(call)
            if not call.reply.done():
                call.reply.set_result(memoryview(body)[PREFIX.size :])

    def _reset(self, call: _BackendCall, reason: Reason) -> None:
        self.fail(call, grpc.StatusCode.INTERNAL, f"a reply that is too large, or no gRPC ({reason.name})")

    def _ended_by_peer(self, call: _BackendCall, reason: int) -> float:
        call.half_closed = True
        call.drop()
        self.fail(call, _STATUS_OF.get(reason, grpc.StatusCode.INTERNAL), f"the peer ended the call ({reason})")
        return 0.0

    def _take_go_away(self, last_stream: int) -> None:
        self._going = True
        for call in list(self._calls.values()):
            if call.stream > last_stream:
                self.fail(call, grpc.StatusCode.UNAVAILABLE, "the peer takes no further calls")
        if not self._calls and self._transport is not None:
            self._transport.close()
