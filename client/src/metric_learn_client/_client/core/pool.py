"""Which target gets the next call: the least loaded of those that answer. Pure but for its lock; time is passed in.

A target that fails is left out for a while that doubles with every failure. When the while is over one caller at a
time may try it, with a health check first where there is another choice. With one target left nothing is left out.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Optional

from metric_learn_client._client.core.targets import Target, expand, host_name_of

_OUT_FIRST_S = 0.5
_OUT_MAX_S = 30.0
_RESOLVE_EVERY_S = 30.0  # gRPC's own DNS resolver asks at most that often, too
_ATTEMPT_MIN_S = 2.0  # no attempt is cut shorter than this in favour of another target
_ATTEMPT_LATENCIES = 8.0  # nor shorter than so many times what slow calls of late took, per call or per image


class _State:
    __slots__ = ("failures", "in_flight", "on_trial", "out_until")

    def __init__(self) -> None:
        self.in_flight = 0
        self.failures = 0
        self.out_until = 0.0
        self.on_trial = False


class Pool:
    def __init__(self, endpoints: Sequence[str], proxies: Mapping[str, str] = MappingProxyType({})) -> None:
        """proxies: of the endpoints that are reached through one, which looks their names up itself."""
        self._lock = threading.Lock()
        self._expanded = {endpoint: expand(endpoint, (), proxies.get(endpoint)) for endpoint in endpoints}
        self._named = [endpoint for endpoint in endpoints if host_name_of(endpoint) and endpoint not in proxies]
        self._resolved_at: dict[str, float] = {}
        self._states = {target: _State() for target in self.targets}
        self._turn = 0
        self._slow_s: Optional[float] = None  # a slow call of late
        self._slow_image_s = 0.0  # and per image of it

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(target for targets in self._expanded.values() for target in targets)

    def unresolved(self, now: float) -> Optional[str]:
        """An endpoint whose name should be looked up now; the caller that gets it is the one to do it."""
        if not self._named:
            return None
        with self._lock:
            for endpoint in self._named:
                if now - self._resolved_at.get(endpoint, -1e9) >= _RESOLVE_EVERY_S:
                    self._resolved_at[endpoint] = now
                    return endpoint
        return None

    def resolved(self, endpoint: str, addresses: Sequence[str]) -> None:
        """Takes the addresses found; none, a failed look-up, keeps those known."""
        if not addresses:
            return
        with self._lock:
            self._expanded[endpoint] = expand(endpoint, addresses)
            self._states = {target: self._states.get(target) or _State() for target in self.targets}

    def choose(self, now: float, avoid: Collection[Target]) -> tuple[Target, bool]:
        """(target, whether it is on trial and wants a health check first); the call must be concluded by `release`."""
        with self._lock:
            untried = [target for target in self.targets if target not in avoid] or list(self.targets)
            fit = [target for target in untried if self._is_fit(target, now)]
            if fit:
                self._turn += 1
                order = self._turn % len(fit)
                target = min(fit[order:] + fit[:order], key=lambda each: self._states[each].in_flight)
            else:
                target = min(untried, key=lambda each: (self._states[each].on_trial, self._states[each].out_until))
            state = self._states[target]
            state.in_flight += 1
            trial = state.failures > 0 and len(self._states) > 1
            state.on_trial = state.on_trial or trial
            return target, trial

    def has_other(self, now: float, avoid: Collection[Target]) -> bool:
        """Whether a target outside `avoid` is worth a call right now."""
        with self._lock:
            return any(self._is_fit(target, now) for target in self.targets if target not in avoid)

    def attempt_s(self, left_s: float, images: int, *, other: bool) -> float:
        """How long one attempt may take: all that is left, unless another target could take the call over."""
        if not other:
            return left_s
        slow_s = left_s / 3 / _ATTEMPT_LATENCIES if self._slow_s is None else self._slow_s
        return min(left_s, max(_ATTEMPT_MIN_S, _ATTEMPT_LATENCIES * max(slow_s, self._slow_image_s * images)))

    def release(self, target: Target) -> None:
        with self._lock:
            state = self._states.get(target)
            if state is not None:
                state.in_flight -= 1
                state.on_trial = False  # also where the caller was cancelled before the trial said anything

    def answered(self, target: Target, took_s: float = 0.0, images: int = 0) -> None:
        """The target lives. took_s: of a call that embedded so many images."""
        with self._lock:
            if images:
                self._slow_s = _slow(self._slow_s or 0.0, took_s)
                self._slow_image_s = _slow(self._slow_image_s, took_s / images)
            state = self._states.get(target)
            if state is not None:
                state.failures, state.out_until, state.on_trial = 0, 0.0, False

    def failed(self, target: Target, now: float) -> None:
        with self._lock:
            state = self._states.get(target)
            if state is None:
                return
            if now >= state.out_until:  # calls that were in flight together count as one failure
                state.failures += 1
                state.out_until = now + min(_OUT_MAX_S, _OUT_FIRST_S * 2 ** min(state.failures - 1, 10))
            state.on_trial = False

    def _is_fit(self, target: Target, now: float) -> bool:
        state = self._states[target]
        return not state.on_trial and now >= state.out_until


def _slow(slow_s: float, took_s: float) -> float:
    """A maximum that forgets: a twentieth of the way back with every quicker call."""
    return max(took_s, slow_s + 0.05 * (took_s - slow_s))


def names(targets: Iterable[Target]) -> str:
    return ", ".join(str(target) for target in targets)
