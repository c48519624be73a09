"""One connection: uvicorn's HTTP/1.1 protocol (llhttp reads it), with bounds on what a stranger can make it hold.

Headers have a size and a time, pipelining a depth, an idle connection an end, and what two programs could read in two
ways (RFC 9112, sections 3.2 and 6.3) is refused, with the end of the connection: nobody knows where the next request
would begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Callable, Optional

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from metric_learn_client.wire import METADATA_REQUEST_ID
from servable.gateway.call.calls import request_id_of
from servable.gateway.http.errors import HttpError, openai_error
from servable.gateway.limits.connections import AGE_S, FIELD_BYTES, MOST_HEAD_BYTES

HEAD_S = 10.0  # from its first byte, or from the connection, to the end of a request's headers
KEEP_ALIVE_S = 75.0  # longer than the load balancers' 60 s, so that they close first
MOST_PIPELINED = 8
TURN_BYTES = 16 * 1024
_LENGTHS = (b"content-length", b"transfer-encoding")
_BETWEEN, _HEAD, _BODY = range(3)  # where in the stream of requests the connection is


def ambiguous(headers: Sequence[tuple[bytes, bytes]], version: str) -> str:
    """Why two programs could read this request differently; "" where all read the same. Pure.

    What llhttp itself refuses (Content-Length twice, or beside Transfer-Encoding, folded lines, spaces before a colon)
    is looked at again where it is cheap: this must not depend on another program's strictness.
    """
    if version not in ("1.0", "1.1"):
        return "not HTTP/1.1"
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (not hosts and version == "1.1"):
        return f"{hosts} Host headers; send one"
    lengths, codings = names.count(b"content-length"), names.count(b"transfer-encoding")
    if lengths > 1 or codings > 1 or (lengths and codings):
        return "the length of the body is given more than once; send Content-Length or Transfer-Encoding, once"
    for name, value in headers:
        if name == b"transfer-encoding" and (value.lower() != b"chunked" or version != "1.1"):
            return "Transfer-Encoding must be chunked, and only in HTTP/1.1"
        if name == b"content-length" and not (value.isdigit() and len(value) < 19):
            return "Content-Length is not a number"
        if name == b"expect" and value.lower() != b"100-continue":
            return "Expect must be 100-continue"
    return ""


class _Flow(FlowControl):
    """Reads no further while uvicorn has enough, or while something waits to be taken here: for each its own word."""

    def __init__(self, transport: asyncio.Transport, waits: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._waits = waits
        self._enough = False

    def pause_reading(self) -> None:
        """uvicorn's: a body that nobody takes, or a request that waits for the one before it."""
        self._enough = True
        self.hold()

    def resume_reading(self) -> None:
        """uvicorn's."""
        self._enough = False
        self.go_on()

    def hold(self) -> None:
        super().pause_reading()

    def go_on(self) -> None:
        if not self._enough and not self._waits():
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """on_waiting: whether it waits for a complete request, told at every change; on_gone: its end."""

    flow: _Flow

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        peer: str,
        key: str,
        on_waiting: Callable[[Connection, bool], None],
        on_gone: Callable[[Connection], None],
    ) -> None:
        # A state of its own: `tasks` are this connection's, to be ended with it.
        super().__init__(config, ServerState(), {}, _loop=loop)
        self.access_log = False
        self.timeout_keep_alive = KEEP_ALIVE_S  # type: ignore[assignment]
        self.peer = peer
        self.key = key
        self.closing = False  # no further request is taken
        self._on_waiting = on_waiting
        self._on_gone = on_gone
        self._began = loop.time()
        self._at = _BETWEEN
        self._heads = self._head_bytes = self._field_bytes = 0
        self._head_timer: Optional[asyncio.TimerHandle] = None
        self._refusal: Optional[HttpError] = None
        self._answering: Optional[RequestResponseCycle] = None
        self._chunked = False  # the body that comes, or the last one that came
        self._rest = bytearray()  # of what came, not taken yet
        self._going_on: Optional[asyncio.Handle] = None
        self._offered = False  # the request offers another protocol, and its body was not begun

    @property
    def last(self) -> bool:
        """Whether the answer that is being given is the last one on this connection."""
        return self.closing or self.loop.time() - self._began > AGE_S

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, lambda: bool(self._rest))
        # A drained buffer is with the kernel: who does not read is seen. Not 0, at which TLS never takes a byte again.
        transport.set_write_buffer_limits(high=1, low=0)
        self._head_timer = self.loop.call_later(HEAD_S, self._head_late)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        if self._answering is not None:
            self._answering.disconnected = True  # uvicorn looks at the last request alone, and logs a fault of ours
        super().connection_lost(exc)
        self.transport.abort()  # uvicorn leaves the transport open where the connection was reset
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        self._rest.clear()
        self.pipeline.clear()
        for task in self.tasks:
            task.cancel()
        self._on_gone(self)

    def abort(self) -> None:
        """At once; what was not sent is lost."""
        if self.transport is not None:
            self.transport.abort()

    def make_room(self) -> None:
        self.abort()

    def finish(self) -> None:
        """After the answer that is being given; at once where there is none."""
        self.closing = True
        if not self.busy and self.transport is not None:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Of a body in chunks a little at each turn of the event loop: 256 KB of chunks of a byte hold it for 50 ms."""
        self._unset_keepalive_if_required()
        if not self._rest and not (self._chunked and len(data) > TURN_BYTES):
            self._take(data)
            return
        self._rest += data
        self.flow.hold()
        if self._going_on is None:
            self._go_on()

    def _go_on(self) -> None:
        part = bytes(self._rest[:TURN_BYTES])
        del self._rest[:TURN_BYTES]
        self._going_on = self.loop.call_soon(self._go_on) if self._rest else None
        self._take(part)
        self.flow.go_on()

    def _take(self, data: bytes) -> None:
        if self._refusal is not None or self.parser is None:
            return
        before, heads = self._at, self._heads
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or HttpError(400, "not a request of HTTP/1.1"))
            return
        if self._at == _BODY or (self._at == _BETWEEN and self.busy):
            return
        if before != _BODY and self._heads == heads:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(_too_large())
                return
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._head_late)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._decline()

    def _decline(self) -> None:
        """Goes on in HTTP/1.1 where another protocol was offered (RFC 9110, section 7.8), as Java's client does.

        The parser takes the body for that protocol and cannot be told otherwise, so a new one reads the body: it gets
        a head that says no more than how long the body is.
        """
        length = b"".join(b"%s: %s\r\n" % pair for pair in self.headers if pair[0] in _LENGTHS)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + length + b"\r\n")

    def on_message_begin(self) -> None:
        if self._offered:
            return
        super().on_message_begin()
        self._at, self._field_bytes = _HEAD, 0
        self.scope["state"]["connection"] = self

    def on_url(self, url: bytes) -> None:
        if self._offered:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._offered:
            return
        self._count(len(name) + len(value) + FIELD_BYTES)
        if self._at == _HEAD:  # trailers are counted and left: they must not become headers after these were looked at
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._offered:
            self._offered = False
            return
        self._at = _BODY
        self._heads += 1
        self._head_bytes = 0
        self._stop_head_timer()
        self._chunked = any(name == b"transfer-encoding" for name, _ in self.headers)
        reason = ambiguous(self.headers, self.parser.get_http_version())
        if not reason and self.parser.get_method() == b"CONNECT":
            reason = "CONNECT is for proxies; this is none"
        if not reason and len(self.pipeline) >= MOST_PIPELINED:
            reason = f"more than {MOST_PIPELINED} requests without waiting for an answer"
        if reason:
            self._stop_parsing(HttpError(400, reason))
        self._offered = self.parser.should_upgrade()
        if not self.url.startswith(b"/"):
            self.url = _with_path(self.url)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._offered:
            return  # its body is still to come: see _decline
        super().on_message_complete()
        self._at = _BETWEEN
        self._on_waiting(self, False)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal is not None or self.closing:
            self.transport.close()
        elif not self.pipeline and not self.transport.is_closing():
            self._on_waiting(self, True)

    def _count(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > MOST_HEAD_BYTES:
            self._stop_parsing(_too_large())

    def _stop_parsing(self, error: HttpError) -> None:
        """Out of a callback of the parser, which makes an error of its own of whatever it meets.

        What is raised holds the frames that it passed, and with them all that was read: it is not what is kept.
        """
        self._refusal = error
        raise ValueError(error.message)

    def _head_late(self) -> None:
        self._refuse(HttpError(408, f"the headers did not arrive within {HEAD_S:g} s"))

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: HttpError) -> None:
        """Answers with `error`, after what is being answered, and ends the connection."""
        self._refusal = error
        self._stop_head_timer()
        self.pipeline.clear()
        if self.busy:
            if self.cycle is not self._answering or not self.cycle.more_body or self.cycle.response_started:
                return  # its answer is the last; a second one after it would be taken for that of another request
            self.cycle.disconnected = True  # the rest of its body is what is refused, so this is its answer
            self.cycle.message_event.set()
        body = orjson.dumps(openai_error(error.http_status, error))
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
            f"{METADATA_REQUEST_ID}: {request_id_of({})}\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[error.http_status] + head.encode() + body)
        self.transport.close()


def _with_path(url: bytes) -> bytes:
    """An absolute form without a path means "/" (RFC 9112, section 3.2.2)."""
    parsed = httptools.parse_url(url)
    return url if parsed.path else b"/?" + parsed.query if parsed.query else b"/"


def _too_large() -> HttpError:
    return HttpError(431, f"more than {MOST_HEAD_BYTES} bytes of headers, each counted with {FIELD_BYTES} bytes more")
