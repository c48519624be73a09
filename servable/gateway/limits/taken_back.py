"""Which connections take back far more calls than they let end. Pure.

A call that is taken back at once costs as much as one that is refused, and its caller waits for nothing: a few thousand
a second take a core (HTTP/2 rapid reset, CVE-2023-44487). Callers who hedge, whose deadlines pass, or who stop with
hundreds of calls in flight take back calls too, so it needs many of them, and more than came to their end.
"""

from __future__ import annotations

from collections import OrderedDict

MOST = 64  # beyond those that may be in flight
REMEMBERED = 1024  # calls of a connection, beyond which what was counts half
MOST_KNOWN = 4096  # connections, those of the latest calls


class TakenBack:
    """streams: calls that a connection may have in flight. Only their beginning and a good end are seen, so those in
    flight count as taken back until they end, and so many are left out."""

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._counts: OrderedDict[str, list[int]] = OrderedDict()  # connection -> calls that came, that ended

    def came(self, connection: str) -> None:
        counts = self._counts.setdefault(connection, [0, 0])
        self._counts.move_to_end(connection)
        if len(self._counts) > MOST_KNOWN:
            self._counts.popitem(last=False)
        counts[0] += 1
        if counts[0] >= REMEMBERED + self._streams:
            counts[:] = counts[0] // 2, counts[1] // 2

    def ended(self, connection: str) -> None:
        """Its caller has the answer."""
        if connection in self._counts:
            self._counts[connection][1] += 1

    def too_many(self, connection: str) -> bool:
        came, ended = self._counts.get(connection, (0, 0))
        return came - ended - self._streams > max(MOST, ended)
