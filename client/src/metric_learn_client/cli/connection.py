"""The options of every command that talks to an endpoint, and the client they make."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

import click

from metric_learn_client.client import EmbeddingClient
from metric_learn_client.options import DEFAULT_DEADLINE_S, DEFAULT_ENDPOINT

Command = TypeVar("Command", bound=Callable[..., Any])


def endpoint_options(command: Command) -> Command:
    """Adds --endpoint and --deadline-s; pass what click hands over on to `open_client`."""
    options = (
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
    )
    for option in reversed(options):
        command = option(command)
    return command


def open_client(endpoint: str, deadline_s: float) -> EmbeddingClient:
    """The client that the options above describe."""
    return EmbeddingClient(endpoint, deadline_s=deadline_s)
