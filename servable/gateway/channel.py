"""One connection to one MindSpore Serving: bytes out, bytes back."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from metric_learn_client.wire import MAX_MESSAGE_BYTES, PREDICT_PATH

_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A successor may listen on the same path: it must not inherit its predecessor's connection back-off.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


class BackendError(Exception):
    """The backend gave no reply."""


class Channel:
    """To `target`, "unix:/path". Closing it ends every call on it."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._closed = False
        self._predict = self._channel.unary_unary(PREDICT_PATH)  # no serializers: bytes both ways

    async def predict(self, body: bytes, timeout_s: float) -> bytes:
        """One Predict call. Raises BackendError."""
        try:
            reply: bytes = await self._predict(body, timeout=timeout_s)
            return reply
        except grpc.RpcError as error:
            raise BackendError(f"{error.code().name}: {error.details()}") from error
        except asyncio.CancelledError:
            if self._closed:  # how grpc.aio ends the calls of a closed channel
                raise BackendError("CANCELLED: the connection was closed") from None
            raise

    async def close(self) -> None:
        self._closed = True
        await self._channel.close()
