"""What may be tried again, when, and how often. Pure: the clock and the dice are passed in.

An embedding has no side effect, so every Predict is safe to repeat; what decides is whether it can help. It can where
the server was not there, was busy, or gave no answer; it cannot where the server said no, and it never does for an
image. Repetition must not make an outage worse, so it is spaced (exponential, with jitter, never below the server's
own hint) and rationed: a token bucket that answered calls fill, after Finagle's RetryBudget.
"""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Mapping
from typing import Callable

from metric_learn_client import wire
from metric_learn_client.errors import (
    BY_STATUS,
    DeadlineError,
    EndpointError,
    OverloadedError,
    UnreachableError,
)

_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 2.0
_BACKOFF_JITTER = 0.5  # a pause is 50 to 100 % of the nominal one
_RETRIES_PER_ANSWER = 0.2  # answered calls pay for a fifth of a retry each
_RETRIES_PER_S = 10.0  # and so many a second are free, so that a quiet client can retry at all
_BUDGET_PER_CALL_IN_FLIGHT = 4  # the bucket holds a burst: every call in flight fails over, a few times

TOO_LARGE = "larger than max"  # gRPC: "Received message larger than max (104857601 vs. 104857600)"
# Texts with which gRPC (1.49 to 1.85) reports a stream that ended without a status, under several codes: RST_STREAM,
# a connection closed or reset, a reply without trailers.
_BROKEN_STREAM = (
    "Stream removed",
    "RST_STREAM",
    "Socket closed",
    "Connection reset",
    "Channel closed",
    "No status received",
)
_HTTP_STATUS = re.compile(r"http2 header with status: (\d{3})")  # an answer in place of a reply: a proxy's page


class Remedy(enum.Enum):
    FATAL = "repeating cannot help"
    ELSEWHERE = "this target is not there: another one, or the same one later"
    LATER = "the server is there, and busy"
    SMALLER = "the message is larger than the server takes"


# A status is caused by the server's program, by gRPC in this process or the server's, which translates what HTTP/2 did
# (RST_STREAM 7 is UNAVAILABLE, 8 CANCELLED, 11 RESOURCE_EXHAUSTED, 12 PERMISSION_DENIED, most others INTERNAL), or by a
# proxy. What this caller does itself never comes here as a status: its cancellation, close() and task are exceptions of
# the shells. Errors of all other kinds are the program's judgement of the request: it will judge so again.
_BY_ERROR = {UnreachableError: Remedy.ELSEWHERE, DeadlineError: Remedy.ELSEWHERE, OverloadedError: Remedy.LATER}
_BY_HTTP_STATUS = {
    "408": Remedy.ELSEWHERE,  # the proxy did not wait for the request's end
    "413": Remedy.SMALLER,  # nginx, client_max_body_size
    "429": Remedy.LATER,
    **dict.fromkeys(("500", "502", "503", "504"), Remedy.ELSEWHERE),  # what is behind the proxy is not there
}


def remedy_of(code: str, details: str, *, over: bool) -> Remedy:
    """What a failed attempt means. details: gRPC's or the server's text; over: the caller's deadline has passed."""
    status = _HTTP_STATUS.search(details)
    if status is not None and status[1] in _BY_HTTP_STATUS:
        return _BY_HTTP_STATUS[status[1]]
    if code == "RESOURCE_EXHAUSTED" and TOO_LARGE in details:
        return Remedy.SMALLER
    if code == "DEADLINE_EXCEEDED" and over:
        return Remedy.FATAL
    if code in ("INTERNAL", "UNKNOWN") and any(text in details for text in _BROKEN_STREAM):
        return Remedy.ELSEWHERE
    if code == "ABORTED":  # by it a program asks for the call to be repeated
        return Remedy.LATER
    return _BY_ERROR.get(BY_STATUS.get(code, EndpointError), Remedy.FATAL)


def hint_s(trailing: Mapping[str, str]) -> float:
    """The server's retry hint in seconds; 0 where it gave none that can be read."""
    text = trailing.get(wire.METADATA_RETRY_AFTER_MS, "")
    return int(text) / 1000 if text.isdigit() else 0.0


def pause_s(round_number: int, hint: float, dice: Callable[[], float]) -> float:
    """Seconds to wait before round 1, 2, ...; dice() is uniform in 0..1."""
    nominal: float = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** min(round_number - 1, 10))
    jittered = nominal * (1 - _BACKOFF_JITTER * dice())
    return max(jittered, hint * (1 + _BACKOFF_JITTER * dice()))


class Budget:
    """The ration of retries. Where it is used up a retry waits for it: load is bounded, and nothing is given up."""

    def __init__(self, max_in_flight: int, now: Callable[[], float]) -> None:
        self._capacity = max(10.0, float(_BUDGET_PER_CALL_IN_FLIGHT * max_in_flight))
        self._tokens = self._capacity
        self._now = now
        self._at = now()
        self._lock = threading.Lock()

    def answered(self) -> None:
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + _RETRIES_PER_ANSWER)

    def spend(self) -> float:
        """Takes one retry from the bucket. Returns the seconds to wait until it is there, mostly 0."""
        with self._lock:
            now = self._now()
            self._tokens = min(self._capacity, self._tokens + (now - self._at) * _RETRIES_PER_S) - 1
            self._at = now
            return max(0.0, -self._tokens / _RETRIES_PER_S)
