"""Whose call is begun next. Pure: items of any kind, each from a peer; the clock is given.

A connection that has had an answer has a line of its own. All other connections of one address share a line, since a
stranger can open thousands of them and needs no answer. The lines take turns, so a known caller waits for one call of
each other line, however long those are.

A connection that takes back far more calls than it lets end (limits/taken_back.py) stands aside in a line of its own,
of which a call begins now and then, and two more for each that came to its end. So it costs little while it goes on,
and callers whose deadlines passed while the model was away are back at once when it is; that is also why its latest
call is the first there.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from typing import Callable, Generic, Optional, TypeVar

from servable.gateway.limits.taken_back import TakenBack

MOST_KNOWN = 4096  # connections that are remembered, those of the latest answers
NETWORK_BITS = 64  # of IPv6: what one customer of a provider has at least (RFC 6177)
ASIDE_S = 0.005  # between two calls of those that stand aside: a call that is taken back takes 0.2 ms
EARNED, MOST_EARNED = 2, 64  # calls that may begin at once for one that ended
_Item = TypeVar("_Item")


class Turns(Generic[_Item]):
    """At most `most` items wait; beyond them the longest line loses the one that would begin last.

    streams: calls of one connection that may be in flight.
    """

    def __init__(self, most: int, streams: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lines: OrderedDict[str, deque[_Item]] = OrderedDict()  # whose turn is next stands first
        self._aside: OrderedDict[str, deque[_Item]] = OrderedDict()  # the same, by connection
        self._next_aside_at = 0.0
        self._earned = 0
        self._aside_was_last = False
        self._known: OrderedDict[str, None] = OrderedDict()
        self._taken_back = TakenBack(streams)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting(self, line: str) -> int:
        """How many wait there: the peer of a known connection, or the address of all others (`address_of`)."""
        return len(self._lines.get(line, ()))

    def stands_aside(self, line: str) -> bool:
        """Whether it is the line of a connection that takes back too many calls, and calls wait there."""
        return line in self._aside

    def answered(self, peer: str, good: bool) -> None:
        """The connection has got an answer; good: without an error."""
        self._taken_back.ended(peer)
        if peer in self._aside:
            self._earned = min(MOST_EARNED, self._earned + EARNED)
            if not self._taken_back.too_many(peer):
                self._lines.setdefault(peer, deque()).extend(self._aside.pop(peer))
        if good:
            self._known[peer] = None
            self._known.move_to_end(peer)
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)

    def add(self, peer: str, item: _Item) -> Optional[tuple[str, _Item]]:
        """Returns (line, item) of the one that loses its place, if one does; it may be this one."""
        if peer.startswith("ip"):  # on a unix socket all look alike
            self._taken_back.came(peer)
        if self._taken_back.too_many(peer):
            self._aside.setdefault(peer, self._lines.pop(peer, deque())).append(item)
        else:
            self._lines.setdefault(peer if peer in self._known else address_of(peer), deque()).append(item)
        self._count += 1
        return None if self._count <= self._most else self._lose()

    def delay_s(self) -> Optional[float]:
        """How long until a call may begin; None: none waits."""
        if self._lines or (self._aside and self._earned):
            return 0.0
        return max(0.0, self._next_aside_at - self._clock()) if self._aside else None

    def take(self) -> _Item:
        """The next. Raises KeyError where none may begin."""
        now = self._clock()
        due = now >= self._next_aside_at
        self._aside_was_last = bool(
            self._aside and (due or self._earned) and not (self._lines and self._aside_was_last)
        )
        if self._aside_was_last:
            if due:
                self._next_aside_at = now + ASIDE_S
            else:
                self._earned -= 1
            return self._next_of(self._aside, last=True)
        if not self._lines:
            raise KeyError("nobody may begin")
        return self._next_of(self._lines)

    def _next_of(self, lines: OrderedDict[str, deque[_Item]], *, last: bool = False) -> _Item:
        line = next(iter(lines))
        item = lines[line].pop() if last else lines[line].popleft()
        lines.move_to_end(line)
        self._leave(lines, line)
        return item

    def _lose(self) -> tuple[str, _Item]:
        lines, line = max(
            ((lines, line) for lines in (self._aside, self._lines) for line in lines),
            key=lambda each: len(each[0][each[1]]),
        )
        lost = lines[line].popleft() if lines is self._aside else lines[line].pop()
        self._leave(lines, line)
        return line, lost

    def _leave(self, lines: OrderedDict[str, deque[_Item]], line: str) -> None:
        self._count -= 1
        if not lines[line]:
            del lines[line]


def host_of(peer: str) -> str:
    """Its IP address, as gRPC writes a peer ("ipv4:1.2.3.4:567", "ipv6:%5B::1%5D:567"), without brackets and scope."""
    host = peer.partition(":")[2].rpartition(":")[0]
    return host.replace("%5B", "").replace("%5D", "").strip("[]").partition("%25")[0]


def address_of(peer: str) -> str:
    """The peer without its port; IPv6: its network."""
    kind = peer.partition(":")[0]
    if kind != "ipv6":
        return f"{kind}:{host_of(peer)}"
    try:
        address = int(ipaddress.IPv6Address(host_of(peer)))
    except ValueError:
        return peer
    return f"{kind}:{address >> (128 - NETWORK_BITS):x}"
