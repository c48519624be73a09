"""What the two clients have in common: their options, their state, and its renewal in a forked child."""

from __future__ import annotations

import os
import weakref
from dataclasses import replace
from numbers import Integral
from typing import Any, Callable, Literal, NamedTuple, Optional, Union

from metric_learn_client import wire
from metric_learn_client._client import resizing
from metric_learn_client._client.core.batches import Batch
from metric_learn_client._client.core.calling import Core, Deadline
from metric_learn_client._client.core.identity import ModelLimits
from metric_learn_client.option_fields import check_option, docstring_of, taken
from metric_learn_client.options import ClientOptions, Endpoints, Path, TlsOptions


class SendPlan(NamedTuple):
    """How the images of a call are sent. prepare: what must happen to a batch before, if anything."""

    method: str
    prepare: Optional[Callable[[Batch], Batch]]
    batch_size: int
    limits: ModelLimits


class BaseClient:
    """Options and state of EmbeddingClient and AsyncEmbeddingClient."""

    _shell: Any

    def __init__(
        self,
        endpoints: Endpoints = ClientOptions.endpoints,
        *,
        deadline_s: float = ClientOptions.deadline_s,
        batch_size: int = ClientOptions.batch_size,
        max_in_flight: int = ClientOptions.max_in_flight,
        retries: int = ClientOptions.retries,
        tls: Union[bool, TlsOptions, None] = None,
        token: Optional[str] = None,
        token_file: Optional[Path] = None,
        allow_insecure_token: bool = False,
        expected_fingerprint: Optional[str] = None,
        allow_fingerprint_change: bool = False,
        resize: Optional[Literal["server-exact"]] = None,
        sandbox: bool = False,
    ) -> None:
        options = ClientOptions(**taken(locals(), ClientOptions))
        if options.resize is not None:
            resizing.check_possible(None, options.sandbox)
        self._core = Core(options)
        self._open()
        _clients.add(self)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints as given."""
        return tuple(self._core.options.endpoints)

    @property
    def max_in_flight_now(self) -> int:
        """Calls to the server that may be in flight at present: max_in_flight, or fewer after RESOURCE_EXHAUSTED."""
        return self._core.window.size

    def __repr__(self) -> str:
        options = self._core.options
        return f"{type(self).__name__}({','.join(options.endpoints)!r}, deadline_s={options.deadline_s:g})"

    def __getstate__(self) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be pickled: make one in each process")

    def _open(self) -> None:
        """Makes the shell that performs the core's steps; connections are opened when they are needed."""
        raise NotImplementedError

    def _deadline(self, deadline_s: Optional[float]) -> Deadline:
        if deadline_s is not None:
            check_option(ClientOptions, "deadline_s", deadline_s)
        return self._core.deadline(deadline_s)

    def _window(self, window: Optional[int]) -> int:
        """Images that embed_iter may have taken and not yet given back."""
        if window is None:
            return self._core.options.batch_size * (self._core.options.max_in_flight + 1)
        if not isinstance(window, Integral) or window < 1:
            raise ValueError(f"window={window!r} must be a whole number of at least 1")
        return window

    def _plan(self, limits: ModelLimits) -> SendPlan:
        """For images."""
        size, sandbox = self._core.options.batch_size, self._core.options.sandbox
        if self._core.options.resize is None:
            return SendPlan(wire.METHOD_EMBED, None, size, limits)
        resizing.check_possible(self._core.model, sandbox)
        size = min(size, resizing.max_count(limits))
        return SendPlan(
            wire.METHOD_EMBED_PIXELS, lambda batch: resizing.to_pixels(batch, limits, sandbox), size, limits
        )

    def _plan_of_pixels(self, limits: ModelLimits) -> SendPlan:
        """For pictures that are resized already: the limit of an encoded image is not theirs."""
        size, own = self._core.options.batch_size, replace(limits, max_image_bytes=limits.max_request_bytes)
        return SendPlan(wire.METHOD_EMBED_PIXELS, None, size, own)

    def _after_fork(self) -> None:
        """In the child: nothing of the parent's connections, threads and locks can be used."""
        _inherited.append(self._shell)
        self._core = self._core.for_child()
        self._open()


BaseClient.__init__.__doc__ = f"{docstring_of(ClientOptions)}\nRaises ValueError for an option that cannot be."

_inherited: list[Any] = []  # the parent's shells, kept: to end them here, even by collection, could hang
_clients: weakref.WeakSet[BaseClient] = weakref.WeakSet()


def _renew_all() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
