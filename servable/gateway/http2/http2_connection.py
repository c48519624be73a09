"""One connection of HTTP/2 (RFC 9113): frames to calls and back, with bounds on what a stranger can make it hold.

Of what has come a little is read at each turn of the event loop, as much as the connection may cost
(limits/allowance.py); what is not read stays with its sender, and where the caller does not take our answers nothing
more is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Optional

from servable.gateway.errors import CallError
from servable.gateway.http2 import frames
from servable.gateway.http2.frame_protocol import READ_US, FrameProtocol
from servable.gateway.http2.frames import ConnectionFault, Reason
from servable.gateway.http2.grpc_call import GrpcCall, refused
from servable.gateway.http2.header_block import HeaderReader, RequestHead
from servable.gateway.limits.allowance import Allowance
from servable.gateway.limits.connections import AGE_S, TAKE_REPLY_S
from servable.gateway.listener import HANDSHAKE_S, TLS_READ_BYTES

if TYPE_CHECKING:
    from servable.gateway.http2.grpc_server import GrpcServer

MOST_UNSENT_BYTES = 64 * 1024  # answers in our own buffer, beyond what the kernel holds
# Prices in us, as in frame_protocol.py: a call that was begun and is taken back; one that was not begun. A header block
# costs what it took.
CALL_US, NO_CALL_US = 100.0, 10.0
BYTES_PER_US = 1000  # of what is read, whatever it is: of a turn of the event loop, not of the connection's allowance
ANSWER_US, GOOD_ANSWER_US = 200.0, 300.0  # what a connection earns by an answered call
TURN_US = 300.0  # of one connection, before everything else on the event loop has its turn
QUIET_S, ANSWER_S = 30.0, 20.0  # without a byte: a ping; without an answer to it: the end
GOING_S = 1.0  # between the word and the last call that is taken
ROOM_S = 0.1  # between the word and the end, of a connection without calls that goes for another one
MOST_LEFT_BYTES = 1024 * 1024  # what a caller may still send before it knows that its connection is over
WRONG_PROTOCOL = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\nthis port speaks gRPC\n"
)


class Http2Connection(FrameProtocol[GrpcCall]):
    """peer: the caller's address as gRPC writes it; key: whose share it uses. Both are told to its calls."""

    def __init__(self, server: GrpcServer, loop: asyncio.AbstractEventLoop, peer: str, key: str) -> None:
        super().__init__(loop, MOST_UNSENT_BYTES)
        self.peer = peer
        self.key = key
        self.most_message_bytes = server.most_message_bytes
        self._server = server
        self._began = self._heard_at = loop.time()
        self._pinged_at: Optional[float] = None
        self._age_s = AGE_S * random.uniform(0.9, 1.1)  # so that callers do not all come back at once
        self._going_at: Optional[float] = None
        self._closing: Optional[asyncio.TimerHandle] = None
        self._left_bytes = 0  # that came since it is closed
        self._preface_left = len(frames.PREFACE)
        self._waits = False  # to be read on from `_rest`
        self._held = False  # it was its turn, but the caller took no answers
        self._headers = HeaderReader()
        self._allowance = Allowance(loop.time)
        self._refused_from = frames.MOST_STREAM
        self.waiting_bytes = 0  # of bodies that nobody reads yet

    # The transport's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=MOST_UNSENT_BYTES)
        limit = getattr(transport, "set_read_buffer_limits", None)
        if limit is not None:  # TLS: what it keeps of what we do not read, else 256 KB; more than one record
            limit(2 * TLS_READ_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if self._closed or (tls is not None and tls.selected_alpn_protocol() != "h2"):
            transport.abort()

    def connection_lost(self, _exc: Optional[Exception]) -> None:
        self._closed = True
        if self._closing is not None:
            self._closing.cancel()
        self.abort()  # Python 3.10's TLS does not know that it is over
        self._transport = None  # that of TLS knows us, so it and its buffers would stay as long as we are known to it
        self._rest = b""
        self._out.clear()
        self._drop_calls()
        self._server.gone(self)

    def _drop_calls(self) -> None:
        self._data_of = None
        self._due.clear()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.gone()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._server.buffer if self._data_left else self._server.small_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closed:
            self._left_bytes += nbytes
            if self._left_bytes > MOST_LEFT_BYTES:
                self.abort()
            return
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
        """A caller that closes its half has gone, as gRPC sees it."""
        return False

    def pause_writing(self) -> None:
        self._full = True
        self._pause()

    def resume_writing(self) -> None:
        self._full = False
        self._heard_at, self._pinged_at = self.loop.time(), None  # who takes answers is there
        self._send_due()
        if self._held:
            self._held = False
            self._server.pace.wait(self, 0.0)
        elif not self._waits:
            self._resume()

    # Reading

    def spent_us(self) -> float:
        """The less, the sooner it is read."""
        return self._allowance.spent_us()

    def go_on(self) -> None:
        """Reads a little more of what has come."""
        if self._closed:
            return
        if self._full:
            self._held = True
            return
        self._heard_at = self.loop.time()
        rest, self._rest, self._waits = self._rest, b"", False
        self._read(memoryview(rest))
        if not self._waits and not self._full:
            self._resume()

    def _read(self, data: memoryview) -> None:
        used = 0.0
        try:
            skipped = self._take_preface(data) if self._preface_left else 0
            position, used = self._take(data[skipped:], TURN_US)
            position += skipped
        except ConnectionFault as fault:
            self._end(fault)
            position = len(data)
        self._server.pace.spend(max(used, READ_US) + position / BYTES_PER_US)
        self._server.turn()
        if self._closed:
            return
        self._rest = bytes(data[position:])
        self._allowance.spend(used)
        if (position < len(data) and used >= TURN_US) or self._allowance.delay_s():
            self._wait()

    def _wait(self) -> None:
        self._waits = True
        self._pause()
        self._server.pace.wait(self, self._allowance.delay_s())

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
        """What it took in us, beside the reading of its head."""
        refused = stream > self._refused_from or len(self._calls) >= self._server.streams
        if refused or head.fault:
            self.send(frames.reset(stream, Reason.REFUSED_STREAM if refused else Reason.PROTOCOL_ERROR))
            return NO_CALL_US
        call = GrpcCall(self, stream, head, self._first_window, self.loop.time())
        call.half_closed = ends
        if head.refusal is not None:
            self.refuse(call, head.refusal)
            return NO_CALL_US
        self._calls[stream] = call
        if len(self._calls) == 1:
            self._server.changed(self, waits=False)
        self._server.line_up(call)
        return NO_CALL_US

    def _leave_where_lost(self) -> None:
        """No further call can be read here; those that are there are answered."""
        if self._headers.lost and self._refused_from == frames.MOST_STREAM:
            self.refuse_more()

    def _ended_by_peer(self, call: GrpcCall, _reason: int) -> float:
        call.gone()
        self._leave(call)
        return CALL_US if call.begun else 0.0

    def _take_go_away(self, last_stream: int) -> None:
        """The caller closes the connection when it has its answers."""

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
        if call.stream not in self._calls:
            return  # its caller took it back
        if not call.end_sent:  # cut short
            self._leave(call, frames.reset(call.stream, Reason.CANCEL))
            return
        self._allowance.earn(GOOD_ANSWER_US if good else ANSWER_US)
        if good:
            self._server.answered(self)
        self._leave_answered(call)

    def refuse(self, call: GrpcCall, error: CallError) -> None:
        """Answers a call that was not begun."""
        self._send_headers(call.stream, refused(call, error), frames.END_STREAM)
        self._leave_answered(call)

    def _leave_answered(self, call: GrpcCall) -> None:
        """The rest of the body, if there is one, is not wanted."""
        self._leave(call, b"" if call.half_closed else frames.reset(call.stream, Reason.NO_ERROR))

    def _reset(self, call: GrpcCall, reason: Reason) -> None:
        """The call's own frames are wrong, or its reply is not taken."""
        call.gone()
        self._allowance.spend(CALL_US if call.begun else NO_CALL_US)
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
                self._take_leave()

    def _end(self, fault: ConnectionFault) -> None:
        """At once, with the reason."""
        self._go_away(min(self._last_stream, self._refused_from), fault.reason, fault.words)
        self._close()
        self._drop_calls()

    def _go_away(self, last_stream: int, reason: Reason, words: str = "") -> None:
        if not self._preface_left:  # else we have not even said SETTINGS
            self.send(frames.go_away(last_stream, reason, words))

    def _take_leave(self) -> None:
        """When the caller has taken its answers.

        It closes then, too. What it sends until then is left: a connection that is closed before that was read is
        reset, and with it go answers that are on their way.
        """
        if self._closed or self._transport is None or not self._transport.can_write_eof():  # TLS sees to it
            self._close()
            return
        self._flush()
        self._closed = True
        self._closing = self.loop.call_later(TAKE_REPLY_S, self.abort)
        if not self._transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # it has gone
                self._transport.write_eof()
        self._resume()

    def _close(self) -> None:
        """When what was said is sent."""
        if self._closed:
            return
        self._pause()
        self._flush()
        self._closed = True
        if self._transport is not None:
            # Who is slow to take the last answers has time for that; else it is TLS that waits for a goodbye.
            wait_s = TAKE_REPLY_S if self._transport.get_write_buffer_size() else GOING_S
            self._closing = self.loop.call_later(wait_s, self.abort)
            self._transport.close()

    def finish(self) -> None:
        """The caller opens no further calls here: first it is told, and some time later what comes is refused."""
        if self._going_at is None:
            self._going_at = self.loop.time()
            self._go_away(frames.MOST_STREAM, Reason.NO_ERROR)

    def refuse_more(self) -> None:
        self.finish()
        self._refused_from = min(self._refused_from, self._last_stream)
        self._go_away(self._refused_from, Reason.NO_ERROR)
        self._rested()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def make_room(self) -> None:
        self.refuse_more()
        self.loop.call_later(ROOM_S, self.abort)

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
            # Where others are served, a call may wait for its turn.
            if call.left and now - call.stuck_since > TAKE_REPLY_S and (stands or call.window <= 0):
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
