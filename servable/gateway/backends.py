"""Which versions are served, by which backend, and which of them is the default.

The supervisor tells (`set_ready`, `set_down`, `retire`, `set_default`), the gateway asks. No process is managed and
no socket opened here. Everything runs on the gateway's event loop.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np
import numpy.typing as npt

MAX_ANSWERED = 1024  # batches whose calls are kept in mind: of one device some seconds


@dataclass(frozen=True)
class Golden:
    """One image whose embedding under this version is known: what readiness compares with."""

    image: bytes  # an encoded file, as a caller would send it
    embedding: npt.NDArray[np.float32]  # [2048], unit norm
    # From its embedding to that of the image's negative: pictures lie as far apart as the weights put them.
    spread: float = 1.0

    def distance(self, row: npt.NDArray[np.float32]) -> float:
        """|row - embedding| as a share of the spread; infinite for another shape and for values that are not finite."""
        if row.shape != self.embedding.shape:
            return float("inf")
        distance = float(np.linalg.norm(row.astype(np.float64) - self.embedding)) / self.spread
        return distance if np.isfinite(distance) else float("inf")


@dataclass(frozen=True)
class BackendFacts:
    """One MindSpore Serving that serves one version; what the supervisor knows about it."""

    version: int
    fingerprint: str
    target: str  # gRPC target, "unix:/path"; a restarted backend may use the same one
    most_batches: int  # that it is given at one time
    max_batch: int
    embedding_dim: int
    weights: str  # "published", "custom" or "stand-in"
    preprocessing: str
    golden: Golden
    workers: int = 1  # that run the network
    # Whether a device runs the network since then (monotonic), or its worker ended in that. A picture is numbers of one
    # form by then, so that it is not to blame. Not known without a device.
    ran_since: Callable[[float], bool] = lambda at: False


class WrongEmbedding(Exception):
    """A backend answers, but not what the trained network would: it takes no traffic, and waiting does not help."""


class State(enum.Enum):
    DOWN = "down"  # no backend, or it ended
    PROBING = "probing"  # a backend listens; the golden picture has not come back right since
    SERVING = "serving"


class UnknownVersion(LookupError):
    """No such version is served."""


class Served:
    """One version: its latest backend, whether it may take calls, and the calls that hold it."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.backend: Optional[BackendFacts] = None
        self.state = State.DOWN
        self.reason = "starting"
        self.generation = 0  # counts `set_ready`: a call knows whether its backend is still the same
        self.restarts = 0
        self.missing_workers = 0  # of its backend: devices that were lost while others serve on
        self.retired = False
        self.ending = False  # its backend is being stopped in order: what fails now is nobody's fault
        self.calls = 0
        # Kept by the dispatcher. An image that was in a backend when it ended is a suspect; it is tried alone.
        self.alone = False  # a suspect is there alone, now
        self.images_in_it = False  # since it serves, images met an end or a fault of it, and were not answered
        self.suspect_images = {"cleared": 0, "failed": 0, "remembered": 0}
        self.deaths_with_suspects = 0
        self.answered: deque[tuple[float, list[str]]] = deque(maxlen=MAX_ANSWERED)  # batches: when (monotonic), whose
        self.listeners: list[Callable[[Served], None]] = []
        self._idle: Optional[asyncio.Future[None]] = None

    @property
    def serving(self) -> bool:
        return self.state is State.SERVING

    def move(self, state: State, reason: str) -> None:
        """Change the state and tell the listeners (dispatcher, readiness, metrics)."""
        self.state, self.reason = state, reason
        for listener in list(self.listeners):
            listener(self)

    def doubt(self, reason: str) -> None:
        """A call met a fault of the backend itself: hold calls until the golden picture passes again."""
        if self.state is State.SERVING:
            self.move(State.PROBING, reason)

    def __enter__(self) -> Served:
        self.calls += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self.calls -= 1
        if not self.calls and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def idle(self, grace_s: float) -> bool:
        """True when every call that holds this version ended within `grace_s`."""
        if not self.calls:
            return True
        self._idle = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._idle}, timeout=grace_s)
        return not self.calls


