"""One connection to one MindSpore Serving: bytes out, bytes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Optional

import grpc

from metric_learn_client.wire import MAX_MESSAGE_BYTES, PREDICT_PATH
from servable.gateway.errors import CallError
from servable.gateway.http2.grpc_client import GrpcClient
from servable.gateway.http2.http2_stream import Buffer

RETRY_S = 0.1  # until a MindSpore Serving that starts listens


class BackendError(Exception):
    """The backend gave no reply."""


class Channel:
    """To `target`, "unix:/path". It is opened by the first call, and again by the next one where it has ended.

    Closing it ends every call on it.
    """

    def __init__(self, target: str) -> None:
        self._path = target.partition(":")[2]
        self._client: Optional[GrpcClient] = None
        self._opening = asyncio.Lock()
        self._closed = False

    async def predict(self, body: Sequence[Buffer], timeout_s: float) -> Buffer:
        """One Predict call; body: the message in pieces. Raises BackendError."""
        try:
            client = self._client
            if client is None or not client.takes_calls:
                client = await self._open()
            return await client.call(PREDICT_PATH, body, timeout_s)
        except CallError as error:
            raise BackendError(f"{error.status.name}: {error.message}") from error

    async def opened(self) -> None:
        """Returns when the far end takes connections, however long that is. Raises CallError once this is closed."""
        while True:
            try:
                await self._open()
                return
            except CallError:
                if self._closed:
                    raise
            await asyncio.sleep(RETRY_S)

    async def _open(self) -> GrpcClient:
        loop = asyncio.get_running_loop()
        async with self._opening:
            if self._client is None or not self._client.takes_calls:
                try:
                    _, self._client = await loop.create_unix_connection(
                        lambda: GrpcClient(loop, MAX_MESSAGE_BYTES), self._path
                    )
                except OSError as error:
                    raise CallError(grpc.StatusCode.UNAVAILABLE, f"{self._path}: {error}") from error
            if self._closed:
                self.close()
                raise CallError(grpc.StatusCode.CANCELLED, "the connection was closed")
            return self._client

    def close(self) -> None:
        self._closed = True
        if self._client is not None:
            self._client.end(grpc.StatusCode.CANCELLED, "the connection was closed")
