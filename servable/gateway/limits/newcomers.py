"""New connections wait in the kernel while calls wait inside gRPC.

gRPC's own threads take connections and calls as fast as they come, and keep them in a line without an end (grpcio
1.80: some 24 KB each) until Python takes them, one after the other. A call of our own shows how long that line is.
While it is too long, the listening socket has a filter that drops what arrives there: TCP sends it again a second
later. Connections that stand are not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable
from typing import Any, Callable

ASK_EVERY_S = 0.05
PATIENCE_S = 0.1  # of a call that does nothing; it takes 1 to 3 ms where none wait before it
ASK_AGAIN_S = 5.0  # a call of our own that is lost does not shut the port for longer
_ATTACH, _DETACH = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER of Linux; Python 3.9 has no names for them
log = logging.getLogger(__name__)


class Newcomers:
    """ask: a call through gRPC that does nothing. sockets: where strangers connect; TCP, listening."""

    def __init__(self, ask: Callable[[], Awaitable[Any]], sockets: list[socket.socket]) -> None:
        self._ask = ask
        self._sockets = sockets
        self.paused = False

    async def watch(self) -> None:
        """Until it is cancelled, or the kernel refuses the filter."""
        try:
            while True:
                asked = asyncio.ensure_future(self._ask())
                try:
                    await asyncio.wait({asked}, timeout=PATIENCE_S)
                    self._pause(not asked.done())
                    await asyncio.gather(asked, return_exceptions=True)  # whatever it says, it came back
                finally:
                    asked.cancel()
                self._pause(False)
                await asyncio.sleep(ASK_EVERY_S)
        except OSError as error:
            log.warning("new connections cannot be made to wait when too many calls do: %s", error)
        finally:
            with contextlib.suppress(OSError):
                self._pause(False)
            for each in self._sockets:
                each.close()

    def _pause(self, wanted: bool) -> None:
        if wanted == self.paused:
            return
        self.paused = wanted
        for each in self._sockets:
            if wanted:
                drop = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET: 0 bytes are kept
                program = struct.pack("HP", 1, ctypes.addressof(drop))
                each.setsockopt(socket.SOL_SOCKET, _ATTACH, program)
            else:
                each.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def listening_sockets(port: int) -> list[socket.socket]:
    """This process's own TCP sockets that listen at `port`, each a duplicate to be closed: gRPC hands out none."""
    found = []
    for number in [int(name) for name in os.listdir("/proc/self/fd") if _is_socket(int(name))]:
        try:
            each = socket.socket(fileno=os.dup(number))
        except OSError:  # gone since
            continue
        if (
            each.family in (socket.AF_INET, socket.AF_INET6)
            and each.type == socket.SOCK_STREAM
            and each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and each.getsockname()[1] == port
        ):
            found.append(each)
        else:
            each.close()
    return found


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # the listing's own is closed by now
        return False
