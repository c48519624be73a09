"""One connection of HTTP/2 (RFC 9113): frames to calls and back, with bounds on what a stranger can make it hold.

Of what has come a little is read at each turn of the event loop, as much as the connection may cost
(limits/allowance.py); what is not read stays with its sender. Nothing is kept for a frame but what a call will be
given, and where the caller does not take our answers nothing more is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Optional, Union

from servable.gateway.errors import CallError
from servable.gateway.http2 import frames
from servable.gateway.http2.frames import ConnectionFault, Reason
from servable.gateway.http2.grpc_call import GrpcCall, refused
from servable.gateway.http2.header_block import TABLE_OF_NOTHING, HeaderReader, RequestHead, response_head
from servable.gateway.limits.allowance import Allowance

if TYPE_CHECKING:
    from servable.gateway.http2.grpc_server import GrpcServer

MOST_FRAME_BYTES = 256 * 1024  # of DATA; of other frames:
MOST_OTHER_BYTES = 16 * 1024
MOST_BLOCK_BYTES = 128 * 1024  # of a header block; long ones are refused without being read
MOST_BYTES = {
    frames.DATA: MOST_FRAME_BYTES,
    frames.HEADERS: MOST_BLOCK_BYTES,
    frames.CONTINUATION: MOST_BLOCK_BYTES,
    frames.SETTINGS: 1024,
}
MOST_UNSENT_BYTES = 64 * 1024  # answers in our own buffer, beyond what the kernel holds
# Prices in us (limits/allowance.py): a frame; a call that begins, until it is answered. DATA earns its own price from
# 1.5 KB on.
FRAME_US, CALL_US, DATA_BYTES_PER_US = 3.0, 300.0, 500
ANSWER_US, GOOD_ANSWER_US = 100.0, 1_000.0  # what a connection earns by an answered call
TURN_US = 300.0  # of one connection, before everything else on the event loop has its turn
HANDSHAKE_S = 10.0  # TLS and HTTP/2's first frames
QUIET_S, ANSWER_S = 30.0, 20.0  # without a byte: a ping; without an answer to it: the end
# A connection is asked to go after this time, and ended when its calls had theirs.
AGE_S = 300.0
GOING_S = 1.0  # between the word and the last call that is taken
TAKE_REPLY_S = 30.0  # for a reply to be taken
WRONG_PROTOCOL = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\nthis port speaks gRPC\n"
)
_HEAD = struct.Struct(">HBBBI")
WINDOW_STEP = 64 * 1024 * 1024  # DATA of all calls, after which the window of the connection is made larger again


class Http2Connection(asyncio.BufferedProtocol):
    """peer: the caller's address as gRPC writes it; key: whose share it uses. Both are told to its calls."""

    def __init__(self, server: GrpcServer, loop: asyncio.AbstractEventLoop, peer: str, key: str) -> None:
        self.peer = peer
        self.key = key
        self.loop = loop
        self.most_message_bytes = server.most_message_bytes
        self._server = server
        self._transport: Optional[asyncio.Transport] = None
        self._began = self._heard_at = loop.time()
        self._pinged_at: Optional[float] = None
        self._age_s = AGE_S * random.uniform(0.9, 1.1)  # so that callers do not all come back at once
        self._going_at: Optional[float] = None
        self._closed = False  # nothing more is read or written
        self._closing: Optional[asyncio.TimerHandle] = None
        self._greeted = False  # the caller's preface and SETTINGS are there
        self._preface_left = len(frames.PREFACE)
        self._rest = b""  # of what came, not read yet
        self._waits = False  # to be read on from `_rest`
        self._held = False  # it is its turn to be read on, but the caller takes no answers
        self._data_of: Optional[GrpcCall] = None  # DATA that is coming, how much of it, and of its padding
        self._data_left = self._padding_left = 0
        self._data_ends = False
        self._came = 0  # bytes of DATA since the window of the connection was made larger
        self._block: Optional[tuple[int, int, bytearray]] = None  # a header block that goes on: stream, flags, bytes
        self._headers = HeaderReader()
        self._allowance = Allowance(loop.time)
        self._last_stream = 0
        self._refused_from = frames.MOST_STREAM
        self._calls: dict[int, GrpcCall] = {}
        self._window = frames.FIRST_WINDOW  # of the connection, towards the caller
        self._first_window = frames.FIRST_WINDOW  # of a stream, the same
        self._most_frame = frames.LEAST_FRAME
        self._due: OrderedDict[int, GrpcCall] = OrderedDict()  # calls whose own windows let them send, in turn
        self._sent_at = self._began  # DATA of any call
        self._out: list[Union[bytes, memoryview]] = []
        self._out_bytes = 0  # of DATA in it
        self._block_start = TABLE_OF_NOTHING
        self._full = False  # the transport

    # The transport's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=MOST_UNSENT_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if self._closed or (tls is not None and tls.selected_alpn_protocol() != "h2"):
            transport.abort()

    def connection_lost(self, _exc: Optional[Exception]) -> None:
        self._closed = True
        if self._closing is not None:
            self._closing.cancel()
        self._transport = None  # that of TLS knows us, and keeps its buffers as long as we know it
        self._rest = b""
        self._out.clear()
        self._data_of = None
        calls, self._calls = self._calls, {}
        self._due.clear()
        for call in calls.values():
            call.gone()
        self._server.gone(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closed:
            return
        self._heard_at = self.loop.time()
        self._pinged_at = None
        came = self._server.buffer[:nbytes]
        if self._waits:
            self._rest += came
        else:
            self._read(memoryview(self._rest + came) if self._rest else came)

    def eof_received(self) -> bool:
        """A caller that closes its half has gone, as gRPC sees it."""
        return False

    def pause_writing(self) -> None:
        self._full = True
        self._pause()

    def resume_writing(self) -> None:
        self._full = False
        self._send_due()
        if self._held:
            self._held = False
            self._server.pace.wait(self, 0.0)
        elif not self._waits and not self._full:
            self._resume()

    # Reading

    def go_on(self) -> float:
        """Reads a little more of what has come; what that took in us."""
        if self._closed:
            return 0.0
        if self._full:
            self._held = True
            return 0.0
        self._heard_at = self.loop.time()
        rest, self._rest, self._waits = self._rest, b"", False
        used = self._read(memoryview(rest))
        if not self._waits and not self._full and not self._closed:
            self._resume()
        return used

    def _read(self, data: memoryview) -> float:
        used = 0.0
        try:
            position, used = self._take(data)
        except ConnectionFault as fault:
            self._end(fault)
            return used
        if self._closed:
            return used
        self._rest = bytes(data[position:])
        self._allowance.spend(used)
        self._server.turn()
        if (position < len(data) and used >= TURN_US) or self._allowance.delay_s():
            self._wait()
        return used

    def _wait(self) -> None:
        self._waits = True
        self._pause()
        self._server.pace.wait(self, self._allowance.delay_s())

    def _take(self, data: memoryview) -> tuple[int, float]:
        """Where it stopped, and what it took. Raises ConnectionFault."""
        position, end, used = 0, len(data), 0.0
        if self._preface_left:
            position = self._take_preface(data)
        while used < TURN_US and not self._closed:
            left = end - position
            if self._data_left:
                if not left:
                    break
                piece = data[position : position + self._data_left]
                self._take_data(piece)
                position += len(piece)
                continue
            if self._padding_left:
                if not left:
                    break
                size = min(self._padding_left, left)
                self._padding_left -= size
                position += size
                continue
            if left < frames.HEAD_BYTES:
                break
            upper, lower, kind, flags, stream = _HEAD.unpack_from(data, position)
            length, stream = upper << 8 | lower, stream & frames.MOST_STREAM
            if kind == frames.DATA:
                padding = 0
                if flags & frames.PADDED:
                    if left == frames.HEAD_BYTES and length:
                        break
                    padding = frames.padding_of(data[position + frames.HEAD_BYTES :], length)
                used += self._begin_data(stream, length, padding, bool(flags & frames.END_STREAM))
                position += frames.HEAD_BYTES + bool(padding)
                continue
            if length > MOST_BYTES.get(kind, MOST_OTHER_BYTES):
                raise ConnectionFault(Reason.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            if left < frames.HEAD_BYTES + length:
                break
            position += frames.HEAD_BYTES
            used += FRAME_US + self._frame(kind, flags, stream, data[position : position + length])
            position += length
        return position, used

    def _take_preface(self, data: memoryview) -> int:
        done = len(frames.PREFACE) - self._preface_left
        size = min(self._preface_left, len(data))
        if data[:size] != frames.PREFACE[done : done + size]:
            self.send(WRONG_PROTOCOL)
            self._close()
            return size
        self._preface_left -= size
        if not self._preface_left:  # not before: who speaks another protocol hears nothing of this one
            self.send(self._server.greeting)
        return size

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
            return self._take_reset(stream)
        elif kind == frames.CONTINUATION:
            return self._take_continuation(flags, stream, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "PUSH_PROMISE of a client")
        return 0.0  # PRIORITY, GOAWAY (the caller closes the connection when it has its answers), and unknown ones

    def _begin_data(self, stream: int, length: int, padding: int, ends: bool) -> float:
        """length: with `padding`, which is the byte that tells it and what it tells."""
        if not self._greeted or self._block is not None or not stream % 2 or stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"DATA on stream {stream}, where no call is")
        if length > MOST_FRAME_BYTES:
            raise ConnectionFault(Reason.FRAME_SIZE_ERROR, f"DATA of {length} bytes")
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
            self._take_data(memoryview(b""))
        return max(0.0, FRAME_US - (length / DATA_BYTES_PER_US if call is not None else 0.0))

    def _take_data(self, piece: memoryview) -> None:
        self._data_left -= len(piece)
        call = self._data_of
        if not self._data_left:
            self._data_of = None
        if call is None:
            return
        if piece and not call.arrived(piece):
            self._reset(call, Reason.FLOW_CONTROL_ERROR)
            self._data_of = None
        elif not self._data_left and self._data_ends:
            call.no_more()

    def _take_headers(self, flags: int, stream: int, payload: memoryview) -> float:
        if flags & frames.PADDED:
            payload = payload[1 : len(payload) - frames.padding_of(payload, len(payload)) + 1]
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

    def _headers_of(self, flags: int, stream: int, block: bytes) -> float:
        ends = bool(flags & frames.END_STREAM)
        if stream <= self._last_stream:  # trailers, or of a call that is over
            call = self._calls.get(stream)
            if call is not None and (call.half_closed or not ends):
                self._reset(call, Reason.STREAM_CLOSED if call.half_closed else Reason.PROTOCOL_ERROR)
            elif call is not None:
                call.no_more()
            used = self._headers.skip(block)
            self._leave_where_lost()
            return used
        self._last_stream = stream
        head, used = self._headers.read(block)
        used += self._take_call(stream, head, ends)
        self._leave_where_lost()
        return used

    def _take_call(self, stream: int, head: RequestHead, ends: bool) -> float:
        refused = stream > self._refused_from or len(self._calls) >= self._server.streams
        if refused or head.fault:
            self.send(frames.reset(stream, Reason.REFUSED_STREAM if refused else Reason.PROTOCOL_ERROR))
            return CALL_US / 10
        call = GrpcCall(self, stream, head, self._first_window, self.loop.time())
        call.half_closed = ends
        if head.refusal is not None:
            self.refuse(call, head.refusal)
            return CALL_US / 10
        self._calls[stream] = call
        if len(self._calls) == 1:
            self._server.changed(self, waits=False)
        self._server.line_up(call)
        return 0.0

    def _leave_where_lost(self) -> None:
        """No further call can be read here; those that are there are answered."""
        if self._headers.lost and self._refused_from == frames.MOST_STREAM:
            self.refuse_more()

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
        if first == self._first_window:
            return len(payload) / 12
        more, self._first_window = first - self._first_window, first
        for call in list(self._calls.values()):
            call.window += more
            if call.window > frames.MOST_WINDOW:
                raise ConnectionFault(Reason.FLOW_CONTROL_ERROR, "a window beyond 2 GB")
            self._line_up(call)
        self._send_due()
        return len(payload) / 12 + len(self._calls)

    def _take_reset(self, stream: int) -> float:
        if stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"the end of stream {stream}, where no call is")
        call = self._calls.get(stream)
        if call is None:
            return 0.0
        call.gone()
        self._leave(call)
        return CALL_US if call.begun else 0.0

    # Writing

    def send(self, data: bytes) -> None:
        """When everything else that is under way in this turn of the event loop has been done."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._send_due()

    def _send_headers(self, stream: int, block: bytes, flags: int = 0) -> None:
        block, self._block_start = self._block_start + block, b""
        kind = frames.HEADERS
        while len(block) > self._most_frame:
            self.send(frames.head(kind, flags, stream, self._most_frame) + block[: self._most_frame])
            kind, flags, block = frames.CONTINUATION, 0, block[self._most_frame :]
        self.send(frames.head(kind, flags | frames.END_HEADERS, stream, len(block)) + block)

    def push(self, call: GrpcCall) -> bool:
        """Sends what the call has to send; False where the caller does not take it now: the call is told later."""
        if call.out is None:
            self._send_end(call)
            return True
        if not call.head_sent:
            call.head_sent = True
            self._send_headers(call.stream, RESPONSE_HEAD)
        call.stuck_since = self.loop.time()
        self._line_up(call)
        self._send_due()
        return call.out is None

    def _send_end(self, call: GrpcCall) -> None:
        if call.end_block is not None:
            call.end_sent = True
            self._send_headers(call.stream, call.end_block, frames.END_STREAM)

    def _line_up(self, call: GrpcCall) -> None:
        if call.out is not None and call.window > 0:
            self._due[call.stream] = call

    def _send_due(self) -> None:
        """A frame of each call in turn, until the caller's windows or our buffer are full."""
        due = self._due
        while due and self._window > 0 and not self._full and self._out_bytes < MOST_UNSENT_BYTES:
            stream, call = due.popitem(last=False)
            message = call.out
            if message is None or call.window <= 0:
                continue  # SETTINGS have made its window smaller
            size = min(len(message), self._window, call.window, self._most_frame)
            self.send(frames.head(frames.DATA, 0, stream, size))
            self._out.append(message[:size])
            self._out_bytes += size
            self._window -= size
            call.window -= size
            self._sent_at = call.stuck_since = self.loop.time()
            if size < len(message):
                call.out = message[size:]
                self._line_up(call)
            else:
                call.out = None
                self._send_end(call)
                call.sent()

    # Ends

    def ended(self, call: GrpcCall, good: bool) -> None:
        """The call's handler is done."""
        if call.stream not in self._calls:
            return  # its caller took it back
        if not call.end_sent:  # cut short
            self._leave(call, frames.reset(call.stream, Reason.CANCEL))
            return
        self._allowance.earn(GOOD_ANSWER_US if good else ANSWER_US)
        if good:
            self._server.answered(self)
        # The rest of the body is not wanted
        self._leave(call, b"" if call.half_closed else frames.reset(call.stream, Reason.NO_ERROR))

    def refuse(self, call: GrpcCall, error: CallError) -> None:
        """Answers a call that was not begun."""
        self._send_headers(call.stream, refused(call, error), frames.END_STREAM)
        self._leave(call, b"" if call.half_closed else frames.reset(call.stream, Reason.NO_ERROR))

    def _reset(self, call: GrpcCall, reason: Reason) -> None:
        """The call's own frames are wrong, or its reply is not taken."""
        call.gone()
        self._allowance.spend(CALL_US if call.begun else CALL_US / 10)
        self._leave(call, frames.reset(call.stream, reason))

    def _leave(self, call: GrpcCall, last: bytes = b"") -> None:
        """The call is over; `last` is the last that is said of it."""
        call.over = True
        self._calls.pop(call.stream, None)
        self._due.pop(call.stream, None)
        if last:
            self.send(last)
        self._rested()

    def _rested(self) -> None:
        if not self._calls:
            self._server.changed(self, waits=True)
            if self._refused_from < frames.MOST_STREAM:
                self._close()

    def _end(self, fault: ConnectionFault) -> None:
        """At once, with the reason."""
        self.send(frames.go_away(min(self._last_stream, self._refused_from), fault.reason, fault.words))
        self._close()

    def _close(self) -> None:
        """When what was said is sent; a caller that does not take it has a little time."""
        if self._closed:
            return
        self._pause()
        self._flush()
        self._closed = True
        if self._transport is not None:
            self._transport.close()
            self._closing = self.loop.call_later(GOING_S, self.abort)

    def finish(self) -> None:
        """The caller opens no further calls here: first it is told, and some time later what comes is refused."""
        if self._going_at is None:
            self._going_at = self.loop.time()
            self.send(frames.go_away(frames.MOST_STREAM, Reason.NO_ERROR))

    def refuse_more(self) -> None:
        self.finish()
        self._refused_from = min(self._refused_from, self._last_stream)
        self.send(frames.go_away(self._refused_from, Reason.NO_ERROR))
        self._rested()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def make_room(self) -> None:
        self.refuse_more()

    def look(self, now: float) -> None:
        """From time to time: is somebody still there, does he take his answers, has the connection had its time."""
        if self._closed:
            return
        if not self._greeted:
            late = now - self._began > HANDSHAKE_S
        elif self._pinged_at is not None:
            late = now - self._pinged_at > ANSWER_S
        else:
            late = self._going_at is not None and now - self._going_at > self._server.grace_s
        if late:
            self.abort()
            return
        if self._pinged_at is None and now - self._heard_at > QUIET_S:
            self._pinged_at = now
            self.send(frames.ping(bytes(8), answer=False))
        if now - self._began > self._age_s:
            self.finish()
        if self._going_at is not None and self._refused_from == frames.MOST_STREAM and now - self._going_at > GOING_S:
            self.refuse_more()
        stands = now - self._sent_at > TAKE_REPLY_S
        for call in list(self._calls.values()):
            # A call waits as long as it has to where others are served.
            if call.out is not None and now - call.stuck_since > TAKE_REPLY_S and (stands or call.window <= 0):
                self._reset(call, Reason.CANCEL)
        for call in list(self._calls.values()):
            if call.deadline is not None and now > call.deadline + GOING_S:
                call.expire()

    # Pauses. The TLS of Python 3.10 raises where the connection has ended and we have not been told yet.

    def _pause(self) -> None:
        with contextlib.suppress(RuntimeError, AttributeError):
            if self._transport is not None and self._transport.is_reading():
                self._transport.pause_reading()

    def _resume(self) -> None:
        with contextlib.suppress(RuntimeError, AttributeError):
            if self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
                self._transport.resume_reading()


RESPONSE_HEAD = response_head()
