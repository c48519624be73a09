"""Keeps one version's MindSpore Serving running: starts it, watches it, replaces it, and gives up in the end.

MindSpore Serving 2.0.2 ends with code 0 when its last worker is lost, never restarts a worker that fails before its
first success, and never notices one that hangs. So any end is a failure here; a child without workers is replaced;
and the gateway reports the golden picture that stays away.

An end with callers' images in it may be the work of one of them, which the gateway finds out. It does not count towards
giving up, or else a stranger could end the service by sending pictures; the child had served before it and is
replaced at once. Where a device's worker ended in a run of the network, the end counts until an image is found guilty
of it: the stages may have been at work on one at the same time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import Callable, Optional

from metric_learn_client.contract.exit_codes import ExitCode
from servable.backend.launcher import Child
from servable.backend.warm_up import Unanswered
from servable.config.sections import SupervisionSection
from servable.engine.device_watch import WRONG_EMBEDDING
from servable.gateway.backends import BackendFacts, Backends, WrongEmbedding

POLL_S = 0.1
# Ends with images in them: the first so many in a row are followed by a start at once. A picture costs one or two (one
# among others, one alone). Beyond that starts have pauses between them, so that the host is left time for other work.
FREE_ENDS_WITH_IMAGES = 20
PAUSE_MAX_S = 5.0
PROGRESS_S = 1.0
LAST_WORDS_S = 2.0
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}  # of the host or this process: they pass
log = logging.getLogger(__name__)


class StartFailed(Exception):
    """It did not come to serve. exit_code: 5 for wrong embeddings, else 4. passing: nothing is wrong with it."""

    def __init__(self, reason: str, exit_code: int = ExitCode.NOT_REACHABLE, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.passing = passing


class Supervisor:
    """One version. `start` once, then it keeps itself until `stop`; `gave_up` tells why it ended on its own."""

    def __init__(
        self,
        version: int,
        launch: Callable[[], Child],
        registry: Backends,
        settings: SupervisionSection,
        *,
        start_timeout_s: float,
        max_relative_distance: float,
        before_launch: Callable[[], None] = lambda: None,
    ) -> None:
        """before_launch: may block; `launch` may not."""
        self.version = version
        self.restarts = 0
        self.gave_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._launch = launch
        self._before_launch = before_launch
        self._registry = registry
        self._settings = settings
        self._start_timeout_s = start_timeout_s
        self._max_relative_distance = max_relative_distance
        self._child: Optional[Child] = None
        self._progress = ""  # of the start under way, in words
        self._served: Optional[BackendFacts] = None  # the last that served
        self._ending: Optional[Child] = None
        self._unhealthy: Optional[asyncio.Future[str]] = None
        self._keeper: Optional[asyncio.Task[None]] = None

    @property
    def pid(self) -> Optional[int]:
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Returns when the version serves. Raises StartFailed: a first start is not tried again."""
        await self._bring_up()
        self._keeper = asyncio.create_task(self._keep(), name=f"supervisor-{self.version}")

    def unhealthy(self, reason: str) -> None:
        """The gateway's golden picture failed too often: replace the child."""
        if self._unhealthy is not None and not self._unhealthy.done():
            self._unhealthy.set_result(reason)

    async def stop(self, *, at_once: bool = False) -> None:
        self._registry.set_ending(self.version)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        await self._end(at_once=at_once)

    def kill(self) -> None:
        """Cuts a `stop` short that waits for its child."""
        if self._ending is not None:
            self._ending.kill()

    async def _bring_up(self) -> None:
        """One attempt. On failure nothing of the child is left."""
        began = time.monotonic()
        self._unhealthy = asyncio.get_running_loop().create_future()
        try:
            await asyncio.to_thread(self._before_launch)
            self._child = child = self._launch()
        except (OSError, RuntimeError) as error:  # RuntimeError: Python can start no thread
            passing = isinstance(error, RuntimeError) or error.errno in OUT_OF_RESOURCES
            raise StartFailed(f"MindSpore Serving cannot be started: {error}", passing=passing) from error
        try:
            await self._until_serving(child)
        except BaseException as error:
            if isinstance(error, StartFailed):
                self._registry.set_down(child.facts, str(error))
            await self._end(at_once=True)
            raise
        log.info("version %d serves after %.1f s, process %d", self.version, time.monotonic() - began, child.pid)

    async def _until_serving(self, child: Child) -> None:
        arrival = asyncio.create_task(self._arrive(child))
        hung: list[str] = []
        end = asyncio.create_task(self._ended(child, hung))
        reporting = asyncio.create_task(self._report(child))
        assert self._unhealthy is not None
        try:
            await asyncio.wait(
                (arrival, end, self._unhealthy),
                timeout=self._start_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if arrival.done() and arrival.exception() is None:
                return
            if arrival.done() and isinstance(arrival.exception(), Unanswered):
                await asyncio.wait({end}, timeout=LAST_WORDS_S)  # it may be at its end, and its log knows why
            if end.done() or child.poll() is not None:
                why = await asyncio.to_thread(child.why)
                raise StartFailed(
                    f"MindSpore Serving ended with exit code {child.poll()} before version {self.version} served"
                    + (f": {why}" if why else ""),
                    exit_code=start_code(why),
                )
            if arrival.done():
                error = arrival.exception()
                said = str(error)
                code: int = ExitCode.GATE_FAILED if isinstance(error, WrongEmbedding) else ExitCode.NOT_REACHABLE
                if isinstance(error, Unanswered):
                    # Without its only worker MindSpore Serving says that there is no servable, and may end much later.
                    why = await asyncio.to_thread(child.why)
                    code = start_code(why)
                    said = "; ".join(hung) or (why if code == ExitCode.GATE_FAILED else said)
                raise StartFailed(f"version {self.version} does not serve: {said}", code) from error
            if self._unhealthy.done():
                raise StartFailed(f"version {self.version} does not serve: {self._unhealthy.result()}")
            raise StartFailed(
                f"version {self.version} does not serve after backend.start_timeout_s = {self._start_timeout_s:g}"
                + (f", and was last seen {self._progress}" if self._progress else "")
            )
        finally:
            for task in (arrival, end, reporting):
                task.cancel()
            await asyncio.gather(arrival, end, reporting, return_exceptions=True)

    async def _arrive(self, child: Child) -> None:
        await child.prove(self._max_relative_distance)
        self._registry.set_ready(child.facts)
        if not await self._registry.wait_serving(self.version, self._start_timeout_s):
            raise Unanswered("the gateway's golden picture did not come back right")
        self._served = child.facts

    async def _report(self, child: Child) -> None:
        """A start that compiles takes minutes: the log says how far it is, and after a fault the readiness page too."""
        self._progress = ""
        while True:
            await asyncio.sleep(PROGRESS_S)
            progress = await asyncio.to_thread(child.progress)
            if progress and progress != self._progress:
                self._progress = progress
                log.info("version %d: %s", self.version, progress)
                if self._served is not None:
                    self._registry.set_down(self._served, f"MindSpore Serving is started again: {progress}")

    async def _keep(self) -> None:
        try:
            reason = await self._keep_until_given_up()
        except Exception as error:
            log.exception("version %d: supervision failed", self.version)
            reason = f"supervision failed: {error}"
        if not self.gave_up.done():
            self.gave_up.set_result(reason)

    async def _keep_until_given_up(self) -> str:
        failures = with_images = 0
        guilty: Optional[int] = None  # images by then, where the last end was put down to the device
        while True:
            assert self._child is not None
            served_since = time.monotonic()
            reason = await self._watch(self._child)
            in_network = self._child.facts.ran_since(served_since)
            had_images = self._registry.set_down(self._child.facts, reason)
            await self._end(at_once=True)
            if guilty is not None and self._registry.images_found_guilty(self.version) > guilty:
                failures -= 1  # it was an image's doing after all
            guilty = self._registry.images_found_guilty(self.version) if had_images and in_network else None
            if time.monotonic() - served_since >= self._settings.stable_s:
                failures = with_images = 0
            if had_images and not in_network:
                with_images += 1
                log.warning("version %d: %s, with images in it (%d in a row)", self.version, reason, with_images)
                failed = await self._again(pause_s(with_images, self._settings))
            else:
                failed = StartFailed(reason)
            while failed is not None:
                reason = str(failed)
                failures = min(failures + 1, self._settings.max_failures) if failed.passing else failures + 1
                log.warning("version %d: %s (%d of %d)", self.version, reason, failures, self._settings.max_failures)
                if failures > self._settings.max_failures:
                    return reason
                failed = await self._again(backoff_s(failures, self._settings))

    async def _again(self, wait_s: float) -> Optional[StartFailed]:
        """Starts the child once more; returns why it does not serve, None when it does."""
        await asyncio.sleep(wait_s)
        self.restarts += 1
        try:
            await self._bring_up()
        except StartFailed as error:
            return error
        return None

    async def _watch(self, child: Child) -> str:
        """Returns why the child must be replaced."""
        missing_since: Optional[float] = None
        ended_before = child.workers_ended()
        ended: list[float] = []  # when others did
        said = False
        assert self._unhealthy is not None
        while not self._unhealthy.done():
            await asyncio.wait({self._unhealthy}, timeout=POLL_S)
            code = child.poll()
            if code is not None:
                return f"MindSpore Serving ended with exit code {code}"
            alive = child.workers_alive()
            self._look_at_devices(child)  # after that: who was taken out may have gone with its device
            self._registry.set_missing_workers(child.facts, max(0, child.expected_workers - alive))
            if not alive:
                return "MindSpore Serving lost its worker" + ("s" if child.expected_workers > 1 else "")
            lost = child.workers_ended() - ended_before - len(ended)
            del ended[len(ended) + min(0, lost) :]  # that a device was taken out may be known a turn later
            ended += [time.monotonic()] * lost
            if lost > 0 and child.expected_workers == 1:  # MindSpore Serving had begun another one before this look
                return "MindSpore Serving lost its worker"
            # MindSpore Serving gives a lost worker's images to the others, one after the other: not a third time.
            if lost > 0 and self._registry.suspect_alone(self.version):
                return "MindSpore Serving lost a worker with a suspect in it"
            if len(ended) > 1 and time.monotonic() - ended[-2] < self._settings.worker_lost_s:
                return f"MindSpore Serving lost 2 workers within {self._settings.worker_lost_s:g} s"
            if alive >= child.expected_workers:
                missing_since, said = None, False
                continue
            missing_since = missing_since or time.monotonic()
            if time.monotonic() - missing_since > self._settings.worker_lost_s:
                reason = f"MindSpore Serving runs {alive} of {child.expected_workers} workers"
                if not child.goes_on_short:
                    return reason
                if not said:
                    log.error("version %d: %s; the others serve on", self.version, reason)
                said = True
        return self._unhealthy.result()

    async def _ended(self, child: Child, hung: list[str]) -> None:
        """Meanwhile the workers of devices that hang are ended, and said in `hung`."""
        while child.poll() is None:
            hung += self._look_at_devices(child)
            await asyncio.sleep(POLL_S)

    def _look_at_devices(self, child: Child) -> list[str]:
        """What hung."""
        hung, doubtful = child.look_at_devices()
        for what in hung:
            log.error("version %d: %s", self.version, what)
        for state in doubtful:
            log.error(
                "version %d: device %d was taken out; up to %d embeddings of the last %.1f s may be wrong, and are "
                "among those of these calls",
                *(self.version, state.device, state.doubtful, time.monotonic() - state.doubtful_since),
                extra={"fields": {"request_ids": self._registry.answered_since(self.version, state.doubtful_since)}},
            )
        return hung

    async def _end(self, *, at_once: bool) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._ending = child
            await asyncio.shield(asyncio.to_thread(child.stop, at_once=at_once))
            self._ending = None


def start_code(last_words: str) -> int:
    """The exit code of a start that failed with these."""
    return ExitCode.GATE_FAILED if WRONG_EMBEDDING in last_words else ExitCode.NOT_REACHABLE


def backoff_s(failures: int, settings: SupervisionSection) -> float:
    """Seconds before the next start: none after the first failure, then doubling up to the limit."""
    if failures <= 1:
        return 0.0
    return min(settings.backoff_max_s, settings.backoff_initial_s * 2.0 ** min(failures - 2, 60))


def pause_s(ends_with_images: int, settings: SupervisionSection) -> float:
    """Seconds before the next start after so many ends in a row with images in them."""
    return min(PAUSE_MAX_S, backoff_s(ends_with_images - FREE_ENDS_WITH_IMAGES, settings))
