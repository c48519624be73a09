"""A GrpcServer on an event loop of its own thread, and a caller that sends what a test wants, frame by frame.

The caller reads and writes with `hpack` and a few lines of its own, not with the server's modules.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import weakref
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import grpc
import hpack

from servable.config.addresses import Address
from servable.config.sections import DeadlinesSection, LimitsSection
from servable.gateway.http2.grpc_server import GrpcServer
from tests.integration.servable.gateway.harness import WAIT_S, LoopThread, until
from tests.patience import patient

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
TABLE_SIZE, PUSH, STREAMS, FIRST_WINDOW, FRAME_BYTES, LIST_BYTES = range(1, 7)
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = (
    0,
    1,
    3,
    5,
    6,
    7,
    8,
)
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Reply:
    """What came for one call. end: "trailers", or the reason of RST_STREAM before any."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    reset: Optional[int] = None

    @property
    def status(self):
        return int(dict(self.trailers)["grpc-status"])

    @property
    def words(self):
        return dict(self.trailers).get("grpc-message", "")

    @property
    def messages(self):
        found, rest = [], self.body
        while rest:
            compressed, size = struct.unpack_from(">BI", rest)
            assert not compressed and len(rest) >= 5 + size
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def message(body, compressed=0):
    return struct.pack(">BI", compressed, len(body)) + body


def data(stream, payload, *, ends=False, padding=None):
    """padding: bytes of it behind the payload; None: the frame has no such field."""
    flags = END_STREAM if ends else 0
    if padding is not None:
        flags, payload = flags | PADDED, bytes([padding]) + payload + bytes(padding)
    return frame(DATA, flags, stream, payload)


def settings(values=(), flags=0):
    return frame(SETTINGS, flags, 0, b"".join(struct.pack(">HI", *pair) for pair in dict(values).items()))


def window(stream, more):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def reset(stream, reason=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", reason))


def fields(path="/t/Echo", *extra):
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "here"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *extra,
    ]


class Peer:
    """greets: with the preface and SETTINGS. Frames that came are in `seen`."""

    def __init__(self, connected, values=(), *, greets=True):
        self.socket = connected
        self.seen: list[Frame] = []
        self.replies: dict[int, Reply] = {}
        self._came = bytearray()
        self._block, self._ends = b"", 0  # a header block that comes
        self._decoder = hpack.Decoder(2**20)
        self._encoder = hpack.Encoder()
        connected.settimeout(patient(WAIT_S))
        if greets:
            self.send(PREFACE, settings(values))

    def send(self, *parts):
        self.socket.sendall(b"".join(parts))

    def block(self, path="/t/Echo", *extra, raw=None):
        return self._encoder.encode(fields(path, *extra) if raw is None else raw)

    def head(self, stream, path="/t/Echo", *extra, ends=False, raw=None, flags=END_HEADERS):
        flags |= END_STREAM if ends else 0
        return frame(HEADERS, flags, stream, self.block(path, *extra, raw=raw))

    def call(self, stream, path="/t/Echo", body=b"", *extra):
        self.send(self.head(stream, path, *extra), data(stream, message(body), ends=True))

    def answers(self, stream=1001, body=b""):
        """Whether the connection still serves, on a stream that the test does not use."""
        self.call(stream, "/t/Echo", body)
        reply = self.reply(stream)
        return reply.status == 0 and reply.messages == [body]

    def read(self):
        """The next frame. Raises EOFError at the end of the connection."""
        while len(self._came) < 9 or len(self._came) < 9 + int.from_bytes(self._came[:3], "big"):
            try:
                more = self.socket.recv(2**16)
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError(f"the connection ended; {len(self._came)} bytes of a frame were there")
            self._came += more
        size = int.from_bytes(self._came[:3], "big")
        found = Frame(
            self._came[3],
            self._came[4],
            int.from_bytes(self._came[5:9], "big") & 2**31 - 1,
            bytes(self._came[9 : 9 + size]),
        )
        del self._came[: 9 + size]
        self.seen.append(found)
        if found.stream:
            self._note(found)
        return found

    def _note(self, found):
        reply = self.replies.setdefault(found.stream, Reply())
        assert not reply.trailers or found.kind in (RST_STREAM, WINDOW_UPDATE), f"{found} behind the end of its stream"
        reply.frames.append(found)
        if found.kind == DATA:
            reply.body += found.payload
        elif found.kind == RST_STREAM:
            reply.reset = int.from_bytes(found.payload, "big")
        elif found.kind in (HEADERS, CONTINUATION):
            self._block += found.payload
            self._ends = found.flags & END_STREAM if found.kind == HEADERS else self._ends
            if found.flags & END_HEADERS:
                self._take_block(reply)

    def _take_block(self, reply):
        block = [(str(name), str(value)) for name, value in self._decoder.decode(self._block)]
        self._block = b""
        if not reply.headers:
            assert block[0][0] == ":status", block
            reply.headers = block
        else:
            assert self._ends
        if self._ends:
            reply.trailers = block

    def wait(self, condition):
        """Reads until `condition(frame)` is true of one; returns that."""
        while True:
            found = self.read()
            if condition(found):
                return found

    def reply(self, stream):
        """Once it is over."""
        while True:
            reply = self.replies.get(stream)
            if reply is not None and (reply.trailers or reply.reset is not None):
                return reply
            self.read()

    def settle(self):
        """Everything that was sent has been read by the server. Returns the frames that came meanwhile."""
        mark = len(self.seen)
        self.send(frame(PING, 0, 0, b"settled?"))
        self.wait(lambda each: each.kind == PING and each.flags & ACK and each.payload == b"settled?")
        return self.seen[mark:-1]

    def end(self):
        """(last stream, reason) of the last GOAWAY, or None; read to the end of the connection."""
        with contextlib.suppress(EOFError):
            while True:
                self.read()
        farewells = [each.payload for each in self.seen if each.kind == GOAWAY]
        return struct.unpack_from(">II", farewells[-1]) if farewells else None


