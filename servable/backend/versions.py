"""The versions that are served together, and the move from one to another without a failed call.

A new version is started beside the old one, proves itself, takes the default, and only then the old one is drained
and ended. Whatever goes wrong before leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Collection, Iterable
from typing import Any, Callable, Optional

from servable.backend.supervisor import StartFailed, Supervisor
from servable.exported_version import ExportedVersion
from servable.gateway.backends import BackendFacts, Backends, UnknownVersion

log = logging.getLogger(__name__)


class Versions:
    """`open_version(number)` checks the exported version, in a thread, and raises ConfigError; `supervise` keeps it."""

    def __init__(
        self,
        registry: Backends,
        open_version: Callable[[int], ExportedVersion],
        supervise: Callable[[ExportedVersion], Supervisor],
        *,
        drain_s: float,
    ) -> None:
        self.gave_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._registry = registry
        self._open_version = open_version
        self._supervise = supervise
        self._drain_s = drain_s
        self._running: dict[int, Supervisor] = {}
        self._switching = asyncio.Lock()

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(sorted(self._running))

    @property
    def default(self) -> int:
        return self._registry.default_version

    async def start(self, versions: Collection[int]) -> None:
        """Starts all, the default among them. Raises servable.config.ConfigError, StartFailed."""
        async with self._switching:
            await self._add(versions)

    async def switch(self, default: int, versions: Collection[int] = (), *, keep: Collection[int] = ()) -> str:
        """From now on `versions` and `default` are served, `default` to callers that name none.

        One of them that was given up is started again. Those of `keep` that are there stay as they are.
        Returns what was done. Raises servable.config.ConfigError, StartFailed; then the versions that served do so.
        """
        async with self._switching:
            asked = {default, *versions}
            wanted = asked | (set(keep) & set(self._running))
            previous = self.default
            await self._remove(number for number in asked - {previous} if self._given_up(number))
            added = wanted - set(self._running)
            await self._add(added)
            try:
                if not await self._registry.wait_serving(default, self._drain_s):
                    raise StartFailed(f"version {default} does not serve at present")
                if default != previous:
                    self._registry.set_default(default)
            except (StartFailed, RuntimeError) as error:
                await self._remove(added)
                raise StartFailed(f"{error}; version {previous} stays the default") from error
            await self._remove(set(self._running) - wanted)
            text = f"version {default} is the default" + (f" instead of {previous}" if default != previous else "")
            text += f"; served: {', '.join(map(str, self.numbers))}"
            log.info(text)
            return text

    def unhealthy(self, version: int, reason: str) -> None:
        if version in self._running:
            self._running[version].unhealthy(reason)

    async def stop(self, *, at_once: bool = False) -> None:
        running = list(self._running.values())
        await asyncio.gather(*(supervisor.stop(at_once=at_once) for supervisor in running))
        self._running.clear()

    def kill(self) -> None:
        """Cuts a `stop` short."""
        for supervisor in self._running.values():
            supervisor.kill()

    def status(self) -> list[dict[str, Any]]:
        """One row for each version, for people and for `--status`."""
        rows = []
        for served in self._registry.all():
            supervisor: Optional[Supervisor] = self._running.get(served.version)
            rows.append(
                {
                    "version": served.version,
                    "default": served.version == self.default,
                    "state": served.state.value,
                    "reason": served.reason,
                    "process": supervisor.pid if supervisor else None,
                    "restarts": supervisor.restarts if supervisor else 0,
                }
            )
        return rows

    async def _add(self, numbers: Collection[int]) -> None:
        """All of them or none."""
        opened = [await asyncio.to_thread(self._open_version, number) for number in sorted(numbers)]
        added = {supervisor.version: supervisor for supervisor in map(self._supervise, opened)}
        self._running.update(added)  # before they serve: the gateway may report on them
        try:
            results = await asyncio.gather(*(s.start() for s in added.values()), return_exceptions=True)
        except BaseException:
            await self._remove(added)
            raise
        for result in results:
            if isinstance(result, BaseException):
                await self._remove(added)
                raise result
        for supervisor in added.values():
            supervisor.gave_up.add_done_callback(functools.partial(self._lost, supervisor))

    def _given_up(self, number: int) -> bool:
        return number in self._running and self._running[number].gave_up.done()

    async def _remove(self, numbers: Iterable[int]) -> None:
        for number in sorted(numbers):
            supervisor = self._running[number]  # kept there until it has ended: `stop` must find it
            backend = self._known_backend(number)
            taken_out = backend if number != self.default else None
            if taken_out is not None and not await self._registry.retire(taken_out, self._drain_s):
                log.warning("version %d: calls were still open after %g s", number, self._drain_s)
            await supervisor.stop()
            del self._running[number]

    def _known_backend(self, number: int) -> Optional[BackendFacts]:
        try:
            return self._registry.resolve(number).backend
        except UnknownVersion:
            return None

    def _lost(self, supervisor: Supervisor, gave_up: asyncio.Future[str]) -> None:
        if gave_up.cancelled():
            return
        reason = gave_up.result()
        log.error("version %d is given up: %s", supervisor.version, reason)
        if supervisor.version == self.default and not self.gave_up.done():
            self.gave_up.set_result(f"version {supervisor.version}: {reason}")
