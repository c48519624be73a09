"""The public port's gRPC server: its options, and full path -> handler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import grpc
import grpc.aio

from servable.sections import LimitsSection

MAX_METADATA_BYTES = 16 * 1024


def make_server(handlers: Mapping[str, grpc.RpcMethodHandler], limits: LimitsSection) -> Any:
    """A grpc.aio.Server that is not started yet and has no port."""
    server = grpc.aio.server(
        options=(
            # Twice the limit: up to there a body is refused with a sentence of ours, beyond by gRPC itself.
            ("grpc.max_receive_message_length", 2 * limits.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a lottery
            # Clients may ping every 10 s also without calls; dead peers are noticed within a minute.
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        )
    )
    server.add_generic_rpc_handlers((_Handlers(handlers),))
    return server


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every path that is not in the table is UNIMPLEMENTED, reflection included."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Optional[grpc.RpcMethodHandler]:
        return self._handlers.get(handler_call_details.method)
