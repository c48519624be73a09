"""gRPC's server, with calls begun in turn, connection by connection.

gRPC's own threads accept calls as fast as a stranger sends them. grpc.aio takes them over one at a time, in the order
in which they came: where a stranger sends more, his calls, dead ones too, stand before everybody else's by the
thousand. Here gRPC is asked for many at a time, so that the line is where it can be looked at (limits/turns.py). An
address whose new connections have too many calls in that line opens no more until it is short again
(limits/newcomers.py), and a connection whose calls are taken back and do not fit there, or that floods
(limits/intake.py), is not listened to for a second (limits/pauses.py).

It stands on the part of grpcio (1.80, 1.83) on which grpc.server stands too, and not on grpc.aio, which takes more
processor time for a call (tests/benchmarks/README.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Sequence
from typing import Any, Callable, Optional

import grpc
import grpc.aio
from grpc._cython import cygrpc

from servable.gateway.core_call import CoreCall
from servable.gateway.core_events import CoreEvents
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


class FairServer(grpc.aio.Server):  # type: ignore[misc]
    """Like what grpc.aio.server(options=...) makes, for handlers that are coroutines or asynchronous generators."""

    def __init__(
        self, options: Sequence[tuple[str, Any]], streams: int, with_bodies: Callable[[], Collection[str]]
    ) -> None:
        """streams: calls that a connection may have in flight. with_bodies: connections with a body on its way, or
        that had one since this was last asked."""
        self._loop = asyncio.get_running_loop()
        self._events = CoreEvents(self._loop)
        self._core = cygrpc.Server(tuple(options), False)
        self._core.register_completion_queue(self._events.queue)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._ports: list[int] = []
        self._with_bodies = with_bodies
        self._watching: list[asyncio.Task[None]] = []
        self._came: dict[str, int] = {}  # calls by connection, until somebody asks
        self._handed = 0  # calls by gRPC in this round of the loop
        self._round_due = self._later_round_due = False
        self._stopping = False
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._told_at: dict[str, float] = {}
        self.turns: Turns[CoreCall] = Turns(MOST_WAITING, streams)
        self.newcomers = Newcomers([])
        self.pauses = Pauses()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """They are asked in turn for the handler of a path; the last must have one for any."""
        self._handlers.extend(generic_rpc_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Raises RuntimeError."""
        return self._add_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Raises RuntimeError."""
        return self._add_port(address, server_credentials._credentials)

    def _add_port(self, address: str, *credentials: Any) -> int:
        port: int = self._core.add_http2_port(address.encode(), *credentials)
        if not port:
            raise RuntimeError(f"gRPC cannot listen at {address}")
        self._ports.append(port)
        return port

    async def start(self) -> None:
        self._core.start(backup_queue=False)
        self._events.start()
        self._ask(ASKED)
        self.newcomers = Newcomers([each for port in self._ports for each in listening_sockets(port)])
        self._watching = [
            asyncio.ensure_future(watch(port, self._explained, self.too_much)) for port in self._ports[:1]
        ]

    async def stop(self, grace: Optional[float]) -> None:
        """No new calls; those that are there end within `grace` seconds."""
        if self._stopping:
            return
        self._stopping = True
        for task in self._watching:
            task.cancel()
        self.newcomers.close()
        self.pauses.close()
        self._core.shutdown(self._events.queue, lambda event: self._ended.set_result(None))
        self.turns = Turns(MOST_WAITING, 0)  # the server does not stop while it has calls
        await asyncio.wait({self._ended}, timeout=grace or 0.0)
        if not self._ended.done():
            self._core.cancel_all_calls()
            await self._ended
        self._core.destroy()
        await self._events.stop()

    async def wait_for_termination(self, timeout: Optional[float] = None) -> bool:
        """True where it was not over within `timeout` seconds."""
        await asyncio.wait({self._ended}, timeout=timeout)
        return not self._ended.done()

    def _ask(self, count: int) -> None:
        for _ in range(count):
            self._core.request_call(self._events.queue, self._events.queue, self._line_up)

    def _line_up(self, event: Any) -> None:
        """The call waits for its turn. gRPC ends a call that nobody holds any more: its caller gets CANCELLED."""
        if self._stopping or not event.success:
            return
        self._handed += 1
        self._round_soon()
        call = CoreCall(event, self._loop, self._events)
        peer = call.peer()
        self._came[peer] = self._came.get(peer, 0) + 1
        lost = self.turns.add(peer, call)
        if self.turns.stands_aside(peer):
            self._tell("%s takes back most of its calls; others' begin before them", peer)
        if lost is not None and self.turns.stands_aside(lost[0]):
            self._pause(lost[0])
        if len(self.turns) > CROWD:
            self._look_at(address_of(peer))

    def _round_soon(self) -> None:
        if not self._round_due:
            self._round_due = True
            self._loop.call_soon(self._round)

    def _round(self) -> None:
        """One call begins; everything else on the loop has its turn before the next one does."""
        self._round_due = False
        if self._stopping:
            return
        handed, self._handed = self._handed, 0
        self._ask(handed)
        if self.turns.delay_s() == 0:
            call = self.turns.take()
            call.begin(self._handler_of(call), self.turns.answered)
        delay_s = self.turns.delay_s()
        if delay_s == 0:
            self._round_soon()
        elif delay_s is not None and not self._later_round_due:
            self._later_round_due = True
            self._loop.call_later(delay_s, self._later_round)

    def _later_round(self) -> None:
        self._later_round_due = False
        self._round_soon()

    def _handler_of(self, call: CoreCall) -> grpc.RpcMethodHandler:
        found = (each.service(call) for each in self._handlers)
        return next(handler for handler in found if handler is not None)

    def _explained(self) -> dict[str, float]:
        """Bytes that each connection brought for calls since this was last asked: no more than that is said."""
        came, self._came = self._came, {}
        found = {peer: float(calls * WINDOW_BYTES) for peer, calls in came.items()}
        return {**found, **dict.fromkeys(self._with_bodies(), math.inf)}

    def too_much(self, peer: str) -> None:
        """The connection brought megabytes that belong to no call."""
        if self._pause(peer):
            self._tell("%s sends megabytes that belong to no call; nothing is taken from it for a second", peer)

    def _pause(self, peer: str) -> bool:
        paused = self.pauses.begin(peer)
        if paused:
            self._loop.call_later(PAUSE_S, self.pauses.end, peer)
        return paused

    def _look_at(self, address: str) -> None:
        """Whether too many calls of new connections of this address wait."""
        waiting = self.turns.waiting(address)
        if address in self.newcomers.held or waiting <= CROWD:
            return
        self.newcomers.hold(address)
        self._loop.call_later(LOOK_S, self._look_again, address)
        self._tell("%d calls of new connections of %s wait; further connections from there do, too", waiting, address)

    def _tell(self, words: str, *values: object) -> None:
        now = self._loop.time()
        if now > self._told_at.get(words, -TOLD_S) + TOLD_S:
            self._told_at[words] = now
            log.warning(words, *values)

    def _look_again(self, address: str) -> None:
        if self.turns.waiting(address) > CALM and not self._stopping:
            self._loop.call_later(LOOK_S, self._look_again, address)
        else:
            self.newcomers.let_go(address)
