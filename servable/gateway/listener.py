"""The listening sockets of a public port, and its connections: how many there are, and who goes when too many are.

A newcomer is served: the connection that waits longest for a complete request of its caller goes for it. Only where
every connection has one is the newcomer refused.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import logging
import os
import socket
import ssl
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Generic, Optional, Protocol, TypeVar

from servable.config.addresses import Address
from servable.gateway.bind import usable_hosts
from servable.gateway.limits.connections import WAITING

TAKEN = 4  # new connections before everything else on the event loop has its turn
HANDSHAKE_S = 10.0  # TLS, and what a protocol greets with
NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
NO_DESCRIPTOR_S = 0.5  # until the next try
TOLD_A_SECOND = 5  # handshakes that failed
# What asyncio keeps ready for each connection over TLS to be read into, 256 KB from Python 3.11 on: with 1,024
# connections that would be all the memory which strangers may take, twice. Unused where Python has no such buffer.
TLS_READ_BYTES = 16 * 1024
SSLProtocol.max_size = TLS_READ_BYTES
log = logging.getLogger(__name__)
_count = itertools.count()


class ListenedTo(Protocol):
    """What a listener asks of a connection, which is a protocol of asyncio."""

    def abort(self) -> None:
        """At once; what was not sent is lost."""

    def make_room(self) -> None:
        """It waits for its caller, and goes for somebody else."""


_C = TypeVar("_C", bound=ListenedTo)


class Listener(Generic[_C]):
    """make: the connection of a peer, as gRPC writes it, with the key under which it uses its shares.

    most: connections at one time. context: gives the TLS context of the next handshake; None: plain text. busy: what a
    newcomer is told that cannot be taken.
    """

    def __init__(
        self,
        make: Callable[[str, str], _C],
        most: int,
        context: Optional[Callable[[], ssl.SSLContext]] = None,
        busy: bytes = b"",
    ) -> None:
        self._make = make
        self._most = most
        self._context = context
        self._busy = busy
        self.listening: list[socket.socket] = []
        self.open: set[_C] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._greeting: dict[_C, asyncio.Task[None]] = {}
        self._waiting: dict[_C, None] = {}  # without a complete request, the longest first
        self._unix_path: Optional[str] = None
        self._second = self._told = 0  # handshakes that failed, told in this second

    async def start(self, address: Address) -> int:
        """Listens; returns the port, 0 on a unix socket. Raises OSError."""
        self.listening = _listen(address)
        self._unix_path = address.path
        for each in self.listening:
            self._accepting.append(asyncio.ensure_future(self._accept(each)))
        return 0 if address.path is not None else int(self.listening[0].getsockname()[1])

    def changed(self, connection: _C, waits: bool) -> None:
        """waits: for a complete request of its caller."""
        self._waiting.pop(connection, None)
        if waits and connection in self.open:
            self._waiting[connection] = None

    def gone(self, connection: _C) -> None:
        self.open.discard(connection)
        self._waiting.pop(connection, None)

    async def close(self) -> None:
        """No further connections."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listening in self.listening:
            listening.close()
        if self._unix_path is not None:
            Path(self._unix_path).unlink(missing_ok=True)

    async def stop(self) -> None:
        """Ends everything."""
        await self.close()
        for connection in list(self.open):
            self._end(connection)
        await asyncio.gather(*self._greeting.values(), return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for number in itertools.count(1):
            if number % TAKEN == 0:
                await asyncio.sleep(0)  # sock_accept waits only where nobody is there
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in NO_DESCRIPTOR:  # else it was gone before it was taken
                    log.warning("a connection could not be taken: %s", os.strerror(error.errno))
                    await asyncio.sleep(NO_DESCRIPTOR_S)
                continue
            if len(self.open) >= self._most and not self._make_room():
                self._turn_away(accepted)
            else:
                self._take(accepted)

    def _take(self, accepted: socket.socket) -> None:
        peer = _peer(accepted)
        key = peer if accepted.family != socket.AF_UNIX else f"{peer}#{next(_count)}"
        connection = self._make(peer, key)
        self.open.add(connection)
        self._waiting[connection] = None
        greeting = asyncio.ensure_future(self._greet(connection, accepted))
        self._greeting[connection] = greeting
        greeting.add_done_callback(functools.partial(self._greeted, connection, accepted, peer))

    async def _greet(self, connection: _C, accepted: socket.socket) -> None:
        options: dict[str, Any] = {}
        if self._context is not None:
            options = {"ssl": self._context(), "ssl_handshake_timeout": HANDSHAKE_S}
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection,  # type: ignore[type-var]
            accepted,
            **options,
        )

    def _greeted(self, connection: _C, accepted: socket.socket, peer: str, greeting: asyncio.Task[None]) -> None:
        """Also where the task was ended before it began."""
        del self._greeting[connection]
        error = None if greeting.cancelled() else greeting.exception()
        if greeting.cancelled() or error is not None:
            accepted.close()
            self.gone(connection)
        if isinstance(error, ssl.SSLError):
            self._tell(peer, error)
        elif error is not None and not isinstance(error, OSError):  # gone, slow, or no TLS: nobody's fault here
            log.error("a connection ended by an error of the gateway", exc_info=error)

    def _tell(self, peer: str, error: ssl.SSLError) -> None:
        """Why a handshake failed, as often as somebody can read it."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._told = second, 0
        self._told += 1
        if self._told <= TOLD_A_SECOND:
            log.warning("a TLS handshake of %s failed: %s", peer, error)

    def _make_room(self) -> bool:
        """The connection that waits longest for its caller goes."""
        for connection in self._waiting:
            self.gone(connection)
            if connection in self._greeting:
                self._end(connection)
            else:
                connection.make_room()
            return True
        return False

    def _end(self, connection: _C) -> None:
        self.gone(connection)
        greeting = self._greeting.get(connection)
        if greeting is not None:
            greeting.cancel()
        connection.abort()

    def _turn_away(self, accepted: socket.socket) -> None:
        try:
            if self._context is None:
                accepted.send(self._busy)
        except OSError:
            pass
        finally:
            accepted.close()


def _listen(address: Address) -> list[socket.socket]:
    """Raises OSError; nothing is left open then."""
    found: list[socket.socket] = []
    try:
        if address.path is not None:
            Path(address.path).unlink(missing_ok=True)  # of a server that is gone: bind.py asked it
            found.append(socket.socket(socket.AF_UNIX))
            found[0].bind(address.path)
            found[0].listen(WAITING)
        else:
            hosts: Sequence[str] = usable_hosts(address)
            for host in hosts if address.port else hosts[:1]:  # a free port is one port
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                both = host == "::" and socket.has_dualstack_ipv6()  # as gRPC does
                found.append(
                    socket.create_server((host, address.port), family=family, backlog=WAITING, dualstack_ipv6=both)
                )
    except BaseException:
        for each in found:
            each.close()
        raise
    for each in found:
        each.setblocking(False)
    return found


def _peer(accepted: socket.socket) -> str:
    """As gRPC writes it."""
    if accepted.family == socket.AF_UNIX:
        return "unix:"
    try:
        name = accepted.getpeername()
    except OSError:
        return "gone"
    host = name[0]
    if host.startswith("::ffff:") and "." in host:  # of IPv4, on a socket of both
        host = host[len("::ffff:") :]
    return f"ipv6:[{host}]:{name[1]}" if ":" in host else f"ipv4:{host}:{name[1]}"
