"""The options of every command that talks to an endpoint, and the client they make."""

from __future__ import annotations

from typing import Any, Callable, Optional, TypeVar

import click

from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client.cli.shared.field_options import FILE, option_of
from metric_learn_client.options import ClientOptions, TlsOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    option_of(ClientOptions, "endpoints", "--endpoint", envvar="METRIC_LEARN_ENDPOINT", show_envvar=True),
    option_of(ClientOptions, "deadline_s"),
    option_of(ClientOptions, "tls", is_flag=True, default=False),
    *(option_of(TlsOptions, name, type=FILE) for name in ("ca_file", "cert_file", "key_file")),
    option_of(TlsOptions, "server_name"),
    option_of(ClientOptions, "token_file", type=FILE),
    option_of(ClientOptions, "allow_insecure_token"),
    option_of(ClientOptions, "expected_fingerprint"),
)


def endpoint_options(command: Command) -> Command:
    """Adds the options above; pass what click hands over on to `open_client`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_client(
    endpoint: str,
    deadline_s: float,
    tls: bool = False,
    ca_file: Optional[str] = None,
    cert_file: Optional[str] = None,
    key_file: Optional[str] = None,
    server_name: Optional[str] = None,
    token_file: Optional[str] = None,
    allow_insecure_token: bool = False,
    expected_fingerprint: Optional[str] = None,
    **more: Any,
) -> EmbeddingClient:
    """The client that the options describe. more: further arguments of EmbeddingClient. Raises click.UsageError."""
    try:
        wants_tls = tls or ca_file or cert_file or key_file or server_name
        client = EmbeddingClient(
            endpoint,
            deadline_s=deadline_s,
            tls=TlsOptions(ca_file, cert_file, key_file, server_name) if wants_tls else None,
            token_file=token_file,
            allow_insecure_token=allow_insecure_token,
            expected_fingerprint=expected_fingerprint or None,
            **more,
        )
        client._core.token.current()  # a file that holds none is said now, and not in the middle of a call
        return client
    except (ValueError, ImportError, OSError) as error:
        raise click.UsageError(str(error)) from error
