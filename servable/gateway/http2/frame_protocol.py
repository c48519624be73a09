"""What both ends of a connection of HTTP/2 (RFC 9113) do alike: bytes to frames, and frames that wait for a window.

Who reads how much of what comes, and what a header block means, is the subclass's. Nothing is kept for a frame but what
its call will be given.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Generic, Optional, TypeVar

from servable.gateway.http2 import frames
from servable.gateway.http2.frames import ConnectionFault, Reason
from servable.gateway.http2.header_block import MOST_READ_BYTES, TABLE_OF_NOTHING
from servable.gateway.http2.http2_stream import Buffer, Http2Stream

MOST_FRAME_BYTES = 256 * 1024  # of DATA; of other frames:
MOST_OTHER_BYTES = 16 * 1024
MOST_BLOCK_BYTES = 128 * 1024  # of a header block; long ones are refused without being read
MOST_BYTES = {
    frames.DATA: MOST_FRAME_BYTES,
    frames.HEADERS: MOST_BLOCK_BYTES,
    frames.CONTINUATION: MOST_BLOCK_BYTES,
}
UNREAD = memoryview(bytes(MOST_READ_BYTES + 1))  # in the place of a block that is too large to be read
READ_BYTES = 128 * 1024  # at once from a socket
# Prices in us (limits/allowance.py), about twice what was measured (Python 3.13): what comes at once, whatever it is; a
# frame. DATA pays for its frame from 1 KB on, and for having come from 3 KB on.
READ_US, FRAME_US, DATA_BYTES_PER_US = 6.0, 3.0, 340
WINDOW_US, SETTING_US = 0.3, 0.3  # a call whose window changes; an entry of SETTINGS
CALL_WINDOW = 256 * 1024  # what comes of a body before it is asked for: most pictures come with their call
CONNECTION_WINDOW = 2**30  # what calls may send is bounded call by call
WINDOW_STEP = 64 * 1024 * 1024  # DATA of all calls, after which the window of the connection is made larger again


def greeting(settings: dict[int, int]) -> bytes:
    """The first SETTINGS of either end, and its window for all calls together."""
    said = frames.settings({**settings, frames.MAX_FRAME_SIZE: MOST_FRAME_BYTES})
    return said + frames.window_update(0, CONNECTION_WINDOW - frames.FIRST_WINDOW)


_Stream = TypeVar("_Stream", bound=Http2Stream)


class FrameProtocol(asyncio.BufferedProtocol, ABC, Generic[_Stream]):
    """most_unsent_bytes: of messages that are given to the transport at once; further ones when it has taken those."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most_unsent_bytes: int) -> None:
        self.loop = loop
        self._most_unsent_bytes = most_unsent_bytes
        self._transport: Optional[asyncio.Transport] = None
        self._closed = False  # nothing more is read or written
        self._greeted = False  # the peer's SETTINGS are there
        self._rest = b""  # of what came, not read yet
        self._data_of: Optional[_Stream] = None  # DATA that is coming, how much of it, and of its padding
        self._data_left = self._padding_left = 0
        self._data_ends = False
        self._came = 0  # bytes of DATA since the window of the connection was made larger
        self._block: Optional[tuple[int, int, bytearray]] = None  # a header block that goes on: stream, flags, bytes
        self._block_bytes = 0  # of it, also of what is not kept
        self._last_stream = 0  # of those that were opened
        self._calls: dict[int, _Stream] = {}
        self._window = frames.FIRST_WINDOW  # of the connection, towards the peer
        self._first_window = frames.FIRST_WINDOW  # of a stream, the same
        self._most_frame = frames.LEAST_FRAME
        self._due: OrderedDict[int, _Stream] = OrderedDict()  # calls whose own windows let them send, in turn
        self._sent_at = loop.time()  # the latest of any call's message
        self._out: list[Buffer] = []
        self._unsent = 0  # bytes of messages in it
        self._block_start = TABLE_OF_NOTHING
        self._full = False  # the transport

    # Reading

    def _take(self, data: memoryview, most_us: float) -> tuple[int, float]:
        """Reads on until that was worth `most_us`. Where it stopped, and what it took. Raises ConnectionFault."""
        position, end, used = 0, len(data), 0.0
        while used < most_us and not self._closed:
            left = end - position
            if self._data_left or self._padding_left:
                if not left:
                    break
                position += self._go_on_with_data(data[position:])
                continue
            if left < frames.HEAD_BYTES:
                break
            upper, lower, kind, flags, stream = frames.HEAD.unpack_from(data, position)
            length, stream = upper << 8 | lower, stream & frames.MOST_STREAM
            if length > MOST_BYTES.get(kind, MOST_OTHER_BYTES):
                raise ConnectionFault(Reason.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            if kind == frames.DATA:
                padding = 0
                if flags & frames.PADDED:
                    if left == frames.HEAD_BYTES and length:
                        break
                    padding = frames.padding_of(data[position + frames.HEAD_BYTES :], length)
                used += self._begin_data(stream, length, padding, bool(flags & frames.END_STREAM))
                position += frames.HEAD_BYTES + bool(padding)
                continue
            if kind in (frames.HEADERS, frames.CONTINUATION) and length > MOST_READ_BYTES:  # nothing of it is kept
                used += FRAME_US + self._frame(kind, flags & (frames.END_STREAM | frames.END_HEADERS), stream, UNREAD)
                position += frames.HEAD_BYTES
                self._data_of, self._data_left = None, length
                continue
            if left < frames.HEAD_BYTES + length:
                break
            position += frames.HEAD_BYTES
            used += FRAME_US + self._frame(kind, flags, stream, data[position : position + length])
            position += length
        return position, used

    def _frame(self, kind: int, flags: int, stream: int, payload: memoryview) -> float:
        """What it took in us, beside FRAME_US."""
        if not self._greeted and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0]):
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "another frame within a header block")
        fault = frames.error_of(kind, len(payload), stream)
        if fault is not None:
            raise fault
        if kind == frames.HEADERS:
            return self._take_headers(flags, stream, payload)
        if kind == frames.WINDOW_UPDATE:
            self._take_window(stream, int.from_bytes(payload, "big") & frames.MOST_WINDOW)
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self.send(frames.ping(bytes(payload), answer=True))
        elif kind == frames.SETTINGS:
            return self._take_settings(flags, bytes(payload))
        elif kind == frames.RST_STREAM:
            return self._take_reset(stream, int.from_bytes(payload, "big"))
        elif kind == frames.CONTINUATION:
            return self._take_continuation(flags, stream, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody may send here")
        elif kind == frames.GOAWAY:
            self._take_go_away(int.from_bytes(payload[:4], "big") & frames.MOST_STREAM)
        return 0.0  # PRIORITY, and unknown ones

    def _begin_data(self, stream: int, length: int, padding: int, ends: bool) -> float:
        """length: of the payload, with its padding and the byte that tells that."""
        if not self._greeted or self._block is not None or not stream % 2 or stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"DATA on stream {stream}, where no call is")
        call = self._calls.get(stream)  # None: it is over; what was on its way is left
        if call is not None and call.half_closed:
            self._reset(call, Reason.STREAM_CLOSED)
            call = None
        self._data_of, self._data_left, self._data_ends = call, length - padding, ends
        self._padding_left = max(0, padding - 1)
        self._came += length
        if self._came >= WINDOW_STEP:
            self.send(frames.window_update(0, self._came))
            self._came = 0
        if padding and call is not None and not call.padded(padding):
            self._reset(call, Reason.FLOW_CONTROL_ERROR)
            self._data_of = call = None
        if not self._data_left:
            self._end_data()
        return max(-READ_US, FRAME_US - (length / DATA_BYTES_PER_US if call is not None else 0.0))

    def _go_on_with_data(self, data: memoryview) -> int:
        """How much of what came belongs to it."""
        if not self._data_left:
            size = min(self._padding_left, len(data))
            self._padding_left -= size
            return size
        piece = data[: self._data_left]
        self._data_left -= len(piece)
        call = self._data_of
        if call is not None and not call.arrived(piece):
            self._reset(call, Reason.FLOW_CONTROL_ERROR)
            self._data_of = None
        if not self._data_left:
            self._end_data()
        return len(piece)

    def _end_data(self) -> None:
        call, self._data_of = self._data_of, None
        if call is not None and self._data_ends:
            call.no_more()

    def _take_headers(self, flags: int, stream: int, payload: memoryview) -> float:
        if flags & frames.PADDED:
            payload = payload[1 : len(payload) + 1 - frames.padding_of(payload, len(payload))]
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(Reason.FRAME_SIZE_ERROR, "HEADERS with less than a priority")
            payload = payload[5:]
        if not flags & frames.END_HEADERS:
            self._block, self._block_bytes = (stream, flags, bytearray()), 0
            self._go_on_with_block(payload)
            return 0.0
        return self._headers_of(flags, stream, bytes(payload))

    def _take_continuation(self, flags: int, stream: int, payload: memoryview) -> float:
        if self._block is None:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._go_on_with_block(payload)
        if not flags & frames.END_HEADERS:
            return 0.0
        (_, first_flags, block), self._block = self._block, None
        return self._headers_of(first_flags, stream, bytes(UNREAD if self._block_bytes > MOST_READ_BYTES else block))

    def _go_on_with_block(self, payload: memoryview) -> None:
        """Nothing is kept of one that is too large to be read."""
        assert self._block is not None
        block = self._block[2]
        self._block_bytes += len(payload)
        if self._block_bytes > MOST_BLOCK_BYTES:
            raise ConnectionFault(Reason.ENHANCE_YOUR_CALM, f"a header block of more than {MOST_BLOCK_BYTES} bytes")
        if self._block_bytes > MOST_READ_BYTES:
            block.clear()
        else:
            block += payload

    @abstractmethod
    def _headers_of(self, flags: int, stream: int, block: bytes) -> float:
        """A whole header block; what it took to read in us. Raises ConnectionFault."""

    @abstractmethod
    def _reset(self, call: _Stream, reason: Reason) -> None:
        """The call's own frames are wrong."""

    @abstractmethod
    def _take_go_away(self, last_stream: int) -> None:
        """The peer ends; streams after `last_stream` were not begun."""

    @abstractmethod
    def _ended_by_peer(self, call: _Stream, reason: int) -> float:
        """By RST_STREAM; what it took in us."""

    def _take_reset(self, stream: int, reason: int) -> float:
        if stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"the end of stream {stream}, where no call is")
        call = self._calls.get(stream)  # None: it is over already
        return 0.0 if call is None else self._ended_by_peer(call, reason)

    def _take_window(self, stream: int, more: int) -> None:
        if not stream:
            if not more:
                raise ConnectionFault(Reason.PROTOCOL_ERROR, "a window that is larger by nothing")
            self._window += more
            if self._window > frames.MOST_WINDOW:
                raise ConnectionFault(Reason.FLOW_CONTROL_ERROR, "a window beyond 2 GB")
            self._send_due()
            return
        if stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"a window for stream {stream}, where no call is")
        call = self._calls.get(stream)
        if call is None:
            return
        call.window += more
        if not more or call.window > frames.MOST_WINDOW:
            self._reset(call, Reason.FLOW_CONTROL_ERROR if more else Reason.PROTOCOL_ERROR)
        else:
            self._line_up(call)
            self._send_due()

    def _take_settings(self, flags: int, payload: bytes) -> float:
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(Reason.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return 0.0
        values = frames.read_settings(payload)
        self._greeted = True
        self._most_frame = values.get(frames.MAX_FRAME_SIZE, self._most_frame)
        self.send(frames.SETTINGS_TAKEN)
        first = values.get(frames.INITIAL_WINDOW_SIZE, self._first_window)
        price = SETTING_US * len(payload) / 6
        if first == self._first_window:
            return price
        more, self._first_window = first - self._first_window, first
        for call in list(self._calls.values()):
            call.window += more
            if call.window > frames.MOST_WINDOW:
                raise ConnectionFault(Reason.FLOW_CONTROL_ERROR, "a window beyond 2 GB")
            self._line_up(call)
        self._send_due()
        return price + WINDOW_US * len(self._calls)

    # Writing

    def send(self, data: bytes) -> None:
        """When everything else that is under way in this turn of the event loop has been done."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out, self._unsent = self._out, [], 0
        if out and self._transport is not None and not self._closed and not self._transport.is_closing():
            self._write(out)
            self._send_due()

    def _write(self, out: list[Buffer]) -> None:
        assert self._transport is not None
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _send_headers(self, stream: int, block: bytes, flags: int = 0) -> None:
        block, self._block_start = self._block_start + block, b""
        kind = frames.HEADERS
        while len(block) > self._most_frame:
            self.send(frames.head(kind, flags, stream, self._most_frame) + block[: self._most_frame])
            kind, flags, block = frames.CONTINUATION, 0, block[self._most_frame :]
        self.send(frames.head(kind, flags | frames.END_HEADERS, stream, len(block)) + block)

    def push(self, call: _Stream) -> bool:
        """Sends what the call has to send; False where the peer does not take it now: the call is told later.

        Header blocks are under no window, and sent at once.
        """
        if call.head_block:
            self._send_headers(call.stream, call.head_block)
            call.head_block = b""
        if not call.left:
            self._send_end(call)
            return True
        call.stuck_since = self.loop.time()
        self._line_up(call)
        self._send_due()
        return not call.left

    def _send_end(self, call: _Stream) -> None:
        if call.end_block:
            self._send_headers(call.stream, call.end_block, frames.END_STREAM)
        call.end_sent = call.end_block is not None

    def _line_up(self, call: _Stream) -> None:
        if call.left and call.window > 0:
            self._due[call.stream] = call

    def _send_due(self) -> None:
        """A frame of each call in turn, until the peer's windows or our buffer are full."""
        due = self._due
        while due and self._window > 0 and self._unsent < self._most_unsent_bytes and not self._full:
            _, call = due.popitem(last=False)
            size = min(call.left, self._window, call.window, self._most_frame)
            if size <= 0:
                continue  # SETTINGS have made its window smaller
            call.left -= size
            call.window -= size
            self._window -= size
            self._unsent += size
            self._sent_at = call.stuck_since = self.loop.time()
            flags = frames.END_STREAM if not call.left and call.end_block == b"" else 0
            self.send(frames.head(frames.DATA, flags, call.stream, size))
            self._out += call.pieces(size)
            self._line_up(call)
            if not call.left:
                self._send_end(call)
                call.sent()
