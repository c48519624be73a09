"""What systemd hears of the server: readiness, reload, end, and the watchdog's sign of life.

Protocol: sd_notify(3), datagrams to $NOTIFY_SOCKET. Silent where the variable is not set.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping


class ServiceManager:
    """Not there, not heard: a lost datagram never fails the server."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._path = environment.get("NOTIFY_SOCKET", "")
        microseconds = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(microseconds) / 1e6 if microseconds.isdigit() and mine and self._path else 0.0

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    async def watch(self) -> None:
        """A sign of life, three times in each watchdog interval, from the loop that answers the calls."""
        while self.watchdog_s:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 3)

    def _send(self, text: str) -> None:
        if not self._path:
            return
        path = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), path)
        except OSError:  # also where no descriptor is free: the next sign of life may find one
            pass
