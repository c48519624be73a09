"""Shards on Ray actors. The output directory and the input must be the same storage on every node.

Each actor is one worker: it does one shard at a time, commits it itself, and returns its stats. An actor that dies is
started again by Ray and its shard repeated; errors come back as values, so that Ray's own retries never repeat what
failed for a reason.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Optional

from metric_learn_client.jobs.errors import InputError, JobError, Stopped
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.work.pipeline import ShardTask
from metric_learn_client.jobs.work.worker import WorkerSpec, work

_RESTARTS = -1  # without limit: the job's own progress says whether it makes sense
_LOOK_S = 1.0
_ROOM_S = 30.0
_STARTS = 3  # of a cluster of this host alone: Ray gives its parts 30 s each, which no option changes


class ShardWorker:
    """One actor."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec

    def ready(self) -> None:
        """Answers once the actor has a place to run."""

    def do(self, task: ShardTask) -> tuple[str, Any]:
        """("stats", stats) or ("error", exception)."""
        try:
            (stats,) = work(self._spec, [task], threading.Event())
            return "stats", stats
        except Exception as error:
            return "error", error


def run(
    spec: WorkerSpec, tasks: Sequence[ShardTask], stop: threading.Event, observer: Observer
) -> Generator[dict[str, Any], None, None]:
    if not tasks:
        return
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs Ray: pip install 'metric-learn-client[ray]'") from error

    ours = not ray.is_initialized()
    if ours:
        _connect(spec.run.ray_address, observer)
    actor: Any = ray.remote(ShardWorker).options(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, num_cpus=1)
    actors = [actor.remote(spec) for _ in range(min(spec.run.workers, len(tasks)))]
    todo = deque(tasks)
    # An actor that the cluster has no room for yet gets no shard: the others would wait for it at the end.
    running: dict[Any, tuple[Any, Optional[ShardTask]]] = {each.ready.remote(): (each, None) for each in actors}
    patience = time.monotonic() + _ROOM_S
    try:
        while todo or any(task is not None for _, task in running.values()):
            if stop.is_set():
                raise Stopped
            done = ray.wait(list(running), num_returns=1, timeout=_LOOK_S)[0]
            waiting = not done and len(running) == len(actors) and all(task is None for _, task in running.values())
            if waiting and time.monotonic() > patience:
                observer.notice("waiting for Ray: the cluster has no free CPU for a worker")
                patience = float("inf")
            for each in done:
                worker, task = running.pop(each)
                value = ray.get(each)
                if task is not None and value[0] == "error":
                    raise value[1]
                if todo:
                    following = todo.popleft()
                    running[worker.do.remote(following)] = (worker, following)
                if task is not None:
                    observer.advanced(value[1]["rows"], value[1]["failed"])
                    yield value[1]
    finally:
        for each in actors:
            ray.kill(each)
        if ours:
            ray.shutdown()


def _connect(address: Optional[str], observer: Observer) -> None:
    """To the cluster at `address`, or to one of this host alone. Raises JobError."""
    import ray

    quiet: Any = {"log_to_driver": False, "include_dashboard": False, "configure_logging": False}
    for left in reversed(range(_STARTS)):
        try:
            ray.init(address=address, **quiet)
            return
        except Exception as error:  # no common base: RuntimeError, ConnectionError, ValueError, RaySystemError
            if not left or address is not None or "timed out" not in str(error).lower():
                where = address or "RAY_ADDRESS, or a cluster of this host alone"
                raise JobError(f"Ray ({where}): {str(error).splitlines()[0]}") from error
            observer.notice("Ray did not start in its 30 s on this busy host: starting it again")
            ray.shutdown()  # processes of a start that timed out end with this one: Ray keeps no handle for more
