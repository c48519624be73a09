"""/livez, /readyz and /metrics over HTTP/1.1, for probes and Prometheus. No secrets, no input but the path.

It runs on the gateway's own event loop on purpose: when that hangs, /livez does not answer either. A probe must be
answered whoever else is connected: the newcomer is served, and the oldest connection goes where they are too many.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from servable.gateway.limits.connections import WAITING

MAX_HEAD_BYTES = 16 * 1024
TOTAL_S = 5.0  # for a request to come and its answer to be taken
MAX_CONNECTIONS = 256
# Taken at one turn of the event loop. A request is answered some four turns after its connection was taken, so that
# MAX_CONNECTIONS newcomers cannot come in between.
TAKEN = 16
log = logging.getLogger(__name__)


class Page(NamedTuple):
    status: str  # "200 OK"
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Page]]


class HttpPages:
    """Answers GET and HEAD of the given paths; one request a connection."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._server: Optional[asyncio.AbstractServer] = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}  # the oldest first

    async def start(self, hosts: Sequence[str], port: int) -> int:
        """Listens; returns the port. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, hosts, port, limit=MAX_HEAD_BYTES, backlog=TAKEN)
        for listening in self._server.sockets:
            with listening.dup() as same:  # asyncio takes `backlog` for both
                same.listen(WAITING)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            waiting = list(self._connections)
            for connection in waiting:
                connection.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            self._connections.pop(oldest).transport.abort()  # what it has not read is lost with it
            oldest.cancel()
        self._connections[task] = writer
        try:
            await asyncio.wait_for(self._serve(reader, writer), TOTAL_S)
        except (asyncio.TimeoutError, asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            writer.transport.abort()  # gone, slow, or no HTTP
        finally:
            self._connections.pop(task, None)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        page, head_only = await self._answer(reader)
        head = (
            f"HTTP/1.1 {page.status}\r\nContent-Type: {page.content_type}\r\nContent-Length: {len(page.body)}\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        writer.transport.set_write_buffer_limits(high=0)  # `drain` waits until all of it is with the kernel
        writer.write(head.encode() + (b"" if head_only else page.body))
        await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Page, bool]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return Page("431 Request Header Fields Too Large", b"too large\n"), False
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return Page("400 Bad Request", b"not HTTP/1.1\n"), False
        method, path = words[0], words[1].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return Page("405 Method Not Allowed", b"GET and HEAD only\n"), False
        make = self._pages.get(path)
        if make is None:
            return Page("404 Not Found", f"known: {' '.join(sorted(self._pages))}\n".encode()), method == "HEAD"
        try:
            return make(), method == "HEAD"
        except Exception:
            log.exception("the page %s failed", path)
            return Page("500 Internal Server Error", b"the page failed; the log has the reason\n"), method == "HEAD"
