"""How many calls are in flight at once: a window that adapts to what the server takes. Pure but for its lock.

Additive increase, multiplicative decrease (Chiu and Jain, 1989, as in TCP): a call refused for overload halves the
window, once for all calls of the same generation; every answered call opens it again by 1/window, up to the ceiling.
Waiters are served in order. The window never blocks: it grants tickets and calls back, so that threads and coroutines
can both wait for it.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Callable, Optional


class Ticket:
    """A place in the window, or in the queue for it. `on_grant` is called once, from any thread, if it has to wait."""

    __slots__ = ("generation", "granted", "on_grant")

    def __init__(self) -> None:
        self.granted = False
        self.generation = 0
        self.on_grant: Optional[Callable[[], None]] = None


class CallWindow:
    def __init__(self, ceiling: int) -> None:
        self._ceiling = float(ceiling)
        self._size = float(ceiling)
        self._in_flight = 0
        self._generation = 0  # counts the decreases
        self._queue: deque[Ticket] = deque()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Calls that may be in flight now, 1 to the ceiling."""
        return int(self._size)

    def enter(self) -> Ticket:
        ticket = Ticket()
        with self._lock:
            if not self._queue and self._in_flight < self.size:
                self._grant(ticket)
            else:
                self._queue.append(ticket)
        return ticket

    def when_granted(self, ticket: Ticket, callback: Callable[[], None]) -> None:
        """Calls `callback` as soon as the ticket is granted, at once where it is already."""
        with self._lock:
            if not ticket.granted:
                ticket.on_grant = callback
                return
        callback()

    def leave(self, ticket: Ticket) -> None:
        """Gives the place back, or the place in the queue."""
        with self._lock:
            if ticket.granted:
                self._in_flight -= 1
            else:
                self._queue.remove(ticket)
            woken = self._admit()
        for callback in woken:
            callback()

    def answered(self) -> None:
        with self._lock:
            self._size = min(self._ceiling, self._size + 1.0 / self._size)

    def overloaded(self, ticket: Ticket) -> None:
        with self._lock:
            if ticket.generation == self._generation:
                self._generation += 1
                self._size = max(1.0, self._size / 2)

    def wake_all(self) -> None:
        """Calls back everyone in the queue without a grant, for a client that closes."""
        with self._lock:
            woken = [ticket.on_grant for ticket in self._queue if ticket.on_grant is not None]
        for callback in woken:
            callback()

    def _grant(self, ticket: Ticket) -> None:
        self._in_flight += 1
        ticket.granted, ticket.generation = True, self._generation

    def _admit(self) -> list[Callable[[], None]]:
        woken = []
        while self._queue and self._in_flight < self.size:
            ticket = self._queue.popleft()
            self._grant(ticket)
            if ticket.on_grant is not None:
                woken.append(ticket.on_grant)
        return woken
