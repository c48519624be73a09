"""Connections that are not listened to for a while: what comes on them is dropped, and their TCP sends it again.

Other servers end a connection that floods. It would be opened again at once, and an honest one would lose its calls.
"""

from __future__ import annotations

import logging
import socket
import struct

from servable.gateway.limits.sockets import ConnectedSockets, set_filter

MOST = 128  # at one time: each takes a descriptor, of those that are reserved (grpc_server.py)
_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # "return 0" of classic BPF: nothing is kept of any packet
log = logging.getLogger(__name__)


class Pauses:
    """By peer, as gRPC writes it."""

    def __init__(self) -> None:
        self._sockets = ConnectedSockets()
        self._paused: dict[str, socket.socket] = {}

    def begin(self, peer: str) -> bool:
        """False where it is paused already, or cannot be: gone, no TCP, or too many are."""
        if peer in self._paused or len(self._paused) >= MOST:
            return False
        found = self._sockets.find(peer)
        if found is None:
            return False
        try:
            set_filter(found, _NOTHING)
        except OSError as error:
            log.warning("a connection that floods cannot be made to wait: %s", error)
            found.close()
            return False
        self._paused[peer] = found
        return True

    def end(self, peer: str) -> None:
        paused = self._paused.pop(peer, None)
        if paused is None:
            return
        try:
            set_filter(paused, b"")
        except OSError:  # the connection was ended meanwhile
            pass
        finally:
            paused.close()

    def close(self) -> None:
        for peer in list(self._paused):
            self.end(peer)
