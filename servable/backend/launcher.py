"""A configuration and an exported version -> a running MindSpore Serving in a directory of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np
import psutil

from metric_learn_client import wire
from servable.backend.bounded_log import BoundedLog
from servable.backend.image_trial import image_trial
from servable.backend.leftovers import note_workers, remove_segments
from servable.backend.serving_process import ServingProcess
from servable.backend.staging import STAGED_VERSION, stage
from servable.backend.warm_up import occupy, prove
from servable.config.sections import REPOSITORY, Config, ModelSection
from servable.engine import batch_stats, device_watch
from servable.engine.device_watch import DeviceState
from servable.engine.settings import MasterSettings, WatchSettings, WorkerSettings
from servable.exported_version import ExportedVersion
from servable.gateway.backends import BackendFacts, Golden
from servable.gateway.queue.suspects import EndsProcess
from servable.runtime.cann import find_cann
from servable.runtime.device_probe import dead_devices
from servable.runtime.engine_python import engine_python
from servable.runtime.lite_config import ascend_context
from servable.runtime.lite_runtime import lite_directory

ROUNDS = 3  # MindSpore Serving 2.0.2 keeps at most 3 batches per worker and method under way (master/model_thread.h)
PROOF_ROUNDS = 10
MOST_BATCHES = 16  # of one worker at one time: the bytes of a deeper queue are better kept in the gateway
FIRST_RUNS_FACTOR = 3.0  # of device_hang_s, until a device has proved itself: its first runs load what they need
PROOF_CALL_S = 120.0  # the first run of a batch size initialises lazily
log = logging.getLogger(__name__)
LOG_NAME = "mindspore_serving.log"


class Child:
    """A MindSpore Serving that serves one version, and the directory that goes with it."""

    def __init__(
        self,
        backend: ServingProcess,
        version: ExportedVersion,
        facts: BackendFacts,
        directory: Path,
        workers: int = 0,
        devices: int = 0,
        dead: int = 0,
        hang_s: float = 0.0,
    ) -> None:
        """devices: how many it has, each with one of its `workers`; 0 of both on a CPU: workers are counted later.

        dead: how many it should have had beside them, whose workers are missed. hang_s: no run takes longer.
        """
        self.facts = facts
        self.directory = directory
        self.expected_workers = workers
        self._backend = backend
        self._version = version
        self._ids: set[int] = set()
        self._alive: Optional[int] = None  # when it was last known
        self._devices_ended: set[int] = set()  # workers whose device was taken out
        self._hung: list[str] = []
        self._devices = devices
        self._dead = dead
        self._hang_s = hang_s

    @property
    def pid(self) -> int:
        return self._backend.process.pid

    def poll(self) -> Optional[int]:
        return self._backend.poll()

    def why(self) -> str:
        return "; ".join(self._hung) or self._backend.why()

    def progress(self) -> str:
        """What it does before it serves, in words; nothing where there is nothing to say. Blocks for a moment."""
        begun = self._backend.compiles_begun() if self._devices else 0
        loaded, ahead = self._version.device_models, self._version.compiled_ahead
        models = self._devices * sum(count for size, count in loaded.items() if size not in ahead)
        return f"compiling model {begun} of {models} for the device" if begun else ""

    def workers_alive(self) -> int:
        """How many of the workers run; looks for successors of those that ended.

        While /proc cannot be read, because this process or the host is out of descriptors or memory, what was known
        last holds: that passes, and a worker that runs must not be replaced for it.
        """
        try:
            alive = self._backend.workers_alive()
            if alive < self.expected_workers or not alive:
                alive = self._backend.find_workers()
            self._alive = alive
            new = self._backend.worker_ids - self._ids
            if new:
                note_workers(self.directory.parent, new)
                self._ids |= new
        except OSError:
            pass
        return max(1, self.expected_workers) if self._alive is None else self._alive

    def workers_ended(self) -> int:
        """How many have ended so far, as of the last `workers_alive`; not those whose device was taken out."""
        ended = len(self._ids) - self._alive if self._alive is not None else 0
        return max(0, ended - len(self._ids & self._devices_ended))

    async def prove(self, max_relative_distance: float) -> None:
        """Raises servable.gateway.backends.WrongEmbedding or Unanswered."""
        await prove(
            self.facts.target,
            self._version,
            self.facts.golden,
            deadline_s=PROOF_CALL_S,
            max_relative_distance=max_relative_distance,
        )
        if self._devices:
            await self._prove_devices()
        else:
            self.expected_workers = self.workers_alive()

    async def _prove_devices(self) -> None:
        """Each device proves itself before its first answer (servable.metric_learn.device): each gets something to do.

        Raises WrongEmbedding, Unanswered.
        """
        batches = ROUNDS * self._devices  # more than all but one of them hold at a time
        for _ in range(PROOF_ROUNDS):
            states = device_watch.read(self.directory)
            if sum(state.proved or not psutil.pid_exists(state.pid) for state in states) >= self._devices:
                return
            await occupy(
                self.facts.target,
                batches,
                self.facts.max_batch,
                self.facts.embedding_dim,
                deadline_s=PROOF_CALL_S,
            )
        log.warning("version %d: not every device had work to prove itself with yet", self._version.number)

    def look_at_devices(self) -> tuple[list[str], list[DeviceState]]:
        """Ends each worker whose device hangs, for MindSpore Serving to go on without it. Says which they were; and of
        which devices, taken out since the last time, rows that they gave shortly before may be wrong."""
        ended: list[str] = []
        doubtful: list[DeviceState] = []
        for state in device_watch.read(self.directory) if self._devices else ():
            if state.taken_out:
                if state.doubtful and state.pid not in self._devices_ended:
                    doubtful.append(state)
                self._devices_ended.add(state.pid)
                continue
            limit_s = self._hang_s if state.proved else self._hang_s * FIRST_RUNS_FACTOR
            if state.running_s > limit_s and self._is_worker(state.pid):
                os.kill(state.pid, signal.SIGKILL)
                self._devices_ended.add(state.pid)
                ended.append(f"device {state.device} hangs: its run took more than {limit_s:g} s; its worker was ended")
        self._hung += ended
        return ended, doubtful

    def _is_worker(self, pid: int) -> bool:
        try:
            self._backend.find_workers()
        except OSError:  # not known now: nobody is ended by a guess
            return False
        return pid in self._backend.worker_ids

    @property
    def goes_on_short(self) -> bool:
        """Whether the devices that are left serve on: to start all again would take them away for minutes."""
        return self._devices + self._dead > 1

    def kill(self) -> None:
        """Cuts a `stop` short that waits."""
        self._backend.signal_kill()

    def stop(self, *, at_once: bool) -> None:
        """Blocks until nothing of it is left: process, socket, segment, directory."""
        if at_once:
            self._backend.kill()
        else:
            self._backend.stop()
        remove_segments(self._ids)
        shutil.rmtree(self.directory, ignore_errors=True)


class Launcher:
    """Starts children for one configuration; their output goes to one bounded log."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self._count = 0
        self._counts = self._counts_ended = batch_stats.Counts()  # as read last; of workers whose files are gone
        self._dead: dict[int, str] = {}  # of several devices, those that could not be opened last, with the reason
        self.log = BoundedLog(run_dir / LOG_NAME, config.log.backend_max_mb * 1024 * 1024)
        for old in run_dir.glob(batch_stats.PATTERN):
            old.unlink(missing_ok=True)

    def batch_runs(self) -> Mapping[int, tuple[int, int]]:
        """Batch size -> (runs, images) of the network, since this server started: all children, also ended ones."""
        return self._counted().runs

    def decoder_restarts(self) -> int:
        """Decoders of pictures that ended unasked and were replaced, since this server started."""
        return self._counted().decoders

    def _counted(self) -> batch_stats.Counts:
        with contextlib.suppress(OSError):  # no descriptor free: counters never go back, so the last ones hold
            self._counts = batch_stats.read(self._run_dir, self._counts_ended)
        return self._counts

    def image_trial(self) -> AbstractAsyncContextManager[EndsProcess]:
        """Where images are tried that were in a child when it ended."""
        return image_trial(engine_python(self._config), decode_limits(self._config), self._run_dir)

    def look_for_devices(self) -> None:
        """Before a launch: which of several devices can be opened. One alone shows by itself. Blocks for seconds.

        A device that is lost before MindSpore Serving starts would keep it from starting at all.
        """
        cann, ids = find_cann(os.environ), self._config.backend.device_ids
        if self._config.backend.target == "cpu" or cann is None or len(ids) < 2:
            return
        self._dead = dead_devices(engine_python(self._config), cann, ids)
        for device, why in self._dead.items():
            log.error("device %d cannot be opened (%s): it is left out until the next start", device, why)

    def launch(self, version: ExportedVersion, model: Optional[ModelSection] = None) -> Child:
        """Returns at once, long before it serves. Raises OSError.

        model: which versions share the cores by now, where that is not as it was configured at first.
        """
        config = self._config if model is None else self._config.model_copy(update={"model": model})
        cpu = config.backend.target == "cpu"
        device_ids = () if cpu else tuple(each for each in config.backend.device_ids if each not in self._dead)
        if not cpu and not device_ids:
            raise OSError("no device can be opened: " + "; ".join(f"{each}: {why}" for each, why in self._dead.items()))
        processes = config.backend.processes - len(self._dead)
        self._count += 1
        self._counts_ended = batch_stats.take_ended(self._run_dir, self._counts_ended)
        directory = self._run_dir / f"serving-{version.number}-{self._count}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        servables = stage(REPOSITORY / "servable" / wire.SERVABLE_NAME, version.folder, directory)
        settings = MasterSettings(
            servable_directory=str(servables),
            servable_name=wire.SERVABLE_NAME,
            version_number=STAGED_VERSION,
            address=f"unix:{directory}/grpc.sock",
            device_type=_device_type(cpu),
            device_ids=device_ids,
            workers=config.backend.workers,
        )
        worker = worker_settings(config, version, self._run_dir)
        if not cpu:
            worker["copies"] = {str(size): count for size, count in version.device_models.items()}
            worker["lite_config"] = str(write_lite_config(directory, config, version))
            worker["watch"] = _write_golden(directory, version, config)
        cann = None if cpu else find_cann(os.environ)
        python = engine_python(config)
        backend = ServingProcess(python, settings, directory, lite_directory(), worker, self.log, self._run_dir, cann)
        facts = BackendFacts(
            version=version.number,
            fingerprint=version.fingerprint,
            target=settings.address,
            most_batches=MOST_BATCHES * processes,
            max_batch=max(version.batch_sizes),
            embedding_dim=version.embedding_dim,
            weights=version.weights,
            preprocessing=version.preprocessing,
            golden=Golden(version.golden_image, version.golden_embedding, version.golden_spread),
            workers=processes,
            ran_since=partial(device_watch.ran_since, directory),
        )
        workers = 0 if cpu else config.backend.processes
        hang_s = config.supervision.device_hang_s
        return Child(backend, version, facts, directory, workers, len(device_ids), len(self._dead), hang_s)


