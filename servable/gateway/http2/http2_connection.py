"""One connection of HTTP/2 (RFC 9113): frames to calls and back, with bounds on what a stranger can make it hold.

Of what has come a little is read at each turn of the event loop, as much as the connection may cost
(limits/allowance.py); what is not read stays with its sender. Nothing is kept for a frame but what a call will be
given, and where the caller does not take our answers nothing more is read.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Optional

from servable.gateway.errors import CallError
from servable.gateway.http2 import frames
from servable.gateway.http2.frames import ConnectionFault, Reason
from servable.gateway.http2.grpc_call import GrpcCall, refused
from servable.gateway.http2.header_block import HeaderReader, response_head
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
# Prices in us (limits/allowance.py), about twice what was measured (Python 3.13): what comes at once, whatever it is; a
# frame; a call that was begun and is taken back; one that was not begun. A header block costs what it took. DATA pays
# for its frame from 1 KB on, and for having come from 3 KB on.
READ_US, FRAME_US, CALL_US, NO_CALL_US, DATA_BYTES_PER_US = 6.0, 3.0, 150.0, 10.0, 340
STUCK_US, WINDOW_US, SETTING_US = 3.0, 0.2, 0.3  # a call that is tried again; whose window changes; an entry
ANSWER_US, GOOD_ANSWER_US = 100.0, 300.0  # what a connection earns by an answered call
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
        self._closed_at: Optional[float] = None
        self._greeted = False  # the caller's preface and SETTINGS are there
        self._preface_left = len(frames.PREFACE)
        self._rest = b""  # of what came, not read yet
        self._waits = False  # to be read on from `_rest`
        self._data_of: Optional[GrpcCall] = None  # DATA that is coming, and how much of it
        self._data_left = 0
        self._data_ends = False
        self._came = 0  # bytes of DATA since the window of the connection was made larger
        self._block: Optional[tuple[int, int, bytearray]] = None  # a header block that goes on: stream, flags, bytes
        self._headers = HeaderReader()
        self._allowance = Allowance(loop.time)
        self._last_stream = 0
        self._refused_from = frames.MOST_STREAM
        self._calls: dict[int, GrpcCall] = {}
        self.waiting_bytes = 0  # of bodies that nobody reads yet
        self._window = frames.FIRST_WINDOW  # of the connection, towards the caller
        self._first_window = frames.FIRST_WINDOW  # of a stream, the same
        self._most_frame = frames.LEAST_FRAME
        self._stuck: OrderedDict[int, GrpcCall] = OrderedDict()  # calls with something to send, in turn
        self._out: list[bytes] = []
        self._full = False  # the transport

    # The transport's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=MOST_UNSENT_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            transport.abort()
            return
        self.send(self._server.greeting)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._rest = b""
        self._out.clear()
        calls, self._calls = self._calls, {}
        self._stuck.clear()
        for call in calls.values():
            call.gone()
        self._server.gone(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.buffer if self._data_left else self._server.small_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_at = self.loop.time()
        self._pinged_at = None
        self._allowance.spend(READ_US)
        came = self._server.buffer[:nbytes]
        if self._waits:
            self._rest += came
        elif not self._server.pace.has_time():
            self._rest += came
            self._wait()
        else:
            self._read(memoryview(self._rest + came) if self._rest else came)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._full = True
        self._pause()

    def resume_writing(self) -> None:
        self._full = False
        self._send_stuck()
        if not self._waits:
            self._resume()

    # Reading

    def spent_us(self) -> float:
        """The less, the sooner it is read."""
        return self._allowance.spent_us()

    def go_on(self) -> None:
        """Reads a little more of what has come."""
        if self._transport is None or self._transport.is_closing():
            return
        self._heard_at = self.loop.time()
        rest, self._rest, self._waits = self._rest, b"", False
        self._read(memoryview(rest))
        if not self._waits and not self._full:
            self._resume()

    def _read(self, data: memoryview) -> None:
        try:
            position, used = self._take(data)
        except ConnectionFault as fault:
            self._end(fault)
            return
        self._rest = bytes(data[position:])
        self._allowance.spend(used)
        self._server.pace.spend(max(used, FRAME_US))
        self._server.turn()
        if (position < len(data) and used >= TURN_US) or self._allowance.delay_s():
            self._wait()

    def _wait(self) -> None:
        self._waits = True
        self._pause()
        self._server.pace.wait(self, self._allowance.delay_s())

    def _take(self, data: memoryview) -> tuple[int, float]:
        """Where it stopped, and what it took. Raises ConnectionFault."""
        position, end, used = 0, len(data), 0.0
        if self._preface_left:
            position = self._take_preface(data)
        while used < TURN_US:
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

    def _take_preface(self, data: memoryview) -> int:
        done = len(frames.PREFACE) - self._preface_left
        size = min(self._preface_left, len(data))
        if data[:size] != frames.PREFACE[done : done + size]:
            assert self._transport is not None
            if not done:
                self._transport.write(WRONG_PROTOCOL)
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "no HTTP/2")
        self._preface_left -= size
        return size

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
            return self._take_window(stream, int.from_bytes(payload, "big") & frames.MOST_WINDOW)
        if kind == frames.PING:
            if not flags & frames.ACK:
                self.send(frames.ping(bytes(payload), answer=True))
        elif kind == frames.SETTINGS:
            return self._take_settings(flags, bytes(payload))
        elif kind == frames.RST_STREAM:
            return self._take_reset(stream)
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
            raise ConnectionFault(Reason.PROTOCOL_ERROR, "PUSH_PROMISE of a client")
        return 0.0  # PRIORITY, GOAWAY (the caller closes the connection when it has its answers), and unknown ones

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
        return max(-READ_US, FRAME_US - (length / DATA_BYTES_PER_US if call is not None else 0.0))

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

    def _headers_of(self, flags: int, stream: int, block: bytes) -> float:
        ends = bool(flags & frames.END_STREAM)
        if stream <= self._last_stream:  # trailers, or of a call that is over
            call = self._calls.get(stream)
            if call is not None and (call.half_closed or not ends):
                self._reset(call, Reason.PROTOCOL_ERROR)
            elif call is not None:
                call.no_more()
            used = self._headers.skip(block)
            self._leave_where_lost()
            return used
        if not stream % 2:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"a call on stream {stream}")
        self._last_stream = stream
        head, used = self._headers.read(block)
        used += NO_CALL_US
        if stream > self._refused_from or len(self._calls) >= self._server.streams:
            self.send(frames.reset(stream, Reason.REFUSED_STREAM))
            return used
        if head.fault:
            self.send(frames.reset(stream, Reason.PROTOCOL_ERROR))
            return used
        call = GrpcCall(self, stream, head, self._first_window, self.loop.time())
        call.half_closed = ends
        if head.refusal is not None:
            self.refuse(call, head.refusal)
            self._leave_where_lost()
            return used
        self._calls[stream] = call
        if len(self._calls) == 1:
            self._server.changed(self, waits=False)
        self._server.line_up(call)
        return used

    def _leave_where_lost(self) -> None:
        """No further call can be read here; those that are there are answered."""
        if self._headers.lost and self._refused_from == frames.MOST_STREAM:
            self.refuse_more()

    def _take_window(self, stream: int, more: int) -> float:
        if not stream:
            self._window += more
            if not more or self._window > frames.MOST_WINDOW:
                raise ConnectionFault(Reason.FLOW_CONTROL_ERROR, "a window of nothing, or beyond 2 GB")
            return self._send_stuck()
        if stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"a window for stream {stream}, where no call is")
        call = self._calls.get(stream)
        if call is None:
            return 0.0
        call.window += more
        if not more or call.window > frames.MOST_WINDOW:
            self._reset(call, Reason.FLOW_CONTROL_ERROR if more else Reason.PROTOCOL_ERROR)
        elif stream in self._stuck and not self._full:
            self._send_again(call)
        return 0.0

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
        price = SETTING_US * len(payload) / 6
        if first == self._first_window:
            return price
        more, self._first_window = first - self._first_window, first
        for call in list(self._calls.values()):
            call.window += more
            if call.window > frames.MOST_WINDOW:
                raise ConnectionFault(Reason.FLOW_CONTROL_ERROR, "a window beyond 2 GB")
        return price + WINDOW_US * len(self._calls) + self._send_stuck()

    def _take_reset(self, stream: int) -> float:
        if stream > self._last_stream:
            raise ConnectionFault(Reason.PROTOCOL_ERROR, f"the end of stream {stream}, where no call is")
        call = self._calls.pop(stream, None)
        if call is None:
            return 0.0
        self._stuck.pop(call.stream, None)
        call.gone()
        return CALL_US if call.begun else 0.0

    # Writing

    def send(self, data: bytes) -> None:
        """When everything else that is under way in this turn of the event loop has been done."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def push(self, call: GrpcCall) -> bool:
        """Sends what the call has to send; False where the caller does not take it now: the call is told later."""
        if not self._full and self._send(call):
            return True
        call.stuck_since = self.loop.time()
        self._stuck[call.stream] = call
        return False

    def _send(self, call: GrpcCall) -> bool:
        """As much as the windows let. False where something is left."""
        out = self._out
        if not out:
            self.loop.call_soon(self._flush)
        if not call.head_sent and (call.out is not None or call.end_block is None):
            call.head_sent = True
            block = RESPONSE_HEAD
            out += (frames.head(frames.HEADERS, frames.END_HEADERS, call.stream, len(block)), block)
        message = call.out
        while message is not None:
            size = min(len(message), self._window, call.window, self._most_frame)
            if size <= 0:
                call.out = message
                return False
            out += (frames.head(frames.DATA, 0, call.stream, size), bytes(message[:size]))
            self._window -= size
            call.window -= size
            call.stuck_since = self.loop.time()
            message = message[size:] if size < len(message) else None
        call.out = None
        if call.end_block is not None:
            flags = frames.END_HEADERS | frames.END_STREAM
            out += (frames.head(frames.HEADERS, flags, call.stream, len(call.end_block)), call.end_block)
        return True

    def _send_stuck(self) -> float:
        """In turn; what it took in us."""
        tried = 0
        for call in list(self._stuck.values()):
            if self._full or self._window <= 0:
                break
            tried += 1
            self._send_again(call)
        return STUCK_US * tried

    def _send_again(self, call: GrpcCall) -> None:
        if self._send(call):
            self._stuck.pop(call.stream, None)
            call.sent()
        else:
            self._stuck.move_to_end(call.stream)

    # Bodies that wait

    def hold(self, size: int) -> None:
        """So many bytes more, or less, of a body are kept until somebody reads it."""
        self.waiting_bytes += size
        self._server.hold(size)

    def latest_waiting(self) -> Optional[GrpcCall]:
        """Of the calls with such bodies."""
        return next((call for call in reversed(self._calls.values()) if call.waiting_bytes), None)

    # Ends

    def ended(self, call: GrpcCall, good: bool) -> None:
        """The call's handler is done."""
        if self._calls.pop(call.stream, None) is None:
            return  # its caller took it back
        self._stuck.pop(call.stream, None)
        call.over = True
        if call.end_block is None or call.out is not None:  # cut short
            self.send(frames.reset(call.stream, Reason.CANCEL))
        else:
            if not call.half_closed:  # the rest of the body is not wanted
                self.send(frames.reset(call.stream, Reason.NO_ERROR))
            self._allowance.earn(GOOD_ANSWER_US if good else ANSWER_US)
            if good:
                self._server.answered(self)
        self._rested()

    def refuse(self, call: GrpcCall, error: CallError) -> None:
        """Answers a call that was not begun."""
        self._calls.pop(call.stream, None)
        call.over = True
        block = refused(call, error)
        flags = frames.END_HEADERS | frames.END_STREAM
        self.send(frames.head(frames.HEADERS, flags, call.stream, len(block)) + block)
        if not call.half_closed:
            self.send(frames.reset(call.stream, Reason.NO_ERROR))
        self._rested()

    def _reset(self, call: GrpcCall, reason: Reason) -> None:
        """The call's own frames are wrong."""
        self._calls.pop(call.stream, None)
        self._stuck.pop(call.stream, None)
        call.gone()
        self._allowance.spend(CALL_US if call.begun else NO_CALL_US)
        self.send(frames.reset(call.stream, reason))

    def _rested(self) -> None:
        if not self._calls:
            self._server.changed(self, waits=True)
            if self._going_at is not None and self._refused_from < frames.MOST_STREAM:
                self._close()

    def _end(self, fault: ConnectionFault) -> None:
        """At once, with the reason."""
        self.send(frames.go_away(self._last_stream, fault.reason, fault.words))
        self._close()

    def _close(self) -> None:
        self._closed_at = self.loop.time()
        self._pause()
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def finish(self) -> None:
        """The caller opens no further calls here: first it is told, and some time later what comes is refused."""
        if self._going_at is None:
            self._going_at = self.loop.time()
            self.send(frames.go_away(frames.MOST_STREAM, Reason.NO_ERROR))

    def refuse_more(self) -> None:
        self.finish()
        self._refused_from = self._last_stream
        self.send(frames.go_away(self._last_stream, Reason.NO_ERROR))
        self._rested()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def make_room(self) -> None:
        self.refuse_more()

    def look(self, now: float) -> None:
        """From time to time: is somebody still there, does he take his answers, has the connection had its time."""
        if self._closed_at is not None:
            late = now - self._closed_at > GOING_S
        elif not self._greeted:
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
        for call in list(self._stuck.values()):
            if now - call.stuck_since > TAKE_REPLY_S:
                self._reset(call, Reason.CANCEL)
        for call in list(self._calls.values()):
            if call.deadline is not None and now > call.deadline + GOING_S:
                call.expire()

    # Pauses

    def _pause(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._transport.is_reading():
            self._transport.resume_reading()


RESPONSE_HEAD = response_head()
