"""This process's own TCP sockets, which gRPC does not hand out, and filters on what arrives there."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Optional

from servable.gateway.limits.turns import host_of

_ATTACH, _DETACH = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER of Linux; Python has no names for them
_RECEIVED, _RECEIVED_AT = struct.Struct("=Q"), 128  # tcpi_bytes_received of struct tcp_info (linux/tcp.h)
LOOK_AGAIN_S = 0.1  # a look at all descriptors takes 5 ms where there are a thousand
_IP = (socket.AF_INET, socket.AF_INET6)
Endpoint = tuple[str, int]  # IP address, port


def listening_sockets(port: int) -> list[socket.socket]:
    """Those of TCP that listen at `port`, each a duplicate to be closed."""
    found = []
    for number in _descriptors():
        with contextlib.suppress(OSError), _borrowed(number) as each:
            listens = each.family in _IP and each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and each.getsockname()[1] == port:
                found.append(_duplicate(number))
    return found


def endpoint_of(peer: str) -> Optional[Endpoint]:
    """Of a peer as gRPC writes it; None where it has no IP address and port."""
    kind, port = peer.partition(":")[0], peer.rpartition(":")[2]
    return (host_of(peer), int(port)) if kind in ("ipv4", "ipv6") and port.isdigit() else None


def peer_of(endpoint: Endpoint) -> str:
    """A text of which `endpoint_of` makes the same."""
    host, port = endpoint
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def bytes_received(port: int) -> dict[Endpoint, int]:
    """What each connection to `port` has brought, as the kernel counts (Linux 4.1); by its peer. Raises OSError."""
    found = {}
    for number in _descriptors():
        with contextlib.suppress(OSError), _borrowed(number) as each:
            if each.family in _IP and each.getsockname()[1] == port:
                information = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.size + _RECEIVED_AT)
                found[_peer(each)] = _RECEIVED.unpack_from(information, _RECEIVED_AT)[0]
    return found


class ConnectedSockets:
    """Finds them by the peer, as gRPC writes it."""

    def __init__(self) -> None:
        self._numbers: dict[Endpoint, int] = {}
        self._looked_at = -LOOK_AGAIN_S

    def find(self, peer: str) -> Optional[socket.socket]:
        """A duplicate to be closed; None where there is none, or where it is too early to look again."""
        endpoint = endpoint_of(peer)
        if endpoint is None:
            return None
        found = self._checked(endpoint)
        if found is None and time.monotonic() >= self._looked_at + LOOK_AGAIN_S:
            self._looked_at = time.monotonic()
            self._numbers = {}
            for number in _descriptors():
                with contextlib.suppress(OSError), _borrowed(number) as each:
                    self._numbers[_peer(each)] = number
            found = self._checked(endpoint)
        return found

    def _checked(self, endpoint: Endpoint) -> Optional[socket.socket]:
        """Looked at again: the number may stand for another one by now."""
        number = self._numbers.get(endpoint)
        if number is None:
            return None
        try:
            found = _duplicate(number)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            if _peer(found) == endpoint:
                return found
        found.close()
        return None


def set_filter(on: socket.socket, steps: bytes) -> None:
    """Steps of classic BPF (linux/filter.h) decide what is kept of each packet; b"": all is. Raises OSError."""
    if steps:
        kept = ctypes.create_string_buffer(steps)
        on.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", len(steps) // 8, ctypes.addressof(kept)))
    else:
        on.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def _descriptors() -> list[int]:
    """Without that of the listing itself: a duplicate would get its number, and be taken for another socket."""
    return [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")]


def _duplicate(number: int) -> socket.socket:
    """Raises OSError. Not `socket.dup`: it would make the owner's a socket that blocks."""
    return socket.socket(fileno=os.dup(number))


@contextlib.contextmanager
def _borrowed(number: int) -> Iterator[socket.socket]:
    """The socket of another owner. Raises OSError where there is none, or none any more."""
    each = socket.socket(fileno=number)
    try:
        yield each
    finally:
        each.detach()


def _peer(each: socket.socket) -> Endpoint:
    """Raises OSError where it is not connected."""
    if each.family not in _IP:
        raise OSError("no socket of IP")
    name = each.getpeername()
    address = ipaddress.ip_address(name[0].partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address), name[1]
