"""Images -> embeddings through the service. An outage is waited for; an image that always fails its call fails alone.

The service's failures are told apart by what else works. Nothing works: an outage, every sender waits, up to
`max_outage_s` since something last did. Other calls work and this one does not: one of its images is to blame, so the
call is halved until that image is alone, and fails.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

import numpy as np
import numpy.typing as npt

from metric_learn_client import wire
from metric_learn_client.errors import (
    AuthenticationError,
    EndpointError,
    IdentityError,
    OverloadedError,
    RejectedError,
    ReplyError,
    ServerError,
    UnreachableError,
)
from metric_learn_client.jobs.errors import OutageError, RefusedError, RowError, Stopped

Sendable = Union[bytes, npt.NDArray[np.uint8], RowError]

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_TRIES = 3  # of a call that fails while others work, or by the server's own fault
_INTERNAL = "E_INTERNAL"  # the service's fault, not the image's: worth another call
_INTERNAL_TRIES = 3
# RejectedError for these means, as AuthenticationError does, that no call of this job can succeed; for the others it
# can be one image's fault.
_HOPELESS = ("NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION")


class Sent(NamedTuple):
    """embeddings float32 [n, 2048]: of the rows in `succeeded`; failures: (row, code, message) of the others."""

    succeeded: npt.NDArray[np.int64]
    embeddings: npt.NDArray[np.float32]
    failures: list[tuple[int, str, str]]


class Patience:
    """What all senders of a worker know about the service: when a call last worked. Thread-safe. stop: ends the run."""

    def __init__(
        self,
        max_outage_s: float,
        stop: threading.Event,
        notify: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.successes = 0
        self.stop = stop
        self._max_outage_s = max_outage_s
        self._notify = notify
        self._clock = clock
        self._lock = threading.Lock()
        self._down_since: Optional[float] = None
        self._failures = 0
        self._told = False

    def worked(self) -> None:
        with self._lock:
            self.successes += 1
            if self._told:
                self._notify("the service answers again")
            self._down_since, self._failures, self._told = None, 0, False

    def wait(self, error: Exception) -> None:
        """Pauses after a failed call, longer after each. Raises OutageError after max_outage_s without a success,
        Stopped when the run ends."""
        with self._lock:
            now = self._clock()
            if self._down_since is None:
                self._down_since = now
            down_s = now - self._down_since
            if down_s >= self._max_outage_s:
                raise OutageError(
                    f"no call worked for {down_s:.0f} s (--max-outage-s {self._max_outage_s:g}): {error}",
                    getattr(error, "code", "UNAVAILABLE"),
                ) from error
            self._failures += 1
            if not self._told and down_s > 1.0:
                self._told = True
                self._notify(f"waiting up to {self._max_outage_s:g} s for the service: {error}")
            left_s = self._max_outage_s - down_s
            longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures, 10), left_s)
        if self.stop.wait(longest * (0.5 + random.random() / 2)):
            raise Stopped


class Sender:
    """Sends one batch at a time; many threads may. fingerprint: the job's; another one in a reply ends the job."""

    def __init__(self, client: Any, patience: Patience, fingerprint: str) -> None:
        self._client = client
        self._patience = patience
        self._stop = patience.stop
        self._fingerprint = fingerprint
        self._known_good: Optional[Any] = None  # an image that was embedded: sent again to see whether any can be

    def send(self, items: Sequence[Sendable]) -> Sent:
        """Every item ends in exactly one of `succeeded` and `failures`.

        Raises OutageError, RefusedError for another model, RejectedError for a job that the service will not serve,
        Stopped.
        """
        failures = [(row, item.code, item.message) for row, item in enumerate(items) if isinstance(item, RowError)]
        rows = [row for row, item in enumerate(items) if not isinstance(item, RowError)]
        embeddings = np.empty((len(items), wire.EMBEDDING_DIM), np.float32)
        self._send_rows(items, rows, embeddings, failures)
        failed = {row for row, _, _ in failures}
        succeeded = np.array([row for row in range(len(items)) if row not in failed], np.int64)
        return Sent(succeeded, embeddings[succeeded], sorted(failures))

    def _send_rows(
        self, items: Sequence[Any], rows: list[int], into: npt.NDArray[Any], failures: list[tuple[int, str, str]]
    ) -> None:
        todo = [rows] if rows else []
        internal: dict[int, int] = {}
        while todo:
            part = todo.pop()
            answer = self._call([items[row] for row in part])
            if isinstance(answer, Exception):
                if len(part) == 1:
                    code = "E_REJECTED" if isinstance(answer, RejectedError) else "E_CALL"
                    failures.append((part[0], code, getattr(answer, "details", "") or str(answer)))
                else:
                    middle = len(part) // 2
                    todo += [part[middle:], part[:middle]]
                continue
            into[part] = answer.embeddings
            for failure in answer.errors:
                row = part[failure.index]
                internal[row] = internal.get(row, 0) + 1
                if failure.code == _INTERNAL and internal[row] < _INTERNAL_TRIES:
                    todo.append([row])
                else:
                    failures.append((row, failure.code, failure.message))

    def _call(self, images: list[Any]) -> Any:
        """The result, or the error of a call that fails while others do not."""
        alone = beside_others = 0
        while True:
            if self._stop.is_set():
                raise Stopped
            before = self._patience.successes
            try:
                return self._checked(images)
            except RejectedError as error:
                # A certificate that is refused has no code of its own: gRPC calls it UNAVAILABLE.
                if isinstance(error, AuthenticationError) or error.code in _HOPELESS:
                    raise
                return error
            except (EndpointError, ReplyError) as error:
                if self._stop.is_set():
                    raise Stopped from None
                alone += 1
                if self._others_work(before, error):
                    beside_others += 1
                else:
                    self._patience.wait(error)
                # Halves show who is to blame. That alone fails no image: a single one needs others that work.
                halve = len(images) > 1 and alone >= _TRIES and isinstance(error, (ServerError, ReplyError))
                if halve or beside_others >= _TRIES:
                    return error

    def _others_work(self, before: int, error: Exception) -> bool:
        """Whether a call worked meanwhile, or, where none was made, one with an image that did before."""
        if self._patience.successes > before:
            return True
        if self._known_good is None or isinstance(error, (OverloadedError, UnreachableError)):
            return False
        try:
            self._checked([self._known_good])
        except (EndpointError, ReplyError):
            return False
        return True

    def _checked(self, images: list[Any]) -> Any:
        try:
            result = self._embed(images)
        except IdentityError as error:
            raise RefusedError(f"{error}; this job's model is {self._fingerprint}") from error
        if result.fingerprint != self._fingerprint:
            raise RefusedError(
                f"the service now answers with model {result.fingerprint}; this job's is {self._fingerprint}; "
                "embeddings of two models do not mix"
            )
        self._patience.worked()
        if self._known_good is None and not result.errors:
            self._known_good = images[0]
        return result

    def _embed(self, images: list[Any]) -> Any:
        if isinstance(images[0], bytes):
            return self._client.embed(images, on_error="return")
        return self._client.embed_pixels(np.stack(images), on_error="return")