def worker_settings(config: Config, version: ExportedVersion, run_dir: Path) -> WorkerSettings:
    """What the stages read. Threads of all workers together never exceed the cores."""
    processes = config.backend.processes * max(1, len(config.model.versions))
    share = max(1, len(os.sched_getaffinity(0)) // processes)
    return {
        "device": "cpu" if config.backend.target == "cpu" else "ascend",
        "threads": config.backend.threads or share,
        "preprocess_threads": config.backend.preprocess_threads or share,
        "run_overhead_images": config.backend.run_overhead_images,
        "batch_sizes": list(version.batch_sizes),
        "models": {str(size): version.models[size] for size in version.batch_sizes},
        "limits": decode_limits(config),
        "run_dir": str(run_dir),
    }


def decode_limits(config: Config) -> dict[str, int]:
    return config.limits.model_dump(include={"max_image_bytes", "max_image_px"})


def write_lite_config(directory: Path, config: Config, version: ExportedVersion) -> Path:
    """MindSpore Lite's configuration file for a device, in `directory`. Its path."""
    path = directory / "mindspore_lite.cfg"
    path.write_text(ascend_context(config.backend.precision_mode, version.aipp_config))
    return path


def _write_golden(directory: Path, version: ExportedVersion, config: Config) -> WatchSettings:
    """What a device's worker proves itself with (servable.metric_learn.device)."""
    image, embedding = directory / "golden.image", directory / "golden.npy"
    image.write_bytes(version.golden_image)
    np.save(embedding, version.golden_embedding)
    return {
        "directory": str(directory),
        "golden_image": str(image),
        "golden_embedding": str(embedding),
        "limit": config.readiness.max_relative_distance * version.golden_spread,
        "check_s": config.supervision.device_check_s,
        "row_check_s": config.supervision.device_row_check_s,
    }


def _device_type(cpu: bool) -> Optional[str]:
    """Naming the device costs three probing processes at start; a host without an accelerator needs no choice."""
    if not cpu:
        return "ascend"
    accelerators = list(Path("/dev").glob("davinci[0-9]*")) + list(Path("/dev").glob("nvidia[0-9]*"))
    return "cpu" if accelerators else None
