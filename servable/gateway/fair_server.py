"""grpc.aio's server, with calls begun in turn, connection by connection, and as fast as the event loop can.

gRPC's own threads accept calls as fast as a stranger sends them. grpc.aio takes them over one at a time, in the order
in which they came, and is told of one event in each round of the event loop: where a stranger sends more, his calls,
dead ones too, stand before everybody else's by the thousand. Here gRPC is asked for many at a time, so that the line is
where it can be looked at (limits/turns.py), and one round of the loop takes all events that are there. An address whose
new connections have too many calls in that line opens no more until it is short again (limits/newcomers.py), and a
connection whose calls are taken back and do not fit there, or that floods (limits/intake.py), is not listened to for a
second (limits/pauses.py).

Both reach into grpcio (1.80, 1.83), which has no public way: one method of its compiled part is replaced, and one
reader of the event loop. tests/integration/servable/gateway/test_turns.py shows that they are in effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import socket
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, Callable, Optional

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from servable.gateway.limits.intake import watch
from servable.gateway.limits.newcomers import Newcomers
from servable.gateway.limits.pauses import Pauses
from servable.gateway.limits.sockets import listening_sockets
from servable.gateway.limits.turns import Turns, address_of

ASKED = 64  # calls that gRPC may hand over in one round of the loop, in which one begins
MOST_WAITING = 1000  # 24 KB each
CROWD, CALM = 256, 32  # calls of new connections of one address, beyond which it opens no more, and until when
LOOK_S = 0.05  # between two looks at them
WINDOW_BYTES = 65_535  # of a call before it is read (RFC 9113, section 6.9.2), and gRPC's own
PAUSE_S = 1.0  # in which nothing is taken from a connection
TOLD_S = 60.0  # between two lines in the log of one kind
log = logging.getLogger(__name__)


class FairServer(_server.Server):  # type: ignore[misc]
    """Like what grpc.aio.server(options=...) makes."""

    def __init__(
        self, options: Sequence[tuple[str, Any]], streams: int, with_bodies: Callable[[], Collection[str]]
    ) -> None:
        """streams: calls that a connection may have in flight. with_bodies: connections with a body on its way, or
        that had one since this was last asked."""
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, (), (), tuple(options), None)
        self._server.turns = Turns(MOST_WAITING, streams)
        take_all_events(self._loop)
        self._ports: list[int] = []
        self._with_bodies = with_bodies
        self._watching: list[asyncio.Task[None]] = []

    def add_insecure_port(self, address: str) -> int:
        self._ports.append(super().add_insecure_port(address))
        return self._ports[-1]

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        self._ports.append(super().add_secure_port(address, server_credentials))
        return self._ports[-1]

    async def start(self) -> None:
        await super().start()
        self._server.newcomers = Newcomers([each for port in self._ports for each in listening_sockets(port)])
        self._watching = [
            asyncio.ensure_future(watch(port, self._explained, self._server.too_much)) for port in self._ports[:1]
        ]

    async def stop(self, grace: Optional[float]) -> None:
        for task in self._watching:
            task.cancel()
        self._server.newcomers.close()
        self._server.pauses.close()
        await super().stop(grace)

    def _explained(self) -> dict[str, float]:
        """Bytes that each connection brought for calls since this was last asked: no more than that is said."""
        came, self._server.came = self._server.came, {}
        found = {peer: float(calls * WINDOW_BYTES) for peer, calls in came.items()}
        return {**found, **dict.fromkeys(self._with_bodies(), math.inf)}

    def noting(self, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """The same for bytes, and `turns` knows which connection gets its answers."""
        if handler.response_streaming:
            return handler
        handle = handler.stream_unary or handler.unary_unary
        make = grpc.stream_unary_rpc_method_handler if handler.stream_unary else grpc.unary_unary_rpc_method_handler

        async def noted(body: Any, context: Any) -> bytes:
            reply: bytes = await handle(body, context)
            task = asyncio.current_task()
            assert task is not None  # grpc.aio's own, which ends when the answer was sent, or could not be
            # Not `context` itself: asked for its peer when the call is over, gRPC (1.83) crashes.
            task.add_done_callback(functools.partial(self._note, context.peer(), context.code() is None))
            return reply

        return make(noted)

    def _note(self, peer: str, good: bool, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._server.turns.answered(peer, good)


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any) -> None:
        super().__init__(loop, *arguments)
        self._own_loop = loop
        self.turns: Turns[Any]
        self.came: dict[str, int] = {}  # calls by connection, until somebody asks
        self.newcomers = Newcomers([])
        self.pauses = Pauses()
        self._told_at: dict[str, float] = {}
        self._asking: list[asyncio.Task[None]] = []
        self._arrived = asyncio.Event()
        self._ended: Optional[BaseException] = None

    async def _request_call(self) -> Any:
        """The next call to begin. Raises what the original raises when the server stops."""
        if not self._asking:
            ask = super()._request_call
            self._asking = [asyncio.ensure_future(self._ask(ask)) for _ in range(ASKED)]
        await asyncio.sleep(0)  # everything else on the loop has its turn before the next call begins
        while self._ended is None and (delay_s := self.turns.delay_s()) != 0:
            self._arrived.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), delay_s)
        if self._ended is not None:
            raise self._ended
        return self.turns.take()

    async def _ask(self, request_call: Callable[[], Awaitable[Any]]) -> None:
        while self._ended is None:
            try:
                self._line_up(await request_call())
            except BaseException as error:  # the server stops
                self._ended = error
        self.turns = Turns(MOST_WAITING, 0)  # the server does not stop while it has calls
        self._arrived.set()

    def _line_up(self, state: Any) -> None:
        """The call waits for its turn. gRPC ends a call that nobody holds any more: its caller gets CANCELLED."""
        try:
            peer = cygrpc._ServicerContext(state, None, None, self._own_loop).peer()
            self.came[peer] = self.came.get(peer, 0) + 1
            lost = self.turns.add(peer, state)
            self._arrived.set()
            if self.turns.stands_aside(peer):
                self._tell("%s takes back most of its calls; others' begin before them", peer)
            if lost is not None and self.turns.stands_aside(lost[0]):
                self._pause(lost[0])
            if len(self.turns) > CROWD:
                self._look_at(address_of(peer))
        except Exception:
            log.exception("a call could not be put in line")

    def too_much(self, peer: str) -> None:
        """The connection brought megabytes that belong to no call."""
        if self._pause(peer):
            self._tell("%s sends megabytes that belong to no call; nothing is taken from it for a second", peer)

    def _pause(self, peer: str) -> bool:
        paused = self.pauses.begin(peer)
        if paused:
            self._own_loop.call_later(PAUSE_S, self.pauses.end, peer)
        return paused

    def _look_at(self, address: str) -> None:
        """Whether too many calls of new connections of this address wait."""
        waiting = self.turns.waiting(address)
        if address in self.newcomers.held or waiting <= CROWD:
            return
        self.newcomers.hold(address)
        self._own_loop.call_later(LOOK_S, self._look_again, address)
        self._tell("%d calls of new connections of %s wait; further connections from there do, too", waiting, address)

    def _tell(self, words: str, *values: object) -> None:
        now = self._own_loop.time()
        if now > self._told_at.get(words, -TOLD_S) + TOLD_S:
            self._told_at[words] = now
            log.warning(words, *values)

    def _look_again(self, address: str) -> None:
        if self.turns.waiting(address) > CALM and self._ended is None:
            self._own_loop.call_later(LOOK_S, self._look_again, address)
        else:
            self.newcomers.let_go(address)


def take_all_events(loop: Any) -> bool:
    """True where grpcio's reader was found on the loop, and not changed already.

    A thread of grpcio writes a byte into a socket for each event. The reader takes all events at once but reads one
    byte, so the loop goes round once for each; and with 278 bytes there the thread stops until 70 are left, with all
    further events behind it.
    """
    for key in list(loop._selector.get_map().values()):
        reader: Any = key.data[0] if key.data else None
        call = getattr(reader, "_callback", None)
        if getattr(getattr(call, "func", call), "__name__", "") == "_handle_events":
            loop.add_reader(key.fileobj, _reading_all, key.fileobj, call, reader._args)
            return True
    return False


def _reading_all(waking: socket.socket, handle: Callable[..., None], arguments: Sequence[Any]) -> None:
    try:
        count = len(waking.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        if count > 1:
            waking.recv(count - 1)  # one is for `handle`
    except BlockingIOError:  # another loop of this process was faster
        return
    handle(*arguments)
