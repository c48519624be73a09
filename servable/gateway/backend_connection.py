"""HTTP/2, as far as unary calls of gRPC to one MindSpore Serving on a unix socket need it.

In place of grpc.aio, whose client hands every call to a thread of its own and back: 0.2 to 0.3 ms of processor time a
call, which whoever sends single images waits for. The peer is this server's own child. What it sends is checked as far
as a mistake could mix up answers; anything else that is odd ends the connection, and with it every call on it.
RFC 9113, RFC 7541; https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import struct
from typing import Optional
from urllib.parse import unquote

import grpc

from metric_learn_client.wire import MAX_MESSAGE_BYTES

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 4, 5  # names of settings
CANCEL = 8  # an error code
LARGEST_WINDOW = (1 << 31) - 1
LARGEST_FRAME = (1 << 24) - 1
LAST_STREAM = LARGEST_WINDOW - 2
FIRST_WINDOW, FIRST_FRAME = 65_535, 16_384  # bytes, until the peer's settings are there
MESSAGE_HEAD = struct.Struct(">BI")  # of gRPC: compressed, length
_FRAME_HEAD = struct.Struct(">HBBBI")  # the upper two bytes of the length, the lowest, type, flags, stream
_SETTING, _NUMBER = struct.Struct(">HI"), struct.Struct(">I")


class CallFailed(Exception):
    """No reply. `code` as gRPC counts it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frame_head(len(payload), kind, flags, stream) + payload


def frame_head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return _FRAME_HEAD.pack(length >> 8, length & 255, kind, flags, stream)


# The peer keeps no table of headers for us (so each block can be read alone), and is never stopped by our windows.
_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(
        SETTINGS,
        0,
        0,
        b"".join(
            _SETTING.pack(*setting)
            for setting in (
                (HEADER_TABLE_SIZE, 0),
                (INITIAL_WINDOW_SIZE, LARGEST_WINDOW),
                (MAX_FRAME_SIZE, LARGEST_FRAME),
            )
        ),
    )
    + frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(LARGEST_WINDOW - FIRST_WINDOW))
)


class _Stream:
    """One call. unsent: of its message, which waits for the peer's window."""

    __slots__ = ("answered", "got", "headers", "reply", "unsent", "window")

    def __init__(self, answered: asyncio.Future[bytes], message: bytes, window: int) -> None:
        self.answered = answered
        self.unsent = memoryview(message)
        self.window = window
        self.reply: list[bytes] = []
        self.got = 0
        self.headers: dict[bytes, bytes] = {}


