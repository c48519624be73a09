"""The public port's gRPC server: its options, and full path -> handler."""

from __future__ import annotations

import resource
from collections.abc import Collection, Mapping
from typing import Any, Callable

import grpc
from grpc_reflection.v1alpha.reflection import enable_server_reflection  # type: ignore[import-untyped]

from metric_learn_client.wire.messages import POOL, service_names
from servable.config.sections import DeadlinesSection, LimitsSection
from servable.gateway.fair_server import FairServer

MAX_METADATA_BYTES = 16 * 1024
RESERVED_DESCRIPTORS = 256  # files, probes, the pipes and sockets to MindSpore Serving
HANDSHAKE_MS = 10_000  # TLS and HTTP/2's first frames; gRPC's own default is two minutes
# Calls that gRPC (1.83) has accepted and Python has not: beyond them it cancels any of them. With fair_server.py they
# are some hundreds at most, unless the event loop stands still.
MAX_PENDING = 4000
# A connection is asked to go after this time, and ended when its calls had theirs: gRPC has no other way to end a call
# whose reply the caller does not take. Clients open another one by themselves, and lose no call (gRFC A9).
AGE_MS = 300_000
TAKE_REPLY_MS = 30_000  # beyond deadlines.max_s, for a reply to be taken


def make_server(
    handlers: Mapping[str, grpc.RpcMethodHandler],
    unknown: grpc.RpcMethodHandler,
    limits: LimitsSection,
    deadlines: DeadlinesSection,
    *,
    most_connections: int,
    with_bodies: Callable[[], Collection[str]],
    reflection: bool = False,
) -> Any:
    """A grpc.aio.Server that is not started yet and has no port.

    unknown: answers every other path. with_bodies: see FairServer. reflection: the standard service that tells the
    messages, for tools.
    """
    server = FairServer(
        options=(
            # Twice the limit: up to there a body is refused with a sentence of ours, beyond by gRPC itself.
            ("grpc.max_receive_message_length", 2 * limits.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            # No compression, neither gzip nor deflate: gRPC unpacks a message before it looks at its length, a
            # megabyte becomes a gigabyte. Images are compressed already. The caller gets UNIMPLEMENTED, as gRPC says.
            ("grpc.compression_enabled_algorithms_bitset", 1 << grpc.Compression.NoCompression.value),
            ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
            ("grpc.max_allowed_incoming_connections", most_connections),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            ("grpc.max_connection_age_ms", AGE_MS),
            ("grpc.max_connection_age_grace_ms", int(1000 * deadlines.max_s) + TAKE_REPLY_MS),
            # Above the first gRPC may refuse a call, above the second it does.
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a lottery
            # Clients may ping as often as they like. gRPC 1.80 answers a ping with little memory, but each one beyond
            # the strikes that it allows with a GOAWAY that stays in memory, 4 KB each, while the caller goes on.
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", 30_000),  # dead peers are noticed within a minute
            ("grpc.keepalive_timeout_ms", 20_000),
        ),
        streams=limits.max_streams_per_connection,
        with_bodies=with_bodies,
    )
    if reflection:
        enable_server_reflection(service_names(), server, POOL)
    server.add_generic_rpc_handlers((_Handlers(handlers, unknown),))
    return server


def connections(wanted: int, ports: int) -> int:
    """How many connections each port may have beside everything else that needs a descriptor of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (soft - min(RESERVED_DESCRIPTORS, soft // 2)) // ports))


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler], unknown: grpc.RpcMethodHandler) -> None:
        self._handlers = handlers
        self._unknown = unknown

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler:
        return self._handlers.get(handler_call_details.method, self._unknown)
