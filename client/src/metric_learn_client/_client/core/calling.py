"""One call, with everything that makes it end well: window, choice of target, retries, deadline. No I/O.

`call` yields steps (module `steps`) and returns what `read` made of the first reply that is good, or raises an error
of module `errors`. It holds a place in the window only while something is on the wire.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from dataclasses import dataclass, field
from typing import Callable, Generic, Optional, TypeVar, Union

from metric_learn_client import wire
from metric_learn_client._client.core import retry
from metric_learn_client._client.core.codec import parse
from metric_learn_client._client.core.identity import Guard, ModelInfo
from metric_learn_client._client.core.pool import Pool, names
from metric_learn_client._client.core.retry import Remedy
from metric_learn_client._client.core.steps import Failure, Reply, Resolve, Send, Sleep, Steps, WaitForTicket
from metric_learn_client._client.core.targets import Target, host_name_of
from metric_learn_client._client.core.window import CallWindow, Ticket
from metric_learn_client._client.token import TokenSource
from metric_learn_client.errors import (
    ClosedError,
    DeadlineError,
    EndpointError,
    ReplyError,
    from_status,
    is_handshake_failure,
)
from metric_learn_client.options import ClientOptions

PROBE_S = 1.0  # a target on trial has so long to answer a health check
_CLOCK_S = 0.02  # gRPC's timers and ours may differ so much about the end of a deadline
HEALTH_CHECK = wire.HealthCheckRequest(service=wire.HEALTH_SERVICE_PREDICT).SerializeToString()

Value = TypeVar("Value")


class TooLargeError(Exception):
    """The target takes no message of this size; the caller may send it in parts. Never leaves the client."""


@dataclass
class Deadline:
    """A point in time by which a call must have ended, and the budget it came from."""

    limit: float
    budget_s: float

    def left_s(self, now: float) -> float:
        return self.limit - now


class Core:
    """The state that all calls of one client share. Thread-safe. A forked child makes its own by `for_child`."""

    def __init__(self, options: ClientOptions, *, now: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.now = now
        self.dice = random.Random(os.urandom(8)).random
        self.window = CallWindow(options.max_in_flight)
        self.pool = Pool(options.endpoints, options.proxies)
        self.budget = retry.Budget(options.max_in_flight, now)
        self.guard = Guard(options.expected_fingerprint, allow_change=options.allow_fingerprint_change)
        self.token = TokenSource(options.token, options.token_file)
        self.model: Optional[ModelInfo] = None
        self.model_known = False  # asked, with or without an answer
        self.closed = False
        self._client_id = os.urandom(4).hex()
        self._count = itertools.count(1)

    def deadline(self, deadline_s: Optional[float]) -> Deadline:
        budget_s = self.options.deadline_s if deadline_s is None else deadline_s
        return Deadline(self.now() + budget_s, budget_s)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of a new call: its own request id, the same for every attempt, and the token as it is now."""
        request_id = (wire.METADATA_REQUEST_ID, f"{self._client_id}-{next(self._count)}")
        token = self.token.current()
        return (request_id,) if token is None else (request_id, (wire.METADATA_AUTHORIZATION, f"Bearer {token}"))

    def for_child(self) -> Core:
        """The same client in a forked child: own window and targets, the model it has already seen."""
        child = Core(self.options, now=self.now)
        child.guard, child.closed = self.guard.copy(), self.closed
        child.model, child.model_known = self.model, self.model_known
        return child


@dataclass
class _Call(Generic[Value]):
    """One call: what is sent, what makes of a reply the call's value, and how it went so far: who failed, how often all
    did, whose TLS was refused, and the last failure, which is what the caller is told."""

    path: str
    body: bytes
    metadata: tuple[tuple[str, str], ...]
    deadline: Deadline
    read: Callable[[Reply, Target], Union[Value, Failure]]
    images: int
    failed: set[Target] = field(default_factory=set)
    refused: set[Target] = field(default_factory=set)
    rounds: int = 0
    last: Optional[EndpointError] = None


def call(
    core: Core,
    path: str,
    body: bytes,
    deadline: Deadline,
    read: Callable[[Reply, Target], Union[Value, Failure]],
    images: int = 0,
) -> Steps[Value]:
    """Sends `body` until `read` accepts a reply. Raises EndpointError, ClosedError, TooLargeError, or as `read`."""
    current = _Call(path, body, core.metadata(), deadline, read, images)
    while True:
        yield from _resolve(core, deadline)
        ticket = yield from _enter(core, current)
        try:
            target, trial = core.pool.choose(core.now(), current.failed | current.refused)
            try:
                outcome = yield from _attempt(core, current, target, trial)
            finally:
                core.pool.release(target)
            if not isinstance(outcome, _Failed):
                core.window.answered()
                core.budget.answered()
                return outcome
            if outcome.remedy is Remedy.LATER:
                core.window.overloaded(ticket)
        finally:
            core.window.leave(ticket)
        pause = _after(core, current, target, outcome)
        if pause > 0:
            yield Sleep(pause)


@dataclass
class _Failed:
    remedy: Remedy
    failure: Failure


