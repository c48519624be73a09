"""One call of gRPC: its messages, and what a handler may ask of it and say.

Handlers are the same as with grpc.aio: `async def handle(messages, context)`, or an asynchronous generator, with the
call as `context`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from metric_learn_client.wire import METADATA_REQUEST_ID
from servable.gateway.call.calls import request_id_of
from servable.gateway.errors import CallError, invalid
from servable.gateway.http2 import frames
from servable.gateway.http2.frame_protocol import CALL_WINDOW
from servable.gateway.http2.header_block import Pairs, RequestHead, response_head, status_block
from servable.gateway.http2.http2_stream import PREFIX, Http2Stream
from servable.gateway.tasks import started

if TYPE_CHECKING:
    from servable.gateway.http2.http2_connection import Http2Connection

RESPONSE_HEAD = response_head()
MOST_STREAMED_BYTES = 4096  # of each of several messages; calls of one message have limits of their own
SMALL_BYTES = 4096  # pieces of a body that are joined as they come: each object takes 50 bytes
log = logging.getLogger(__name__)


class _Gone(Exception):
    """The caller has gone, or the connection has ended."""


class GrpcCall(Http2Stream):
    """stream: its number; window: bytes that its caller takes now; now: seconds of the event loop's clock.

    `connection` is the key of the connection in whatever is shared out, `peer` the caller's address as gRPC writes it.
    """

    def __init__(self, wire: Http2Connection, stream: int, head: RequestHead, window: int, now: float) -> None:
        super().__init__(stream, window, RESPONSE_HEAD)
        self.path = head.path
        self.refusal = head.refusal
        self.http_status = head.http_status
        self.connection = wire.key
        self.peer = wire.peer
        self.deadline = None if head.timeout_s is None else now + head.timeout_s
        self.begun = self.over = False
        self._ending: Optional[CallError] = None  # as which it is being ended
        self._wanted = False  # the body: somebody reads it
        self._once = False  # and one message of it is all that is read
        self._wire = wire
        self._metadata = head.metadata
        self._parts: list[Union[bytes, bytearray]] = []  # of the body
        self._held = 0  # bytes in them
        self._open = CALL_WINDOW  # bytes that may come now
        self._size: Optional[int] = None  # of the message that comes
        self._taken = False  # one has been read
        self._arrived: Optional[asyncio.Future[None]] = None
        self._code: Optional[grpc.StatusCode] = None
        self._details = ""
        self._trailing: Iterable[tuple[str, Union[str, bytes]]] = ()
        self._sent: Optional[asyncio.Future[None]] = None
        self._task: Optional[asyncio.Task[None]] = None

    # What a handler asks and says

    def invocation_metadata(self) -> Pairs:
        return self._metadata

    def time_remaining(self) -> Optional[float]:
        """Seconds until the caller's deadline; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self._wire.loop.time())

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> Optional[grpc.StatusCode]:
        """None: no error so far."""
        return self._code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, Union[str, bytes]]]) -> None:
        self._trailing = metadata

    async def come(self) -> bool:
        """Waits for the message as far as it comes without more room. True: there must be more; False: it is there."""
        while not self._needs_room():
            if self._is_there():
                return False
            self._arrived = self._wire.loop.create_future()
            await self._arrived
        return True

    def _is_there(self) -> bool:
        """All of the message, or as much as there will be."""
        return self.half_closed or (self._held >= PREFIX.size and self._held >= PREFIX.size + self._prefix()[1])

    def _needs_room(self) -> bool:
        """Half of what may come is there, and the whole will not fit."""
        return self._open <= CALL_WINDOW // 2 and PREFIX.size + self._prefix()[1] > self._held + self._open

    async def read_one(self, most_bytes: Optional[int] = None) -> Any:
        """The caller's only message, as `read` gives it. What comes behind it is not kept. most_bytes: of it."""
        return self._only(await self.read(most_bytes))

    def read_one_now(self) -> Optional[bytes]:
        """The same where it is there already."""
        message = self.read_now()
        return None if message is None else self._only(message)

    def _only(self, message: Any) -> Any:
        self._once = True
        self._drop_body()
        return message

    async def read(self, most_bytes: Optional[int] = None) -> Any:
        """The caller's next message, bytes; grpc.aio.EOF at their end.

        Raises CallError: INVALID_ARGUMENT for one that is too large, of which no more is taken, UNIMPLEMENTED for a
        compressed one.
        """
        self._want()
        while True:
            message = self.read_now(most_bytes)
            if message is not None:
                if self._taken:
                    await asyncio.sleep(0)  # thousands of small messages may be there
                self._taken = True
                return message
            if self.half_closed:
                if self._held:
                    raise invalid("request", f"its body ends after {self._held} bytes of a message that is longer")
                return grpc.aio.EOF
            wanted = max(PREFIX.size, self._size or 0) - self._held
            if self._open < wanted or (self._size is None and self._open < CALL_WINDOW // 2):
                more = max(wanted, CALL_WINDOW) - self._open
                self._open += more
                self._wire.send(frames.window_update(self.stream, more))
            self._arrived = self._wire.loop.create_future()
            await self._arrived

    def read_now(self, most_bytes: Optional[int] = None) -> Optional[bytes]:
        """The next message where it is there already. Raises as `read` does."""
        if self._size is None and self._held >= PREFIX.size:
            self._size = self._read_prefix(most_bytes or self._wire.most_message_bytes)
        if self._size is None or self._held < self._size:
            return None
        return self._take()

    def _prefix(self) -> tuple[int, int]:
        if len(self._parts[0]) < PREFIX.size:
            self._parts = [b"".join(self._parts)]
        compressed, size = PREFIX.unpack_from(self._parts[0])
        return compressed, size

    def _read_prefix(self, most: int) -> int:
        """Bytes of the message with its prefix."""
        compressed, size = self._prefix()
        if compressed:
            raise CallError(grpc.StatusCode.UNIMPLEMENTED, "a compressed message; send it without compression")
        if size > most:
            raise invalid("request", f"{size} bytes; the most is {most}: send less")
        return PREFIX.size + size

    def _take(self) -> bytes:
        self._want()
        size, self._size = self._size, None
        assert size is not None
        parts: list[Union[bytes, bytearray, memoryview]] = [*self._parts]
        self._parts, self._held = [], self._held - size
        if self._held:  # of the next message
            whole = memoryview(b"".join(parts))
            self._parts, parts = [bytes(whole[size:])], [whole[:size]]
        parts[0] = memoryview(parts[0])[PREFIX.size :]
        return b"".join(parts)  # the one copy

    # What its connection tells

    def arrived(self, piece: memoryview) -> bool:
        """Bytes of the body; False: more than may come."""
        size = len(piece)
        self._open -= size
        if self._open < 0:
            return False
        if self.over or self._once:
            return True
        parts = self._parts
        self._held += size
        if size >= SMALL_BYTES:
            parts.append(bytes(piece))
        elif parts and type(parts[-1]) is bytearray:
            parts[-1] += piece
        else:
            parts.append(bytearray(piece))
        if not self._wanted:
            self._wire.hold(size)  # where too much is held this very call may end, and its body with it
            if self._held and self._arrived is not None and (self._is_there() or self._needs_room()):
                self._wake()
        elif self._size is None or self._held >= self._size:
            self._wake()
        return True

    def no_more(self) -> None:
        """The caller's half is closed."""
        self.half_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def sent(self) -> None:
        """All that was to be sent has been, and the caller takes it."""
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)

    def padded(self, size: int) -> bool:
        """Bytes of padding came, and as many more may come at once. False: more than may come."""
        if self._open < size:
            return False
        self._wire.send(frames.window_update(self.stream, size))
        return True

    def expire(self) -> None:
        """Its deadline has passed, and its handler has not seen to that."""
        self.end(CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "not done within the caller's deadline"))

    def end(self, error: CallError) -> None:
        """Whether it has begun or not."""
        if self._task is None:
            self.refuse(error)
        elif self._ending is None:
            self._ending = error
            self._drop_body()
            self._task.cancel()

    @property
    def waiting_bytes(self) -> int:
        """Of a body that nobody reads yet."""
        return 0 if self._wanted else self._held

    def _want(self) -> None:
        if not self._wanted:
            self._wire.hold(-self._held)
            self._wanted = True

    def _drop_body(self) -> None:
        """What has come of it."""
        self._want()
        self._parts.clear()
        self._held = 0

    def refuse(self, error: CallError) -> None:
        """Instead of its run."""
        if not self.over:
            self._wire.refuse(self, error)
            self._drop_body()

    def gone(self) -> None:
        """The caller has ended it, or the connection is over."""
        self.over = True
        self._drop_body()
        self.drop()
        task, self._task = self._task, None  # Python 3.10 keeps in a task the frames in which it was cancelled
        if task is not None:
            task.cancel()

    # Its run

    def begin(self, handler: grpc.RpcMethodHandler) -> None:
        """Runs the handler to its end."""
        self.begun = True
        self._task = started(self._wire.loop, self._run(handler))

    async def _run(self, handler: grpc.RpcMethodHandler) -> None:
        try:
            messages = self._messages(handler.request_deserializer)
            if handler.response_streaming:
                replies = handler.stream_stream(messages, self)
                try:
                    async for reply in replies:
                        await self._send(_with(handler.response_serializer, reply), None)
                finally:
                    await replies.aclose()
                reply = None
            else:
                reply = _with(handler.response_serializer, await handler.stream_unary(messages, self))
            await self._finish(None if self._code is not None else reply)
        except asyncio.CancelledError:
            if self._ending is not None and not self.over:
                await self._fail(self._ending)
        except _Gone:
            pass
        except CallError as error:
            await self._fail(error)
        except Exception:
            log.exception("a call ended by an error of the gateway")
            await self._fail(CallError(grpc.StatusCode.INTERNAL, "the gateway failed"))
        finally:
            self._drop_body()
            self._wire.ended(self, self._code is None)

    async def _messages(self, deserialize: Optional[Callable[[bytes], Any]]) -> AsyncIterator[Any]:
        while True:
            message = await self.read(MOST_STREAMED_BYTES)
            if message is grpc.aio.EOF:
                return
            try:
                content = _with(deserialize, message)
            except DecodeError:
                raise invalid("request", "a body that is not the message which this call takes") from None
            yield content

    async def _fail(self, error: CallError) -> None:
        if self.over or self.end_sent:
            return
        self._code, self._details, self._trailing = error.status, error.message, error.trailing_metadata()
        await self._finish(None)

    async def _finish(self, reply: Optional[bytes]) -> None:
        await self._send(reply, self._end_block())

    def _end_block(self) -> bytes:
        code = 0 if self._code is None else self._code.value[0]
        block = status_block(code, self._details, self._trailing)
        if self._code is not None and not self.left:  # without a message before it, one block is all
            block, self.head_block = self.head_block + block, b""
        return block

    async def _send(self, message: Optional[bytes], end_block: Optional[bytes]) -> None:
        """Returns when the caller has taken everything. Raises _Gone."""
        if self.over:
            raise _Gone
        if message is not None:
            self.put((message,))
        self.end_block = end_block
        if not self._wire.push(self):
            self._sent = self._wire.loop.create_future()
            await self._sent


def refused(call: GrpcCall, error: CallError) -> bytes:
    """The block that answers a call which no handler sees."""
    request_id = request_id_of(dict(call.invocation_metadata()))
    metadata = ((METADATA_REQUEST_ID, request_id), *error.trailing_metadata())
    return response_head(call.http_status) + status_block(error.status.value[0], error.message, metadata)


def _with(transform: Optional[Callable[[Any], Any]], message: Any) -> Any:
    return message if transform is None else transform(message)
