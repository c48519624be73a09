"""The way to one MindSpore Serving: bytes out, bytes back. Connects when it is first used, and again when it must."""

from __future__ import annotations

import asyncio
from typing import Optional

from metric_learn_client.wire import PREDICT_PATH
from servable.gateway.backend_connection import BackendConnection, CallFailed


class BackendError(Exception):
    """The backend gave no reply."""


class Channel:
    """To `target`, "unix:/path". Closing it ends every call on it."""

    def __init__(self, target: str) -> None:
        self._path = target.removeprefix("unix:")
        self._connecting = asyncio.Lock()
        self._connection: Optional[BackendConnection] = None
        self._closed = False

    async def predict(self, body: bytes, timeout_s: float) -> bytes:
        """One Predict call. Raises BackendError."""
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._connect()
        try:
            return await connection.call(body, timeout_s)
        except CallFailed as error:
            raise BackendError(str(error)) from error

    async def _connect(self) -> BackendConnection:
        async with self._connecting:
            if self._connection is None or not self._connection.usable:
                loop = asyncio.get_running_loop()
                try:
                    _, connection = await loop.create_unix_connection(
                        lambda: BackendConnection(PREDICT_PATH), self._path
                    )
                except OSError as error:
                    raise BackendError(f"UNAVAILABLE: cannot connect: {error}") from error
                self._connection = connection
            if self._closed:
                self._connection.end("the connection was closed")
                raise BackendError("UNAVAILABLE: the connection was closed")
            return self._connection

    async def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.end("the connection was closed")
