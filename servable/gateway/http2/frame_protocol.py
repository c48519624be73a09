"""What both ends of a connection of HTTP/2 (RFC 9113) do alike: bytes to frames, and frames that wait for a window.

Who reads how much of what comes, and what a header block means, is the subclass's. Nothing is kept for a frame but what
its call will be given.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Generic, Optional, TypeVar, Union

from servable.gateway.http2 import frames
from servable.gateway.http2.frames import ConnectionFault, Reason

MOST_FRAME_BYTES = 256 * 1024  # of DATA; of other frames:
MOST_OTHER_BYTES = 16 * 1024
MOST_BLOCK_BYTES = 128 * 1024  # of a header block; long ones are refused without being read
MOST_BYTES = {
    frames.DATA: MOST_FRAME_BYTES,
    frames.HEADERS: MOST_BLOCK_BYTES,
    frames.CONTINUATION: MOST_BLOCK_BYTES,
    frames.SETTINGS: 1024,
}
READ_BYTES = 128 * 1024  # at once from a socket
# Prices in us (limits/allowance.py): a frame. DATA earns its own price from 1.5 KB on.
FRAME_US, DATA_BYTES_PER_US = 3.0, 500
CONNECTION_WINDOW = 2**30  # what calls may send is bounded call by call
WINDOW_STEP = 64 * 1024 * 1024  # DATA of all calls, after which the window of the connection is made larger again
PREFIX = struct.Struct(">BI")  # before each message of gRPC: is it compressed, its length
_HEAD = struct.Struct(">HBBBI")
Buffer = Union[bytes, memoryview]


class Stream(ABC):
    """A call on its stream: what it sends, and what it is told.

    window: bytes that the peer takes now. head_block: goes before all else; b"" once it has gone. end_block: ends the
    stream; b"": it ends with its message; None: another message follows.
    """

    def __init__(self, stream: int, window: int, head_block: bytes) -> None:
        self.stream = stream
        self.window = window
        self.head_block = head_block
        self.end_block: Optional[bytes] = None
        self.out: deque[memoryview] = deque()  # of a message, what waits for the window
        self.left = 0  # bytes of it
        self.stuck_since = 0.0  # nothing of it has been taken
        self.half_closed = False  # the peer's half: nothing more comes

    def put(self, message: Iterable[Buffer]) -> None:
        """A message to send, in pieces that stay as they are until it is sent."""
        pieces = [memoryview(piece) for piece in message if piece]
        size = sum(map(len, pieces))
        self.out.append(memoryview(PREFIX.pack(0, size)))
        self.out += pieces
        self.left = PREFIX.size + size

    def drop(self) -> None:
        """What has not been sent is not wanted any more."""
        self.out.clear()
        self.left = 0

    @abstractmethod
    def sent(self) -> None:
        """All that was to be sent has been, some time after it was pushed."""

    @abstractmethod
    def arrived(self, piece: memoryview) -> bool:
        """Bytes of the body; False: more than may come."""

    @abstractmethod
    def padded(self, size: int) -> bool:
        """Bytes of padding came. False: more than may come."""

    @abstractmethod
    def no_more(self) -> None:
        """The peer's half is closed."""


_Stream = TypeVar("_Stream", bound=Stream)


