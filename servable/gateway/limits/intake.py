"""Connections of gRPC that bring megabytes which belong to no call: floods of frames.

gRPC reads HTTP/2's other frames (SETTINGS, PING, headers without an end) as fast as they come, in its own threads, and
tells nobody; megabytes of them take the cores and hundreds of megabytes of memory. The kernel counts what each
connection has brought, and here it is known how much of that calls explain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Callable, Optional

from servable.gateway.limits.sockets import Endpoint, bytes_received, endpoint_of, peer_of

LOOK_S = 0.05
MOST_BYTES = 2_000_000  # beyond BYTES_PER_S
BYTES_PER_S = 2_000_000
LEAST_CPU = 0.1  # of a core, used by this process since the last look: below, there is no flood to look for
TURNS = 32  # of a busy event loop between two looks, in which a call that has come begins to take its body
REST = 20  # times as long as a look took, before the next: with thousands of connections they are rarer


class Intake:
    """Pure: what each connection brought beyond what it may, from look to look."""

    def __init__(self) -> None:
        self._before: Optional[Mapping[Endpoint, int]] = None
        self._beyond: dict[Endpoint, float] = {}

    def forget(self) -> None:
        """The next look is a first one, which finds nobody."""
        self._before, self._beyond = None, {}

    def look(
        self, received: Mapping[Endpoint, int], explained: Mapping[Endpoint, float], seconds: float
    ) -> list[Endpoint]:
        """Those that brought too much, at this look and the one before.

        received: bytes of each connection since it began; explained: of them, since the last look, `seconds` ago.
        """
        before, beyond = self._before, self._beyond
        self._before, self._beyond = received, {}
        found: list[Endpoint] = []
        if before is None:
            return found
        for endpoint, count in received.items():
            more = beyond.get(endpoint, 0.0) + count - before.get(endpoint, 0) - BYTES_PER_S * seconds
            more -= explained.get(endpoint, 0.0)
            # Twice: the first megabytes of a body may be there before its call has begun.
            if more > MOST_BYTES and beyond.get(endpoint, 0.0) > MOST_BYTES:
                found.append(endpoint)
            elif more > 0:
                self._beyond[endpoint] = more
        return found


async def watch(port: int, explained: Callable[[], Mapping[str, float]], too_much: Callable[[str], None]) -> None:
    """Until it is cancelled. explained: by peer, as Intake takes it, since it was last called; too_much: told the peer
    of each connection that brought too much."""
    intake, at, used = Intake(), time.monotonic(), time.process_time()
    rest_s = LOOK_S
    while True:
        await asyncio.sleep(rest_s)
        busy = time.process_time() - used >= LEAST_CPU * (time.monotonic() - at)
        for _ in range(TURNS if busy else 0):
            await asyncio.sleep(0)
        now, used = time.monotonic(), time.process_time()
        seconds, at = now - at, now
        by_peer = explained()
        try:
            received = bytes_received(port) if busy else None
        except OSError:  # out of descriptors, which passes
            received = None
        if received is None:
            intake.forget()
            continue
        by_endpoint = {
            endpoint: count for peer, count in by_peer.items() if (endpoint := endpoint_of(peer)) is not None
        }
        for endpoint in intake.look(received, by_endpoint, seconds):
            too_much(peer_of(endpoint))
        rest_s = max(LOOK_S, REST * (time.monotonic() - at))
