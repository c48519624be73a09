"""The API's port: uvicorn's HTTP/1.1 on the connections of a listener."""

from __future__ import annotations

import asyncio
import ssl
from typing import Callable, Optional

from uvicorn.config import Config

from servable.config.addresses import Address
from servable.gateway.http.application import Application
from servable.gateway.http.http_connection import Connection
from servable.gateway.listener import Listener

BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"


class HttpServer:
    """most, context: see Listener."""

    def __init__(
        self, application: Application, most: int, context: Optional[Callable[[], ssl.SSLContext]] = None
    ) -> None:
        self.application = application
        self._config = Config(
            application,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        self._config.load()
        self._listener = Listener(self._connection, most, context, BUSY)

    async def start(self, address: Address) -> int:
        """Listens; returns the port, 0 on a unix socket. Raises OSError."""
        return await self._listener.start(address)

    def finish(self) -> None:
        """Connections end with the answer that they get; those that wait end now."""
        for connection in list(self._listener.open):
            connection.finish()

    async def stop(self) -> None:
        """Ends everything; calls are cancelled."""
        tasks = [task for connection in self._listener.open for task in connection.tasks]
        await self._listener.stop()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connection(self, peer: str, key: str) -> Connection:
        listener = self._listener
        return Connection(self._config, asyncio.get_running_loop(), peer, key, listener.changed, listener.gone)