class FrameProtocol(asyncio.BufferedProtocol, ABC, Generic[_Stream]):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._transport: Optional[asyncio.Transport] = None
        self._greeted = False  # the peer's SETTINGS are there
        self._rest = b""  # of what came, not read yet
        self._data_of: Optional[_Stream] = None  # DATA that is coming, and how much of it
        self._data_left = 0
        self._data_ends = False
        self._came = 0  # bytes of DATA since the window of the connection was made larger
        self._block: Optional[tuple[int, int, bytearray]] = None  # a header block that goes on: stream, flags, bytes
        self._last_stream = 0  # of those that were opened
        self._calls: dict[int, _Stream] = {}
        self._window = frames.FIRST_WINDOW  # of the connection, towards the peer
        self._first_window = frames.FIRST_WINDOW  # of a stream, the same
        self._most_frame = frames.LEAST_FRAME
        self._stuck: OrderedDict[int, _Stream] = OrderedDict()  # calls with something to send, in turn
        self._out: list[Buffer] = []
        self._full = False  # the transport

    # Reading

    def _take(self, data: memoryview, most_us: float) -> tuple[int, float]:
        """Reads on until that was worth `most_us`. Where it stopped, and what it took. Raises ConnectionFault."""
        position, end, used = 0, len(data), 0.0
        while used < most_us:
            left = end - position
            if self._data_left:
                size = min(self._data_left, left)
                if not size:
                    break
                self._take_data(data[position : position + size])
                position += size
                continue
            if left < frames.HEAD_BYTES:
                break
            upper, lower, kind, flags, stream = _HEAD.unpack_from(data, position)
            length, stream = upper << 8 | lower, stream & frames.MOST_STREAM
            if kind == frames.DATA and not flags & frames.PADDED:
                used += self._begin_data(stream, length, bool(flags & frames.END_STREAM))
                position += frames.HEAD_BYTES
                continue
            if length > MOST_BYTES.get(kind, MOST_OTHER_BYTES):
                raise ConnectionFault(Reason.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            if left < frames.HEAD_BYTES + length:
                break
            position += frames.HEAD_BYTES
            used += FRAME_US + self._frame(kind, flags, stream, data[position : position + length])
            position += length
        return position, used

    def _frame(self, kind: int, flags: int, stream: int, payload: memoryview) -> float:
        """What it took in us, beside FRAME_US."""
        if not self._greeted and kind != frames.SETTINGS:
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
        elif kind == frames.DATA:  # with padding
            padded = len(payload)
            payload = frames.without_padding(payload, flags)
            used = self._begin_data(stream, padded, bool(flags & frames.END_STREAM))
            self._data_left = len(payload)
            if self._data_of is not None and not self._data_of.padded(padded - len(payload)):
                self._reset(self._data_of, Reason.FLOW_CONTROL_ERROR)
                self._data_of = None
            self._take_data(payload)
            return used
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody may send here")
        elif kind == frames.GOAWAY:
            self._take_go_away(int.from_bytes(payload[:4], "big") & frames.MOST_STREAM)
        return 0.0  # PRIORITY, and unknown ones

    def _begin_data(self, stream: int, length: int, ends: bool) -> float:
        if not self._greeted or self._block is not None or not 0 < stream <= self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"DATA on stream {stream}, where no call is")
        if length > MOST_FRAME_BYTES:
            raise ConnectionFault(Reason.FRAME_SIZE_ERROR, f"DATA of {length} bytes")
        call = self._calls.get(stream)  # None: it is over; what was on its way is left
        if call is not None and call.half_closed:
            self._reset(call, Reason.STREAM_CLOSED)
            call = None
        self._data_of, self._data_left, self._data_ends = call, length, ends
        self._came += length
        if self._came >= WINDOW_STEP:
            self.send(frames.window_update(0, self._came))
            self._came = 0
        if not length and ends and call is not None:
            call.no_more()
        return max(0.0, FRAME_US - (length / DATA_BYTES_PER_US if call is not None else 0.0))

    def _take_data(self, piece: memoryview) -> None:
        self._data_left -= len(piece)
        call = self._data_of
        if call is None:
            return
        if not call.arrived(piece):
            self._reset(call, Reason.FLOW_CONTROL_ERROR)
            self._data_of = None
        elif not self._data_left and self._data_ends:
            call.no_more()

    def _take_headers(self, flags: int, stream: int, payload: memoryview) -> float:
        payload = frames.without_padding(payload, flags)
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(Reason.FRAME_SIZE_ERROR, "HEADERS with less than a priority")
            payload = payload[5:]
        if not flags & frames.END_HEADERS:
            self._block = (stream, flags, bytearray(payload))
            return 0.0
        return self._headers_of(flags, stream, bytes(payload))

    def _take_continuation(self, flags: int, stream: int, payload: memoryview) -> float:
        if self._block is None:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block = self._block[2]
        block += payload
        if len(block) > MOST_BLOCK_BYTES:
            raise ConnectionFault(Reason.ENHANCE_YOUR_CALM, f"a header block of more than {MOST_BLOCK_BYTES} bytes")
        if not flags & frames.END_HEADERS:
            return 0.0
        first_flags, self._block = self._block[1], None
        return self._headers_of(first_flags, stream, bytes(block))

    @abstractmethod
    def _headers_of(self, flags: int, stream: int, block: bytes) -> float:
        """A whole header block; what it took to read in us. Raises ConnectionFault."""

    @abstractmethod
    def _reset(self, call: _Stream, reason: Reason) -> None:
        """The call's own frames are wrong."""

    @abstractmethod
    def _take_go_away(self, last_stream: int) -> None:
        """The peer ends; streams after `last_stream` were not begun."""

    def _ended_by_peer(self, stream: int) -> Optional[_Stream]:
        """The call that RST_STREAM ends; None where it is over already. Raises ConnectionFault."""
        if stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"the end of stream {stream}, where no call is")
        self._stuck.pop(stream, None)
        return self._calls.pop(stream, None)

    @abstractmethod
    def _take_reset(self, stream: int, reason: int) -> float:
        """What it took in us. Raises ConnectionFault."""

    def _take_window(self, stream: int, more: int) -> None:
        if not stream:
            self._window += more
            if not more or self._window > frames.MOST_WINDOW:
                raise ConnectionFault(Reason.FLOW_CONTROL_ERROR, "a window of nothing, or beyond 2 GB")
            self._send_stuck()
            return
        if stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"a window for stream {stream}, where no call is")
        call = self._calls.get(stream)
        if call is None:
            return
        call.window += more
        if not more or call.window > frames.MOST_WINDOW:
            self._reset(call, Reason.FLOW_CONTROL_ERROR if more else Reason.PROTOCOL_ERROR)
        elif stream in self._stuck:
            self._send_stuck()

    def _take_settings(self, flags: int, payload: bytes) -> float:
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(Reason.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return 0.0
        values = frames.read_settings(payload)
        if not self._greeted:
            self._greeted = True
        self._most_frame = values.get(frames.MAX_FRAME_SIZE, self._most_frame)
        self.send(frames.SETTINGS_TAKEN)
        first = values.get(frames.INITIAL_WINDOW_SIZE, self._first_window)
        if first == self._first_window:
            return len(payload) / 12
        more, self._first_window = first - self._first_window, first
        for call in list(self._calls.values()):
            call.window += more
            if call.window > frames.MOST_WINDOW:
                raise ConnectionFault(Reason.FLOW_CONTROL_ERROR, "a window beyond 2 GB")
        self._send_stuck()
        return len(payload) / 12 + len(self._calls)

    # Writing

    def send(self, data: bytes) -> None:
        """When everything else that is under way in this turn of the event loop has been done."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._write(out)

    def _write(self, out: list[Buffer]) -> None:
        assert self._transport is not None
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def push(self, call: _Stream) -> bool:
        """Sends what the call has to send; False where the peer does not take it now: the call is told later."""
        if not self._full and self._send(call):
            return True
        call.stuck_since = self.loop.time()
        self._stuck[call.stream] = call
        return False

    def _send(self, call: _Stream) -> bool:
        """As much as the windows let. False where something is left."""
        out, stream = self._out, call.stream
        if not out:
            self.loop.call_soon(self._flush)
        if call.head_block:
            out += (frames.head(frames.HEADERS, frames.END_HEADERS, stream, len(call.head_block)), call.head_block)
            call.head_block = b""
        while call.left:
            size = min(call.left, self._window, call.window, self._most_frame)
            if size <= 0:
                return False
            call.left -= size
            self._window -= size
            call.window -= size
            call.stuck_since = self.loop.time()
            flags = frames.END_STREAM if not call.left and call.end_block == b"" else 0
            out.append(frames.head(frames.DATA, flags, stream, size))
            while size:
                piece = call.out.popleft()
                if len(piece) > size:
                    call.out.appendleft(piece[size:])
                    piece = piece[:size]
                out.append(piece)
                size -= len(piece)
        if call.end_block:
            flags = frames.END_HEADERS | frames.END_STREAM
            out += (frames.head(frames.HEADERS, flags, stream, len(call.end_block)), call.end_block)
        return True

    def _send_stuck(self) -> None:
        for stream in list(self._stuck):
            if self._full:
                return
            call = self._stuck.get(stream)
            if call is None:
                continue
            if self._send(call):
                del self._stuck[stream]
                call.sent()
            else:
                self._stuck.move_to_end(stream)
