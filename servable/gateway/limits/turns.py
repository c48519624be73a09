"""Whose call is begun next. Pure: items of any kind, each from a connection.

A connection that has had an answer has a line of its own. All other connections of one address share a line, since a
stranger can open thousands of them and needs no answer. The lines take turns, so a known caller waits for one call of
each other line, however long those are.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from typing import Generic, Optional, TypeVar

MOST_KNOWN = 4096  # connections that are remembered, those of the latest answers
NETWORK_BITS = 64  # of IPv6: what one customer of a provider has at least (RFC 6177)
_Item = TypeVar("_Item")


class Turns(Generic[_Item]):
    """At most `most` items wait; beyond them the longest line loses its latest.

    Connections are named by their peer as gRPC writes it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: OrderedDict[str, deque[_Item]] = OrderedDict()  # whose turn is next stands first
        self._known: OrderedDict[str, None] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting(self, line: str) -> int:
        """How many wait there: a known connection, or the address of all others (`address_of`)."""
        return len(self._lines.get(line, ()))

    def answered(self, connection: str) -> None:
        """The connection has got an answer without an error."""
        self._known[connection] = None
        self._known.move_to_end(connection)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    def add(self, connection: str, item: _Item) -> Optional[_Item]:
        """Returns the one that loses its place, if one does; it may be this one."""
        line = connection if connection in self._known else address_of(connection)
        self._lines.setdefault(line, deque()).append(item)
        self._count += 1
        if self._count <= self._most:
            return None
        line = max(self._lines, key=lambda each: len(self._lines[each]))
        lost = self._lines[line].pop()
        self._leave(line)
        return lost

    def take(self) -> Optional[_Item]:
        """The next; None where none waits."""
        if not self._lines:
            return None
        line = next(iter(self._lines))
        item = self._lines[line].popleft()
        self._lines.move_to_end(line)
        self._leave(line)
        return item

    def _leave(self, line: str) -> None:
        self._count -= 1
        if not self._lines[line]:
            del self._lines[line]


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