class Handlers:
    """What a test's server does. begun: how many calls of each path; ended: the same, of those cancelled too."""

    def __init__(self):
        self.begun: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.contexts: list[weakref.ref] = []
        self.goes_on = threading.Event()

    def all(self):
        unary = {
            "/t/Echo": self.echo,
            "/t/Big": self.big,
            "/t/Hold": self.hold,
            "/t/Fail": self.fail,
            "/t/Meta": self.meta,
        }
        streams = {"/t/Double": self.double, "/t/Count": self.count, "/t/Wait": self.wait}
        return {
            **{path: self._noted(path, grpc.stream_unary_rpc_method_handler, each) for path, each in unary.items()},
            **{path: self._noted_stream(path, each) for path, each in streams.items()},
        }

    def _begin(self, path, context):
        self.begun[path] = self.begun.get(path, 0) + 1
        self.contexts.append(weakref.ref(context))

    def _end(self, path):
        self.ended[path] = self.ended.get(path, 0) + 1

    def _noted(self, path, kind, run):
        async def handle(messages, context):
            self._begin(path, context)
            try:
                return await run(messages, context)
            finally:
                self._end(path)

        return kind(handle)

    def _noted_stream(self, path, run):
        async def handle(messages, context):
            self._begin(path, context)
            try:
                async for reply in run(messages, context):
                    yield reply
            finally:
                self._end(path)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def echo(self, _messages, context):
        """The one message, b"" where there is none."""
        body = await context.read()
        return body if isinstance(body, bytes) else b"none"

    async def big(self, _messages, context):
        """As many bytes as the message says."""
        return bytes(_number(await context.read()))

    async def hold(self, _messages, _context):
        """Never answered."""
        await asyncio.Event().wait()

    async def fail(self, _messages, _context):
        raise ValueError("/secret/path")

    async def meta(self, _messages, context):
        """The metadata, given back at the end."""
        context.set_trailing_metadata(tuple(("got-" + name, value) for name, value in context.invocation_metadata()))
        return repr(context.time_remaining()).encode()

    async def double(self, messages, _context):
        async for each in messages:
            yield each + each

    async def count(self, _messages, context):
        """As many replies as the message says."""
        for number in range(_number(await context.read())):
            yield b"%d" % number

    async def wait(self, _messages, _context):
        yield b"first"
        await asyncio.Event().wait()


def _number(body):
    return int(body) if isinstance(body, bytes) and body.isdigit() else 0


async def _unknown(_messages, context):
    context.set_code(grpc.StatusCode.UNIMPLEMENTED)
    context.set_details("no such call: " + context.path)
    return b""


class Served(LoopThread):
    """`with Served() as served:` -> served.server, .handlers, .port, .run(coroutine). context: a TLS context."""

    def __init__(self, *, handlers=None, context=None, address=None, connections=100, **limits):
        super().__init__()
        self.handlers = Handlers()
        self.errors: list[dict] = []
        self._more = handlers or {}
        self._context = context
        self._address = address or Address("127.0.0.1", 0)
        self._connections = connections
        self._limits = LimitsSection(**limits)

    def __enter__(self):
        self.loop.set_exception_handler(lambda _, what: self.errors.append(what))
        self._thread.start()
        self._peers = contextlib.ExitStack()
        self.port = self.run(self._start())
        return self

    def __exit__(self, *_):
        self._peers.close()
        self.run(self.server.stop(0))
        self.end_loop()
        assert not self.errors

    async def _start(self):
        self.server = GrpcServer(
            {**self.handlers.all(), **self._more},
            grpc.stream_unary_rpc_method_handler(_unknown),
            self._limits,
            DeadlinesSection(),
            most_connections=self._connections,
            context=None if self._context is None else lambda: self._context,
        )
        return await self.server.start(self._address)

    @staticmethod
    def wait_s():
        return patient(WAIT_S)

    def socket(self):
        connected = socket.create_connection((self._address.host, self.port), patient(WAIT_S))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._peers.enter_context(connected)

    def peer(self, values=(), *, greets=True):
        """Connected, until the server ends."""
        return Peer(self.socket(), values, greets=greets)

    @property
    def connections(self):
        return list(self.server._listener.open)

    def until_begun(self, path, count=1):
        until(lambda: self.handlers.begun.get(path, 0) >= count, f"the begin of {path}")

    def until_ended(self, path, count=1):
        until(lambda: self.handlers.ended.get(path, 0) >= count, f"the end of {path}")


@contextlib.contextmanager
def served_without_errors(caplog, **options):
    """Served; at the end the log has no error of the test."""
    with Served(**options) as served:
        yield served
    assert not [record for record in caplog.get_records("call") if record.levelname == "ERROR"]
