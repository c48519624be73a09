"""How a gRPC channel to a target is set up; the same for threads and asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Optional

from metric_learn_client import wire
from metric_learn_client._client.core.targets import Target
from metric_learn_client._client.fork_safe_grpc import grpc
from metric_learn_client.options import Path, TlsOptions

_HEAP_BLOCK_BYTES = 8 * 1024 * 1024  # two copies, ours and gRPC's, of a batch of 32 large photos' bytes


def channel_options(target: Target, tls: Optional[TlsOptions]) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", wire.MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", wire.MAX_MESSAGE_BYTES),
        # A client's connections are its own: none is shared with another channel, none survives in a forked child.
        ("grpc.use_local_subchannel_pool", 1),
        # The core spaces attempts itself; gRPC's default of up to two minutes would hide a server that is back.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5000),  # in fact the time allowed for connecting
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_http_proxy", int(target.proxy is not None)),  # gRPC alone would send 127.0.0.1 through it, too
        ("grpc.enable_retries", 0),  # the core's retries know the deadline, the budget and the other targets
    ]
    if target.authority is not None:
        options.append(("grpc.default_authority", target.authority))
    server_name = (tls.server_name if tls else None) or target.authority
    if tls is not None and server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


def keep_heap() -> None:
    """Lets the process keep the memory of the last messages for the next ones.

    glibc hands memory at the end of the heap back when more than a threshold is free, and takes it again page by page
    at three times the cost of all else that sending a batch costs. Freeing one block of this size raises the
    threshold to twice that (mallopt(3), M_MMAP_THRESHOLD). The block is never touched and costs no memory; other
    allocators ignore it.
    """
    bytes(_HEAP_BLOCK_BYTES)


def open_channel(api: Any, target: Target, tls: Optional[TlsOptions]) -> Any:
    """api: `grpc` or `grpc.aio`. Reads the PEM files. Raises OSError."""
    options = channel_options(target, tls)
    if tls is None:
        return api.insecure_channel(target.address, options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file), private_key=_read(tls.key_file), certificate_chain=_read(tls.cert_file)
    )
    return api.secure_channel(target.address, credentials, options)


def trailing_of(metadata: Any) -> Mapping[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _read(path: Optional[Path]) -> Optional[bytes]:
    return None if path is None else FilePath(path).read_bytes()