class Backends:
    """The registry. A call takes its version from here once and keeps it to its end."""

    def __init__(self, default_version: int) -> None:
        self._served: dict[int, Served] = {default_version: Served(default_version)}
        self._retiring: dict[int, Served] = {}  # calls hold it, and no new one gets it
        self._default = default_version
        self.on_added: Optional[Callable[[Served], None]] = None  # the gateway's hook
        self.on_default: Optional[Callable[[int], None]] = None

    @property
    def default_version(self) -> int:
        return self._default

    @property
    def default(self) -> Served:
        return self._served[self._default]

    def all(self) -> list[Served]:
        return [self._served[version] for version in sorted(self._served)]

    def resolve(self, version: int) -> Served:
        """The version asked for; 0 is the default. Raises UnknownVersion."""
        served = self._served.get(version or self._default)
        if served is None:
            raise UnknownVersion(version)
        return served

    def set_ready(self, backend: BackendFacts) -> None:
        """`backend` listens on its target. It takes calls as soon as its golden picture has come back right."""
        served = self._of(backend.version)
        if served is None:
            served = self._served[backend.version] = Served(backend.version)
            if self.on_added is not None:
                self.on_added(served)
        served.restarts += served.generation > 0
        served.generation += 1
        served.backend = backend
        served.move(State.PROBING, "golden picture not yet back")

    def set_down(self, backend: BackendFacts, reason: str) -> bool:
        """`backend` ended or must be replaced: calls in flight are retried on its successor, new ones wait or fail.

        True where images were in it, which may have ended it.
        """
        served = self._of(backend.version)
        if served is None or served.backend is not backend:
            return False
        first = served.state is not State.DOWN
        served.move(State.DOWN, reason)
        served.deaths_with_suspects += first and served.images_in_it
        return served.images_in_it

    def set_ending(self, version: int) -> None:
        """Its backend is about to be stopped in order."""
        served = self._of(version)
        if served is not None:
            served.ending = True

    def images_found_guilty(self, version: int) -> int:
        """How many images have been found to end the backends of `version`."""
        served = self._of(version)
        return 0 if served is None else served.suspect_images["failed"]

    def suspect_alone(self, version: int) -> bool:
        """Whether an image is in the backend of `version` alone because it may have ended the one before."""
        served = self._of(version)
        return served is not None and served.alone

    def answered_since(self, version: int, at: float) -> list[str]:
        """Request ids of the calls that got embeddings since then (monotonic), as far as they are kept."""
        served = self._of(version)
        answered = () if served is None else served.answered
        return sorted({one for when, ids in answered if when >= at for one in ids})

    def set_missing_workers(self, backend: BackendFacts, count: int) -> None:
        served = self._of(backend.version)
        if served is not None and served.backend is backend:
            served.missing_workers = count

    def set_default(self, version: int) -> None:
        """New calls without a version go to `version` from now on; calls in flight stay where they are.

        Raises UnknownVersion; RuntimeError when its golden picture has not passed: it must not take traffic.
        """
        served = self.resolve(version)
        if not served.serving:
            raise RuntimeError(f"version {version} is {served.state.value} ({served.reason}); not made the default")
        self._default = served.version
        if self.on_default is not None:
            self.on_default(served.version)

    async def wait_serving(self, version: int, timeout_s: float) -> bool:
        """True as soon as `version` takes calls; False when it did not within `timeout_s`. Raises UnknownVersion."""
        served = self.resolve(version)
        reached = asyncio.get_running_loop().create_future()

        def listener(changed: Served) -> None:
            if changed.serving and not reached.done():
                reached.set_result(None)

        served.listeners.append(listener)
        try:
            if not served.serving:
                await asyncio.wait({reached}, timeout=timeout_s)
            return served.serving or reached.done()  # the first image that it got may have ended it since
        finally:
            served.listeners.remove(listener)

    async def retire(self, backend: BackendFacts, grace_s: float) -> bool:
        """No new call for this version; wait for those in flight. True when none was left after `grace_s`.

        Raises ValueError for the default version: choose another default first.
        """
        if backend.version == self._default:
            raise ValueError(f"version {backend.version} is the default; choose another default first")
        served = self._served.pop(backend.version, None)
        if served is None:
            return True
        self._retiring[served.version] = served
        try:
            return await served.idle(grace_s)
        finally:
            del self._retiring[served.version]
            served.retired = True
            served.move(State.DOWN, "retired")

    def _of(self, version: int) -> Optional[Served]:
        return self._served.get(version) or self._retiring.get(version)