class BackendConnection(asyncio.Protocol):
    """`call` from the time it is connected until `usable` is false; then a new connection is due."""

    def __init__(self, path: str) -> None:
        """path: of the call's method, "/package.Service/Method"."""
        self._head = request_head(path)
        self._transport: Optional[asyncio.WriteTransport] = None
        self._streams: dict[int, _Stream] = {}
        self._next = 1
        self._window = self._first_window = FIRST_WINDOW
        self._largest_frame = FIRST_FRAME
        self._buffer = b""
        self._unannounced = 0  # bytes that came since the peer's window for us was last filled
        self._block: Optional[tuple[int, int, bytes]] = None  # headers that go on: their stream, flags and start
        self._ending = False

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._ending and self._next <= LAST_STREAM

    async def call(self, message: bytes, timeout_s: float) -> bytes:
        """The reply's message. Raises CallFailed. Cancelled: the peer is told."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        number, self._next = self._next, self._next + 2
        head = MESSAGE_HEAD.pack(0, len(message))
        stream = _Stream(loop.create_future(), message, self._first_window - len(head))
        self._streams[number] = stream
        timer = loop.call_later(timeout_s, self._time_is_up, stream)
        headers = self._head + literal(b"grpc-timeout", b"%dm" % min(99_999_999, 1 + int(1000 * timeout_s)))
        self._window -= len(head)
        start = (frame(HEADERS, END_HEADERS, number, headers), frame_head(len(head), DATA, 0, number), head)
        try:
            self._send(number, stream, start)
            return await stream.answered
        finally:
            timer.cancel()
            if self._streams.pop(number, None) is not None and self._transport is not None:  # no answer came
                self._transport.write(frame(RST_STREAM, 0, number, _NUMBER.pack(CANCEL)))
            self._end_when_idle()

    def end(self, details: str) -> None:
        """Fails what is on it, and closes it."""
        self._ending = True
        self._fail_all(details)
        self._end_when_idle()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        transport.write(_PREFACE)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._transport = None
        self._fail_all(f"the connection ended: {error}" if error else "the connection ended")

    def data_received(self, data: bytes) -> None:
        """An exception from here ends the connection, by asyncio's rule."""
        if self._buffer:
            data = self._buffer + data
        position, end = 0, len(data)
        while end - position >= _FRAME_HEAD.size:
            high, low, kind, flags, number = _FRAME_HEAD.unpack_from(data, position)
            start = position + _FRAME_HEAD.size
            stop = start + (high << 8 | low)
            if stop > end:
                break
            self._take(kind, flags, number & LARGEST_WINDOW, data[start:stop])
            position = stop
        self._buffer = data[position:]

    # frames

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if (kind == CONTINUATION) != (self._block is not None):
            raise ValueError(f"HTTP/2: a frame of type {kind} within or without a block of headers")
        if kind == DATA:
            self._take_data(flags, number, payload)
        elif kind == HEADERS:
            payload = _unpadded(flags, payload)[5 if flags & PRIORITY else 0 :]
            self._take_headers(flags, number, payload)
        elif kind == CONTINUATION and self._block is not None:
            (of, first, start), self._block = self._block, None
            if of != number:
                raise ValueError("HTTP/2: headers of two streams are mixed")
            self._take_headers(first | flags & END_HEADERS, number, start + payload)
        elif kind == WINDOW_UPDATE:
            self._take_window(number, _NUMBER.unpack(payload)[0] & LARGEST_WINDOW)
        elif kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == PING and not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            reason = f"the call was ended, HTTP/2 code {_NUMBER.unpack(payload)[0]}"
            self._fail(self._streams.pop(number, None), grpc.StatusCode.UNAVAILABLE, reason)
        elif kind == GOAWAY:
            self._ending = True
            last = _NUMBER.unpack_from(payload)[0] & LARGEST_WINDOW
            for later in [each for each in self._streams if each > last]:
                self._fail(self._streams.pop(later), grpc.StatusCode.UNAVAILABLE, "the connection is being ended")
            self._end_when_idle()

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        self._unannounced += len(payload)
        if self._unannounced > LARGEST_WINDOW // 2:
            self._write(frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._unannounced)))
            self._unannounced = 0
        stream = self._streams.get(number)
        if stream is None:  # ended by this side
            return
        piece = _unpadded(flags, payload)
        stream.got += len(piece)
        if stream.got > MAX_MESSAGE_BYTES + MESSAGE_HEAD.size:
            reason = f"a reply of more than {MAX_MESSAGE_BYTES} bytes"
            self._fail(stream, grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
            return
        stream.reply.append(piece)
        if flags & END_STREAM:
            self._fail(self._streams.pop(number), grpc.StatusCode.INTERNAL, "the call ended without a status")

    def _take_headers(self, flags: int, number: int, block: bytes) -> None:
        if not flags & END_HEADERS:
            self._block = (number, flags, block)
            return
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.headers.update(read_headers(block))
        if flags & END_STREAM:
            if not stream.unsent:
                del self._streams[number]  # over on both sides
            self._finish(stream)

    def _finish(self, stream: _Stream) -> None:
        status = stream.headers.get(b"grpc-status", b"")
        if status != b"0":
            code = _CODES.get(status, grpc.StatusCode.UNKNOWN)
            self._fail(stream, code, unquote(stream.headers.get(b"grpc-message", b"").decode("ascii", "replace")))
            return
        reply = b"".join(stream.reply)
        if len(reply) < MESSAGE_HEAD.size or MESSAGE_HEAD.unpack_from(reply) != (0, len(reply) - MESSAGE_HEAD.size):
            self._fail(stream, grpc.StatusCode.INTERNAL, f"the reply is no single message: {len(reply)} bytes")
        elif not stream.answered.done():
            stream.answered.set_result(reply[MESSAGE_HEAD.size :])

    def _take_settings(self, payload: bytes) -> None:
        for name, value in _SETTING.iter_unpack(payload):
            if name == MAX_FRAME_SIZE:
                self._largest_frame = value
            elif name == INITIAL_WINDOW_SIZE:
                more, self._first_window = value - self._first_window, value
                for stream in self._streams.values():
                    stream.window += more
        self._write(frame(SETTINGS, ACK, 0))
        self._send_on()

    def _take_window(self, number: int, more: int) -> None:
        if not number:
            self._window += more
            self._send_on()
            return
        stream = self._streams.get(number)
        if stream is not None:
            stream.window += more
            self._send(number, stream)

    # what is sent

    def _send_on(self) -> None:
        for number, stream in list(self._streams.items()):
            if stream.unsent:
                self._send(number, stream)

    def _send(self, number: int, stream: _Stream, before: tuple[bytes, ...] = ()) -> None:
        """As much of the message as the peer has room for."""
        pieces: list[bytes | memoryview] = [*before]
        while stream.unsent:
            size = min(len(stream.unsent), stream.window, self._window, self._largest_frame)
            if size <= 0:
                break
            stream.window -= size
            self._window -= size
            piece, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            pieces += (frame_head(size, DATA, 0 if stream.unsent else END_STREAM, number), piece)
        if pieces and self._transport is not None:
            self._transport.writelines(pieces)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # ends

    def _time_is_up(self, stream: _Stream) -> None:
        self._fail(stream, grpc.StatusCode.DEADLINE_EXCEEDED, "no reply in time")

    @staticmethod
    def _fail(stream: Optional[_Stream], code: grpc.StatusCode, details: str) -> None:
        if stream is not None and not stream.answered.done():
            stream.answered.set_exception(CallFailed(code, details))

    def _fail_all(self, details: str) -> None:
        for stream in self._streams.values():
            self._fail(stream, grpc.StatusCode.UNAVAILABLE, details)

    def _end_when_idle(self) -> None:
        if self._transport is not None and not self._streams and (self._ending or not self.usable):
            self._transport.close()


def request_head(path: str) -> bytes:
    """A block of headers for a call, to which more can be appended."""
    post, http, named_path, authority = b"\x83", b"\x86", b"\x04", b"\x01"  # places in RFC 7541's static table
    return b"".join(
        (
            post,
            http,
            named_path + _string(path.encode()),
            authority + _string(b"localhost"),
            literal(b"content-type", b"application/grpc"),
            literal(b"te", b"trailers"),
        )
    )


def literal(name: bytes, value: bytes) -> bytes:
    """A header that nobody is to remember. Both shorter than 127 bytes."""
    return b"\x00" + _string(name) + _string(value)


def read_headers(block: bytes) -> dict[bytes, bytes]:
    """Those headers that are written out plainly, which gRPC's own are.

    The rest (from the static table, or in Huffman's code) is left out. Raises ValueError, IndexError: not to be read.
    """
    headers: dict[bytes, bytes] = {}
    position = 0
    while position < len(block):
        first = block[position]
        if first & 0x80:  # name and value from the static table
            _, position = _integer(block, position, 7)
        elif first & 0xE0 == 0x20:  # the size of the table, which is none
            _, position = _integer(block, position, 5)
        else:
            index, position = _integer(block, position, 6 if first & 0x40 else 4)
            name, position = (None, position) if index else _text(block, position)
            value, position = _text(block, position)
            if name is not None and value is not None:
                headers[name] = value
    return headers


def _text(block: bytes, position: int) -> tuple[Optional[bytes], int]:
    """None: in Huffman's code."""
    coded = block[position] & 0x80
    length, position = _integer(block, position, 7)
    if position + length > len(block):
        raise ValueError("HTTP/2: a header is cut off")
    return None if coded else block[position : position + length], position + length


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    value = block[position] & (1 << bits) - 1
    position += 1
    if value < (1 << bits) - 1:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 127) << shift
        if not byte & 128:
            return value, position
        shift += 7


def _string(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes((len(text),)) + text


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload


_CODES = {b"%d" % code.value[0]: code for code in grpc.StatusCode}
