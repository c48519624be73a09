"""What the host must have: the runtime's libraries, shared memory, memory, file descriptors."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from metric_learn_client import wire
from servable.config.problem import NOT_READY, Problem, wrong
from servable.config.sections import Config
from servable.exported_version import ExportedVersion
from servable.runtime.lite_runtime import SERVING_NAME, lite_directory

CGROUP = Path("/sys/fs/cgroup")
GLUE = "libmindspore_core.so"  # beside SERVING_NAME in a complete runtime
LEAST_DESCRIPTORS = 256
WORKER_MB = 300  # a worker without weights
WEIGHTS_FACTOR = 1.5  # resident per byte of MindIR, lower bound
# Processes and threads: of the server and of each version's master together; of a worker and its nursery without the
# decoders. Counted on two cores, rounded down.
SERVER_TASKS, WORKER_TASKS = 24, 12
ROUNDS = 3  # buffers of an extra worker: batch x 3 items for each input and output


def resource_problems(config: Config, versions: Sequence[ExportedVersion]) -> Iterator[Problem]:
    yield from _lite()
    yield from _shared_memory(config, versions)
    yield from memory_problems(config, versions)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and soft < LEAST_DESCRIPTORS:
        yield Problem(f"ulimit -n = {soft}: at least {LEAST_DESCRIPTORS} are needed; raise it (LimitNOFILE)", NOT_READY)
    yield from _tasks(config, len(versions))


def _lite() -> Iterator[Problem]:
    folder = lite_directory()
    named = "METRIC_LEARN_LITE_DIR" if os.environ.get("METRIC_LEARN_LITE_DIR") else "MindSpore Lite runtime"
    for name in (SERVING_NAME, GLUE):
        if not (folder / name).is_file():
            yield Problem(f"{named} {folder}: {name} is not there; run `make engine-env`", NOT_READY)
            return
    if (folder / SERVING_NAME).is_symlink():
        yield Problem(
            f"{named} {folder / SERVING_NAME}: is a symbolic link, and plugins are searched beside the file that it "
            "points to; make it a hard link or a copy",
            NOT_READY,
        )


def _shared_memory(config: Config, versions: Sequence[ExportedVersion]) -> Iterator[Problem]:
    """Only workers beyond the devices, and only beside devices, pass tensors through /dev/shm."""
    backend = config.backend
    extra = 0 if backend.target == "cpu" else max(0, backend.workers - len(backend.device_ids))
    if not extra:
        return
    height, width, channels = wire.PIXELS_SHAPE
    item_bytes = height * width * channels + wire.EMBEDDING_DIM * 4
    images = sum(size * count for version in versions for size, count in version.device_models.items())
    needed = extra * ROUNDS * images * item_bytes
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        free = 0
    if free < needed:
        what = (
            f"its {extra} workers beyond the devices need {needed / 1e6:.0f} MB in /dev/shm, {free / 1e6:.0f} are free"
        )
        remedy = "enlarge /dev/shm (--shm-size, an emptyDir of medium Memory), or lower it"
        yield wrong(config, "backend.workers", what, remedy, exit_code=NOT_READY)


def _tasks(config: Config, versions: int) -> Iterator[Problem]:
    """A lower bound: below it a worker or a decoder could not be started. root is not limited by `ulimit -u`."""
    workers = versions * config.backend.processes
    decoders = config.backend.preprocess_threads or max(1, len(os.sched_getaffinity(0)) // max(1, workers))
    needed = SERVER_TASKS + workers * (WORKER_TASKS + decoders)
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.geteuid() and resource.RLIM_INFINITY != allowed < needed:
        yield Problem(f"ulimit -u = {allowed}: at least {needed} are needed; raise it (LimitNPROC)", NOT_READY)
    left = _cgroup_left("pids.max", "pids.current", "pids")
    if left < needed:
        what = f"{left:.0f} more processes and threads may start here, and at least {needed} are needed"
        yield Problem(f"pids.max of this container: {what}; raise it (--pids-limit, podPidsLimit, TasksMax)", NOT_READY)


def memory_problems(config: Config, versions: Sequence[ExportedVersion]) -> Iterator[Problem]:
    """A lower bound: below it the kernel would end the worker while it loads."""
    cpu = config.backend.target == "cpu"
    workers, needed = config.backend.workers if cpu else len(config.backend.device_ids), 0.0
    for version in versions:
        models = 1.0 if cpu else sum(version.device_models.values()) / len(version.batch_sizes)
        needed += workers * (WORKER_MB * 2**20 + WEIGHTS_FACTOR * models * version.mindir_bytes)
    free = min(psutil.virtual_memory().available, _memory_left())
    if free < needed:
        what = f"needs at least {needed / 2**20:.0f} MB of memory, {free / 2**20:.0f} are free"
        remedy = "free some, raise the container's limit, or lower it"
        yield wrong(config, "backend.workers", what, remedy, exit_code=NOT_READY)


def _memory_left() -> float:
    return min(
        _cgroup_left("memory.max", "memory.current"),
        _cgroup_left("memory.limit_in_bytes", "memory.usage_in_bytes", "memory"),
    )


def _cgroup_left(limit: str, used: str, former: str = "") -> float:
    """What a container's limit leaves; infinite without one. former: the folder where version 1 keeps the two files."""
    for root in (CGROUP, CGROUP / former):
        try:
            return int((root / limit).read_text()) - int((root / used).read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
    return float("inf")
