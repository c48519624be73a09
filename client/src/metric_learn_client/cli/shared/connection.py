"""The options of every command that talks to an endpoint, and the client they make."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, TypeVar, Union

import click

from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client._client.token import TokenSource
from metric_learn_client.cli.shared.field_options import FILE, option_of
from metric_learn_client.options import ClientOptions, TlsOptions

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class PipedToken:
    """What a pipe gave. It gives it once, and a command may make several clients, in several processes."""

    token: str = field(repr=False)


class TokenFile(click.Path):
    """The type of --token-file: a path, or what was in the pipe of `--token-file <(...)`."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        path = os.fsdecode(super().convert(value, param, ctx))
        if os.path.isfile(path):
            return path
        try:
            return PipedToken(TokenSource(None, path).current() or "")
        except ValueError as error:
            raise click.UsageError(str(error)) from error


_OPTIONS = (
    option_of(ClientOptions, "endpoints", "--endpoint", envvar="METRIC_LEARN_ENDPOINT", show_envvar=True),
    option_of(ClientOptions, "deadline_s"),
    option_of(ClientOptions, "tls", is_flag=True, default=False),
    *(option_of(TlsOptions, name, type=FILE) for name in ("ca_file", "cert_file", "key_file")),
    option_of(TlsOptions, "server_name"),
    option_of(ClientOptions, "token_file", type=TokenFile()),
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
    token_file: Union[str, PipedToken, None] = None,
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
            token=token_file.token if isinstance(token_file, PipedToken) else None,
            token_file=None if isinstance(token_file, PipedToken) else token_file,
            allow_insecure_token=allow_insecure_token,
            expected_fingerprint=expected_fingerprint or None,
            **more,
        )
        client._core.token.current()  # a file that holds none is said now, and not in the middle of a call
        return client
    except (ValueError, ImportError, OSError) as error:
        raise click.UsageError(str(error)) from error