def _attempt(core: Core, current: _Call[Value], target: Target, trial: bool) -> Steps[Union[Value, _Failed]]:
    unfit = (yield from _try(core, current, target)) if trial else None
    if unfit is not None:
        core.pool.failed(target, core.now())
        return _Failed(Remedy.ELSEWHERE, unfit)
    started = core.now()
    other = core.pool.has_other(started, (target,))
    timeout_s = core.pool.attempt_s(current.deadline.left_s(started), current.images, other=other)
    answer = yield Send(target, current.path, current.body, max(0.0, timeout_s), current.metadata)
    value = current.read(answer, target) if isinstance(answer, Reply) else answer
    if not isinstance(value, Failure):
        core.pool.answered(target, core.now() - started, current.images)
        return value
    if core.closed:
        raise ClosedError("the client was closed during the call")
    remedy = retry.remedy_of(value.code, value.details, over=current.deadline.left_s(core.now()) < _CLOCK_S)
    if remedy is Remedy.ELSEWHERE:
        core.pool.failed(target, core.now())
    elif value.code != "DEADLINE_EXCEEDED":
        core.pool.answered(target)
    return _Failed(remedy, value)


def _try(core: Core, current: _Call[Value], target: Target) -> Steps[Optional[Failure]]:
    """Why a target on trial gets no call; None where it answers, with anything but "not serving": a server may have no
    health service."""
    timeout_s = max(0.0, min(PROBE_S, current.deadline.left_s(core.now())))
    answer: Union[Reply, Failure] = yield Send(
        target, wire.HEALTH_CHECK_PATH, HEALTH_CHECK, timeout_s, current.metadata
    )
    if isinstance(answer, Reply):
        lives = why_not_serving(answer.body) is None
    elif is_refusal(answer):
        return answer
    else:
        remedy = retry.remedy_of(answer.code, answer.details, over=False)
        lives = answer.code != "UNAVAILABLE" and remedy is not Remedy.ELSEWHERE
    return None if lives else Failure("UNAVAILABLE", "no answer to a health check", {})


def is_refusal(failure: Failure) -> bool:
    """Whether TLS was refused: by one target, as each has a certificate of its own."""
    return failure.code == "UNAVAILABLE" and is_handshake_failure(failure.details)


def why_not_serving(body: bytes) -> Optional[str]:
    """What the answer to a health check says; None for a server that is serving."""
    try:
        status: int = parse(wire.HealthCheckResponse, body).status
    except ReplyError as error:
        return str(error)
    return None if status == wire.ServingStatus.SERVING else "it says it is not serving yet"


def _after(core: Core, current: _Call[Value], target: Target, outcome: _Failed) -> float:
    """Seconds to wait before the next attempt. Raises where there is to be none."""
    failure = outcome.failure
    refusal = is_refusal(failure)
    if refusal:
        current.refused.add(target)
    absent = [each for each in core.pool.targets if each not in current.refused]
    where = names(absent or [target]) if failure.code == "UNAVAILABLE" and not refusal else str(target)
    error = from_status(failure.code, failure.details, where, current.deadline.budget_s)
    if outcome.remedy is Remedy.SMALLER and current.images:
        raise TooLargeError(failure.details) from error
    if outcome.remedy in (Remedy.SMALLER, Remedy.FATAL) or (refusal and not absent):
        raise error
    if not refusal or current.last is None:  # a target that is down may be back, and the call be good then
        current.last = error
    now = core.now()
    pause = core.budget.spend()
    if outcome.remedy is Remedy.ELSEWHERE:
        current.failed.add(target)
    if outcome.remedy is Remedy.LATER or not core.pool.has_other(now, current.failed | current.refused):
        current.rounds += 1
        current.failed.clear()
        if outcome.remedy is Remedy.ELSEWHERE and current.rounds > core.options.retries:
            raise current.last
        pause = max(pause, retry.pause_s(current.rounds, retry.hint_s(failure.trailing), core.dice))
    if pause >= current.deadline.left_s(now):
        raise current.last
    return pause


def _enter(core: Core, current: _Call[Value]) -> Steps[Ticket]:
    """A place in the window, within the deadline."""
    if core.closed:
        raise ClosedError("the client is closed")
    ticket, deadline = core.window.enter(), current.deadline
    if not ticket.granted:
        try:
            yield WaitForTicket(ticket, max(0.0, deadline.left_s(core.now())))
        except BaseException:
            core.window.leave(ticket)
            raise
    if not ticket.granted or core.closed or deadline.left_s(core.now()) <= 0:
        core.window.leave(ticket)
        if core.closed:
            raise ClosedError("the client is closed")
        raise current.last or no_place(core, deadline)
    return ticket


def no_place(core: Core, deadline: Deadline) -> DeadlineError:
    """The error of a call that other calls of the client kept waiting until its deadline."""
    return DeadlineError(
        f"deadline_s={deadline.budget_s:g} was over before one of max_in_flight={core.options.max_in_flight} calls"
        " to the server had ended",
        "DEADLINE_EXCEEDED",
    )


def _resolve(core: Core, deadline: Deadline) -> Steps[None]:
    endpoint = core.pool.unresolved(core.now())
    if endpoint is not None:
        name = host_name_of(endpoint)
        assert name is not None
        addresses = yield Resolve(*name, max(0.0, deadline.left_s(core.now())))
        core.pool.resolved(endpoint, addresses)
        if deadline.left_s(core.now()) <= 0:
            raise DeadlineError(
                f"deadline_s={deadline.budget_s:g} was over while the name {name[0]} was looked up: is the name server"
                " there?",
                "DEADLINE_EXCEEDED",
            )
