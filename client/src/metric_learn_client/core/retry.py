"""What may be tried again, when, and how often. Pure: the clock and the dice are passed in.

An embedding has no side effect, so every Predict is safe to repeat; what decides is whether it can help. It can where
the server was not there, was busy, or gave no answer; it cannot where the server said no, and it never does for an
image. Repetition must not make an outage worse, so it is spaced (exponential, with jitter, never below the server's
own hint) and rationed: a token bucket that answered calls fill, after Finagle's RetryBudget.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Mapping
from typing import Callable

from metric_learn_client import wire
from metric_learn_client.errors import is_handshake_failure

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0
BACKOFF_JITTER = 0.5  # a pause is 50 to 100 % of the nominal one
RETRIES_PER_ANSWER = 0.2  # answered calls pay for a fifth of a retry each
RETRIES_PER_S = 10.0  # and so many a second are free, so that a quiet client can retry at all
BUDGET_PER_CALL_IN_FLIGHT = 4  # the bucket holds a burst: every call in flight fails over, a few times

# Texts of a connection that broke under the call, where gRPC or its version gives another status than UNAVAILABLE.
_BROKEN_CONNECTION = ("Stream removed", "RST_STREAM", "Socket closed", "Connection reset", "Channel closed")
TOO_LARGE = "larger than max"  # gRPC: "Received message larger than max (104857601 vs. 104857600)"


class Verdict(enum.Enum):
    FATAL = "repeating cannot help"
    ELSEWHERE = "this target is not there: another one, or the same one later"
    LATER = "the server is there, and busy"
    SMALLER = "the message is larger than the server takes"


def verdict_of(code: str, details: str, *, cut_short: bool) -> Verdict:
    """cut_short: the call ended at an attempt's limit, before the caller's deadline."""
    if code == "RESOURCE_EXHAUSTED":
        return Verdict.SMALLER if TOO_LARGE in details else Verdict.LATER
    if code == "ABORTED":
        return Verdict.LATER
    if code == "UNAVAILABLE" and is_handshake_failure(details):
        return Verdict.FATAL
    if code == "UNAVAILABLE" or (code == "DEADLINE_EXCEEDED" and cut_short):
        return Verdict.ELSEWHERE
    if code in ("CANCELLED", "INTERNAL", "UNKNOWN") and any(text in details for text in _BROKEN_CONNECTION):
        return Verdict.ELSEWHERE
    return Verdict.FATAL


def hint_s(trailing: Mapping[str, str]) -> float:
    """The server's retry hint in seconds; 0 where it gave none that can be read."""
    text = trailing.get(wire.METADATA_RETRY_AFTER_MS, "")
    return int(text) / 1000 if text.isdigit() else 0.0


def pause_s(round_number: int, hint: float, dice: Callable[[], float]) -> float:
    """Seconds to wait before round 1, 2, ...; dice() is uniform in 0..1."""
    nominal: float = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(round_number - 1, 10))
    jittered = nominal * (1 - BACKOFF_JITTER * dice())
    return max(jittered, hint * (1 + BACKOFF_JITTER * dice()))


class Budget:
    """The ration of retries. Where it is used up a retry waits for it: load is bounded, and nothing is given up."""

    def __init__(self, max_in_flight: int, now: Callable[[], float]) -> None:
        self._capacity = max(10.0, float(BUDGET_PER_CALL_IN_FLIGHT * max_in_flight))
        self._tokens = self._capacity
        self._now = now
        self._at = now()
        self._lock = threading.Lock()

    def answered(self) -> None:
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + RETRIES_PER_ANSWER)

    def spend(self) -> float:
        """Takes one retry from the bucket. Returns the seconds to wait until it is there, mostly 0."""
        with self._lock:
            now = self._now()
            self._tokens = min(self._capacity, self._tokens + (now - self._at) * RETRIES_PER_S) - 1
            self._at = now
            return max(0.0, -self._tokens / RETRIES_PER_S)
