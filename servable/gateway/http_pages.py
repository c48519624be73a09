"""/livez, /readyz and /metrics over HTTP/1.1, for probes and Prometheus. No secrets, no input but the path.

It runs on the gateway's own event loop on purpose: when that hangs, /livez does not answer either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple, Optional

MAX_HEAD_BYTES = 16 * 1024
READ_S = 5.0
MAX_CONNECTIONS = 64


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
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, hosts: Sequence[str], port: int) -> int:
        """Listens; returns the port. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, hosts, port, limit=MAX_HEAD_BYTES)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                return
            page, head_only = await asyncio.wait_for(self._answer(reader), READ_S)
            head = (
                f"HTTP/1.1 {page.status}\r\nContent-Type: {page.content_type}\r\nContent-Length: {len(page.body)}\r\n"
                "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + (b"" if head_only else page.body))
            await asyncio.wait_for(writer.drain(), READ_S)
        except (asyncio.TimeoutError, asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            pass  # a prober that is gone or does not speak HTTP
        finally:
            self._connections.discard(task)
            writer.close()

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
        return make(), method == "HEAD"
