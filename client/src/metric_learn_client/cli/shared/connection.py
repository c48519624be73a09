"""The options of every command that talks to an endpoint, and the client they make."""

from __future__ import annotations

from typing import Any, Callable, Optional, TypeVar

import click

from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client.options import DEFAULT_DEADLINE_S, DEFAULT_ENDPOINT, TOKEN_ENVIRONMENT, TlsOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False)
_OPTIONS = (
    click.option(
        "--endpoint",
        default=DEFAULT_ENDPOINT,
        envvar="METRIC_LEARN_ENDPOINT",
        show_default=True,
        show_envvar=True,
        help="host:port[,host:port...]",
    ),
    click.option(
        "--deadline-s",
        type=click.FloatRange(0, min_open=True),
        default=DEFAULT_DEADLINE_S,
        show_default=True,
        help="budget of one call to the endpoint, retries included",
    ),
    click.option("--tls", is_flag=True, help="TLS with the system's certificate authorities"),
    click.option("--ca-file", type=_FILE, help="PEM: TLS with this certificate authority"),
    click.option("--cert-file", type=_FILE, help="PEM: this client's certificate, for mutual TLS"),
    click.option("--key-file", type=_FILE, help="PEM: the key of --cert-file"),
    click.option("--server-name", help="name in the server's certificate, where it is not the endpoint's host"),
    click.option("--token-file", type=_FILE, help=f"file with the bearer token (or set {TOKEN_ENVIRONMENT})"),
    click.option("--allow-insecure-token", is_flag=True, help="send the token without TLS to another machine"),
    click.option("--expected-fingerprint", help="refuse embeddings of any other model"),
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
