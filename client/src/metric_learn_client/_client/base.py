"""What the two clients have in common: their options, their state, and its renewal in a forked child."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import Any, Callable, Literal, Optional, Union

from metric_learn_client import wire
from metric_learn_client._client import resizing
from metric_learn_client._client.core.batches import Batch
from metric_learn_client._client.core.calling import Core, Deadline
from metric_learn_client._client.core.identity import ModelLimits
from metric_learn_client.options import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_DEADLINE_S,
    DEFAULT_ENDPOINT,
    DEFAULT_MAX_IN_FLIGHT,
    DEFAULT_RETRIES,
    Path,
    TlsOptions,
    check_deadline,
    client_options,
)


class BaseClient:
    """Options and state of EmbeddingClient and AsyncEmbeddingClient."""

    def __init__(
        self,
        endpoints: Union[str, Sequence[str]] = DEFAULT_ENDPOINT,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        batch_size: int = DEFAULT_BATCH_SIZE,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        retries: int = DEFAULT_RETRIES,
        tls: Union[bool, TlsOptions, None] = None,
        token: Optional[str] = None,
        token_file: Optional[Path] = None,
        allow_insecure_token: bool = False,
        expected_fingerprint: Optional[str] = None,
        allow_fingerprint_change: bool = False,
        resize: Optional[Literal["server-exact"]] = None,
        sandbox: bool = False,
    ) -> None:
        """endpoints: "host:port[,host:port...]", or a sequence; "unix:/path" too. Calls go to the least loaded one; one
            that fails is left out and taken back. A host name stands for all its addresses.
        deadline_s: seconds that a call may take as a whole, retries and waiting included. Always on.
        batch_size: images per call to the server; the server's own limits lower it.
        max_in_flight: calls to the server at once. Fewer while it says RESOURCE_EXHAUSTED.
        retries: rounds over all endpoints for a server that is not there, with pauses that double from 0.1 to 2 s. A
            busy server is asked again until the deadline.
        tls: True (the system's roots) or TlsOptions. None: plain text.
        token: bearer token; default the environment variable METRIC_LEARN_TOKEN.
        token_file: a file that holds the token, read again whenever it changes.
        allow_insecure_token: send a token in plain text to other machines, too; else it goes to this machine alone.
        expected_fingerprint: every reply must carry it. Without it the first reply's fingerprint is the expected one.
        allow_fingerprint_change: let the fingerprint change from call to call (never within one).
        resize: "server-exact" runs the servable's preprocessing here and sends 150 kB of pixels per image: the same
            embeddings for less traffic. Needs OpenCV (the extra [preprocess]).
        sandbox: with resize, decode in processes of their own, one a core, as the server does: a picture that crashes
            or hangs the decoder is that picture's error, not the end of this process. Linux.
        Raises ValueError for an option that cannot be.
        """
        options = client_options(
            endpoints,
            deadline_s=deadline_s,
            batch_size=batch_size,
            max_in_flight=max_in_flight,
            retries=retries,
            tls=tls,
            token=token,
            token_file=token_file,
            allow_insecure_token=allow_insecure_token,
            expected_fingerprint=expected_fingerprint,
            allow_fingerprint_change=allow_fingerprint_change,
            resize=resize,
            sandbox=sandbox,
        )
        if options.resize is not None:
            resizing.check_possible(None, options.sandbox)
        self._core = Core(options)
        self._open()
        _clients.add(self)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints as given."""
        return self._core.options.endpoints

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
            check_deadline(deadline_s)
        return self._core.deadline(deadline_s)

    def _window(self, window: Optional[int]) -> int:
        """Images that embed_iter may have taken and not yet given back."""
        if window is None:
            return self._core.options.batch_size * (self._core.options.max_in_flight + 1)
        if window < 1:
            raise ValueError(f"window={window!r} must be a whole number of at least 1")
        return window

    def _batch_size(self, limits: ModelLimits) -> int:
        size = self._core.options.batch_size
        return size if self._core.options.resize is None else min(size, resizing.max_count(limits))

    def _plan(self, limits: ModelLimits) -> tuple[str, Optional[Callable[[Batch], Batch]]]:
        """The method to call, and what must happen to a batch before, if anything."""
        if self._core.options.resize is None:
            return wire.METHOD_EMBED, None
        sandbox = self._core.options.sandbox
        resizing.check_possible(self._core.model, sandbox)
        return wire.METHOD_EMBED_PIXELS, lambda batch: resizing.to_pixels(batch, limits, sandbox)

    def _after_fork(self) -> None:
        """In the child: nothing of the parent's connections, threads and locks can be used."""
        self._core = self._core.for_child()
        self._open()


_clients: weakref.WeakSet[BaseClient] = weakref.WeakSet()


def _renew_all() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
