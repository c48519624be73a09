"""The server process: one event loop with the gateway in front and the supervised MindSpore Servings behind."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from metric_learn_client import wire
from metric_learn_client.contract.exit_codes import ExitCode
from servable.backend.launcher import Launcher
from servable.backend.supervisor import StartFailed, Supervisor
from servable.backend.versions import Versions
from servable.config import ConfigError
from servable.config.sections import Config
from servable.doctor import Examined
from servable.doctor.consistency import inconsistencies
from servable.doctor.examine import default_version, open_configured
from servable.doctor.resources import memory_problems
from servable.exported_version import ExportedVersion
from servable.gateway import Backends, Gateway
from servable.host.control import ControlServer
from servable.host.memory import give_back_memory
from servable.host.own_process import say
from servable.host.service_manager import ServiceManager

T = TypeVar("T")
log = logging.getLogger(__name__)


class Server:
    """`run` once. `reread` gives the configuration anew, for SIGHUP."""

    def __init__(
        self, config: Config, examined: Examined, run_dir: Path, began: float, reread: Callable[[], Config]
    ) -> None:
        self._config = config
        self._examined = examined
        self._reread = reread
        self._fresh = dict(examined.versions)  # checked a moment ago; a later start checks again
        self._began = began
        self._signals: list[int] = []
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._manager = ServiceManager()
        self._launcher = Launcher(config, run_dir)
        self._registry = Backends(examined.default)
        self._versions = Versions(self._registry, self._open_version, self._supervisor, drain_s=config.server.drain_s)
        self._gateway = Gateway(
            config,
            self._registry,
            on_unhealthy=lambda served, reason: self._versions.unhealthy(served.version, reason),
            batch_runs=self._launcher.batch_runs,
            decoder_restarts=self._launcher.decoder_restarts,
            trial=self._launcher.image_trial,
        )
        self._control = ControlServer(run_dir, self._order)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changing = asyncio.Lock()  # one order or SIGHUP after the other

    async def run(self) -> int:
        """Serves until a signal or until MindSpore Serving cannot be kept running; returns the exit code.

        Raises servable.gateway.StartError, StartFailed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload()))
        beside = [asyncio.create_task(each) for each in (self._manager.watch(), give_back_memory())]
        try:
            gave_up = await self._serve()
        finally:
            await self._end()
            for task in beside:
                task.cancel()
        return ExitCode.NOT_REACHABLE if gave_up else self._signal_code()

    async def _serve(self) -> bool:
        """Until a signal (False) or until MindSpore Serving cannot be kept running (True)."""
        starting = asyncio.create_task(self._start())
        if await self._first(starting, self._stopping.wait()):
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return False
        await starting
        if not await self._first(self._versions.gave_up, self._stopping.wait()):
            log.error("giving up: %s; see %s", self._versions.gave_up.result(), self._launcher.log.path)
            return True
        await self._drain()
        return False

    async def _start(self) -> None:
        await self._gateway.start()
        await self._control.start()
        await self._versions.start(self._examined.versions)
        say(self._ready_line())
        self._tell_manager()

    def _tell_manager(self) -> None:
        self._manager.ready(f"serving version {self._registry.default_version} on {self._gateway.address}")

    def _ready_line(self) -> str:
        version = self._examined.versions[self._examined.default]
        return (
            f"ready: {self._gateway.address} serves {wire.SERVABLE_NAME} version {version.number} on "
            f"{self._config.backend.target} ({version.weights} weights, fingerprint {version.fingerprint[:16]}) "
            f"after {time.monotonic() - self._began:.1f} s{self._api_words()}"
        )

    def _api_words(self) -> str:
        address = self._gateway.api_address
        if not address:
            return ""
        scheme = "http" if self._config.security.tls_certificate is None else "https"
        return f"; HTTP: {address if address.startswith('unix:') else f'{scheme}://{address}'}"

    async def _drain(self) -> None:
        """Readiness first, then no new calls, then the end of those in flight; a second signal cuts it short."""
        self._manager.stopping()
        limit_s = self._config.server.drain_s + self._config.server.drain_notice_s
        log.info("stopping: calls in flight have up to %g s", limit_s)
        draining = asyncio.create_task(self._gateway.drain(limit_s))
        if await self._first(draining, self._forced.wait()):
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
            log.warning("stopping at once: a second signal came")
        elif not draining.result():
            log.warning("calls were still in flight after %g s", limit_s)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._control.stop()
        stopping = asyncio.create_task(self._versions.stop(at_once=self._forced.is_set()))
        if await self._first(stopping, self._forced.wait()):
            self._versions.kill()
            await stopping
        await self._gateway.stop()
        self._launcher.log.close()

    def _open_version(self, number: int) -> ExportedVersion:
        """Checked; runs in a thread."""
        version = self._fresh.pop(number, None)
        if version is None:
            version = open_configured(self._config, number)
            for problem in memory_problems(self._config, [version]):
                raise StartFailed(str(problem))  # the kernel would end one of the two, perhaps the one that serves
        return version

    def _supervisor(self, version: ExportedVersion) -> Supervisor:
        if version.exported_for != version.preprocessing:
            log.info(
                "version %d was exported for preprocessing %s and is served with %s, so under another fingerprint: %s",
                version.number,
                version.exported_for,
                version.preprocessing,
                version.fingerprint,
            )
        return Supervisor(
            version.number,
            lambda: self._launcher.launch(version, self._config.model),
            self._registry,
            self._config.supervision,
            start_timeout_s=self._config.backend.start_timeout_s,
            max_relative_distance=self._config.readiness.max_relative_distance,
            before_launch=self._launcher.look_for_devices,
        )

    def _signalled(self, number: int) -> None:
        self._signals.append(number)
        (self._forced if self._stopping.is_set() else self._stopping).set()

    def _signal_code(self) -> int:
        """0 after a SIGTERM that was obeyed in order, 130 after SIGINT, 128 + n where a second signal forced it."""
        first = self._signals[0]
        return 0 if first == signal.SIGTERM and not self._forced.is_set() else 128 + first

    async def _order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """What the control socket and SIGHUP ask for."""
        command = order.get("command")
        if command == "status":
            return {"exit_code": ExitCode.DONE, "message": "", "versions": self._versions.status()}
        if command != "switch-version" or not isinstance(order.get("version"), int):
            return {"exit_code": ExitCode.USAGE, "message": f"unknown order {dict(order)!r}"}
        return await self._spawn(self._switch_default(order["version"]))

    async def _switch_default(self, default: int) -> dict[str, Any]:
        async with self._changing:
            return await self._switch(default, keep=self._config.model.versions)

    async def _switch(self, default: int, versions: Sequence[int] = (), keep: Sequence[int] = ()) -> dict[str, Any]:
        self._manager.reloading()
        try:
            message = await self._versions.switch(default, versions, keep=keep)
            return {"exit_code": ExitCode.DONE, "message": message}
        except ConfigError as error:
            message, code = str(error), int(ExitCode.USAGE)
        except StartFailed as error:
            message, code = str(error), error.exit_code
        except Exception as error:
            log.exception("the switch to version %d failed", default)
            message, code = f"{type(error).__name__}: {error}", int(ExitCode.UNEXPECTED)
        finally:
            self._tell_manager()
        log.error("not switched to version %d: %s", default, message)
        return {"exit_code": code, "message": message}

    async def _reload(self) -> None:
        """SIGHUP: the configuration's versions. Everything else needs a new start, which is said."""
        async with self._changing:
            try:
                config = self._reread()
                problems = [str(problem) for problem in inconsistencies(config)]
                if problems:
                    raise ConfigError("\n".join(problems))
                default = default_version(config)
            except ConfigError as error:
                log.error("SIGHUP: nothing changed: %s", error)
                return
            before = self._config
            changed = [name for name in Config.model_fields if getattr(config, name) != getattr(before, name)]
            if set(changed) - {"model"}:
                log.warning("SIGHUP: sections %s take effect at the next start", ", ".join(set(changed) - {"model"}))
            self._config = before.model_copy(update={"model": config.model})
            if (await self._switch(default, config.model.versions))["exit_code"]:
                self._config = before

    def _spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ends before the children do: none of them may start one more."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _first(self, work: Any, signal_wait: Any) -> bool:
        """Waits for either; True where the signal came and the work is not done."""
        waiting = asyncio.create_task(signal_wait)
        try:
            await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return not work.done()
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


def serve(
    config: Config, examined: Examined, run_dir: Path, began: float, reread: Optional[Callable[[], Config]] = None
) -> int:
    """Runs the event loop of one server. began: time.monotonic() of the start, for the ready line."""

    async def run() -> int:
        return await Server(config, examined, run_dir, began, reread or (lambda: config)).run()

    return asyncio.run(run())
