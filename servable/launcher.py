"""A configuration and an exported version -> a running MindSpore Serving in a directory of its own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from metric_learn_client import wire
from servable import batch_stats
from servable.backend import Backend, BackendSettings
from servable.bounded_log import BoundedLog
from servable.gateway.backends import Golden
from servable.leftovers import note_workers, remove_segments
from servable.lite_runtime import lite_directory
from servable.proof import prove
from servable.sections import Config
from servable.staging import STAGED_VERSION, stage
from servable.version import ExportedVersion

ROUNDS = 3  # MindSpore Serving 2.0.2 keeps at most 3 batches per worker and method under way (master/model_thread.h)
PROOF_CALL_S = 120.0  # the first run of a batch size initialises lazily
LOG_NAME = "mindspore_serving.log"


@dataclass(frozen=True)
class Identity:
    """One child as the gateway sees it (servable.gateway.backends.Backend)."""

    version: int
    fingerprint: str
    target: str
    window_instances: int
    max_batch: int
    embedding_dim: int
    weights: str
    preprocessing: str
    golden: Golden


class Child:
    """A MindSpore Serving that serves one version, and the directory that goes with it."""

    def __init__(self, backend: Backend, version: ExportedVersion, identity: Identity, directory: Path) -> None:
        self.identity = identity
        self.directory = directory
        self.expected_workers = 0
        self._backend = backend
        self._version = version
        self._ids: set[int] = set()
        self._alive: Optional[int] = None  # when it was last known

    @property
    def pid(self) -> int:
        return self._backend.process.pid

    def poll(self) -> Optional[int]:
        return self._backend.poll()

    def why(self) -> str:
        return self._backend.why()

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

    async def prove(self, max_relative_distance: float) -> None:
        """Raises servable.proof.WrongEmbedding or Unanswered."""
        await prove(
            self.identity.target,
            self._version,
            deadline_s=PROOF_CALL_S,
            max_relative_distance=max_relative_distance,
        )
        self.expected_workers = self.workers_alive()

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
        self._batch_runs: dict[int, tuple[int, int]] = {}
        self.log = BoundedLog(run_dir / LOG_NAME, config.log.backend_max_mb * 1024 * 1024)
        for old in run_dir.glob(batch_stats.PATTERN):
            old.unlink(missing_ok=True)

    def batch_runs(self) -> dict[int, tuple[int, int]]:
        """Batch size -> (runs, images) of the network, since this server started: all children, also ended ones."""
        try:
            self._batch_runs = batch_stats.read(self._run_dir)
        except OSError:  # no descriptor free: counters never go back, so the last ones hold
            pass
        return self._batch_runs

    def launch(self, version: ExportedVersion) -> Child:
        """Returns at once, long before it serves. Raises OSError."""
        config = self._config
        self._count += 1
        directory = self._run_dir / f"serving-{version.number}-{self._count}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        servables = stage(Path(__file__).parent / wire.SERVABLE_NAME, version.folder, directory, wire.SERVABLE_NAME)
        cpu = config.backend.target == "cpu"
        settings = BackendSettings(
            servable_directory=str(servables),
            servable_name=wire.SERVABLE_NAME,
            version_number=STAGED_VERSION,
            address=f"unix:{directory}/grpc.sock",
            device_type=_device_type(cpu),
            device_ids=() if cpu else config.backend.device_ids,
            workers=config.backend.workers,
            enable_lite=config.backend.target != "ascend910",
        )
        worker = worker_settings(config, version, self._run_dir)
        backend = Backend(settings, directory, lite_directory(), worker, self.log, self._run_dir)
        processes = config.backend.workers if cpu else len(config.backend.device_ids)
        identity = Identity(
            version=version.number,
            fingerprint=version.fingerprint,
            target=settings.address,
            window_instances=ROUNDS * max(version.batch_sizes) * processes,
            max_batch=max(version.batch_sizes),
            embedding_dim=version.embedding_dim,
            weights=version.weights,
            preprocessing=version.preprocessing,
            golden=Golden(version.golden_image, version.golden_embedding),
        )
        return Child(backend, version, identity, directory)


def worker_settings(config: Config, version: ExportedVersion, run_dir: Path) -> dict[str, object]:
    """What the stages read from METRIC_LEARN_WORKER. Threads of all workers together never exceed the cores."""
    processes = config.backend.workers * max(1, len(config.model.versions))
    share = max(1, len(os.sched_getaffinity(0)) // processes)
    return {
        "device": "cpu" if config.backend.target == "cpu" else "ascend",
        "precision_mode": config.backend.precision_mode,
        "threads": config.backend.threads or share,
        "preprocess_threads": config.backend.preprocess_threads or share,
        "run_overhead_images": config.backend.run_overhead_images,
        "batch_sizes": list(version.batch_sizes),
        "limits": config.limits.model_dump(include={"max_image_bytes", "max_image_px"}),
        "run_dir": str(run_dir),  # outlives every child: the counters of batch_stats never go back
    }


def _device_type(cpu: bool) -> Optional[str]:
    """Naming the device costs three probing processes at start; a host without an accelerator needs no choice."""
    if not cpu:
        return "ascend"
    accelerators = list(Path("/dev").glob("davinci[0-9]*")) + list(Path("/dev").glob("nvidia[0-9]*"))
    return "cpu" if accelerators else None
