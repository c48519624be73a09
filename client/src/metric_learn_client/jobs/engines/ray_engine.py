"""Shards on Ray actors. The output directory and the input must be the same storage on every node.

Each actor is one worker: it does one shard at a time, commits it itself, and returns its stats. An actor that dies is
started again by Ray and its shard repeated; errors come back as values, so that Ray's own retries never repeat what
failed for a reason.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.pipeline import ShardTask
from metric_learn_client.jobs.worker import WorkerSpec, work

_RESTARTS = -1  # without limit: the job's own progress says whether it makes sense
_NOTICE_S = 1.0


class ShardWorker:
    """One actor."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec

    def do(self, task: ShardTask) -> tuple[str, Any]:
        """("stats", stats) or ("error", exception)."""
        try:
            return "stats", next(iter(list(work(self._spec, [task], threading.Event()))))
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
        ray.init(address=spec.run.ray_address, log_to_driver=False, include_dashboard=False, configure_logging=False)
    actor: Any = ray.remote(ShardWorker).options(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, num_cpus=1)
    actors = [actor.remote(spec) for _ in range(min(spec.run.workers, len(tasks)))]
    todo = deque(tasks)
    running: dict[Any, tuple[Any, ShardTask]] = {}
    try:
        for each in actors:
            _give(each, todo, running)
        while running:
            for done in ray.wait(list(running), num_returns=1, timeout=_NOTICE_S)[0]:
                worker, _ = running.pop(done)
                kind, value = ray.get(done)
                if kind == "error":
                    raise value
                _give(worker, todo, running)
                observer.advanced(value["rows"], value["failed"])
                yield value
    finally:
        for each in actors:
            ray.kill(each)
        if ours:
            ray.shutdown()


def _give(worker: Any, todo: deque[ShardTask], running: dict[Any, tuple[Any, ShardTask]]) -> None:
    if todo:
        task = todo.popleft()
        running[worker.do.remote(task)] = (worker, task)
