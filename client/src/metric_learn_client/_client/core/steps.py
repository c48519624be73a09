"""What a call of the client is made of: the steps that the core asks for, and what the shells answer.

The core (modules `calling` and `embedding`) is generators that yield these and get the answers sent in. A shell
performs them: `blocking_shell` by blocking, `asyncio_shell` with asyncio. So every policy is written once.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, Union

from metric_learn_client._client.core.targets import Target
from metric_learn_client._client.core.window import Ticket

Result = TypeVar("Result")


@dataclass(frozen=True)
class Send:
    """One unary call; answered with Reply or Failure."""

    target: Target
    path: str
    body: bytes
    timeout_s: float
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class WaitForTicket:
    """Until the window grants the ticket, at most so long; answered with None."""

    ticket: Ticket
    timeout_s: float


@dataclass(frozen=True)
class Sleep:
    """Answered with None."""

    seconds: float


@dataclass(frozen=True)
class Resolve:
    """Look up a host name; answered with its addresses, of one family, or with none, also where it takes longer."""

    host: str
    port: int
    timeout_s: float


Step = Union[Send, WaitForTicket, Sleep, Resolve]
Steps = Generator[Step, Any, Result]


@dataclass(frozen=True)
class Reply:
    body: bytes
    trailing: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """code: the gRPC status' name."""

    code: str
    details: str
    trailing: Mapping[str, str]
