"""Several worker processes on this host, for when one interpreter is not enough. Shards are handed out one by one.

Started, not forked: gRPC does not survive a fork. A worker that dies is replaced and its shards are done by others;
workers end when this process does, however it ends, because each watches for that.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Optional

from metric_learn_client.jobs.errors import JobError, Stopped
from metric_learn_client.jobs.observer import Observer
from metric_learn_client.jobs.work.pipeline import ShardTask
from metric_learn_client.jobs.work.worker import WorkerSpec, work

_AHEAD = 2  # shards a worker holds: the one it does and the next, so that it never waits for this process
_LOOK_S = 0.2  # so soon it is seen that the run is to end
_MAX_DEATHS = 3  # of workers that held the same shard: then it is the shard's fault


class _Worker:
    def __init__(self, spec: WorkerSpec) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_main, args=(spec, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.tasks: deque[ShardTask] = deque()

    def give(self, task: Optional[ShardTask]) -> None:
        if task is not None:
            self.tasks.append(task)
        with contextlib.suppress(OSError):  # it is dead; reading from it will say so
            self.pipe.send(task)

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def run(
    spec: WorkerSpec, tasks: Sequence[ShardTask], stop: threading.Event, observer: Observer
) -> Generator[dict[str, Any], None, None]:
    todo = deque(tasks)
    deaths: dict[int, int] = {}
    workers: list[_Worker] = []
    try:
        while todo or workers:
            while todo and len(workers) < spec.run.workers:
                workers.append(_Worker(spec))
                _feed(workers[-1], todo)
            if stop.is_set():
                raise Stopped
            for pipe in wait([worker.pipe for worker in workers], _LOOK_S):
                worker = next(each for each in workers if each.pipe is pipe)
                message = _receive(worker)
                if message is None:
                    workers.remove(worker)
                    _lost(worker, todo, deaths, observer)
                elif message[0] == "stats":
                    worker.tasks.popleft()
                    _feed(worker, todo)
                    yield message[1]
                elif message[0] == "end":
                    workers.remove(worker)
                    worker.process.join()
                elif message[0] == "error":
                    raise message[1]
                else:
                    getattr(observer, message[0])(*message[1:])
    finally:
        for worker in workers:
            worker.end()


def _feed(worker: _Worker, todo: deque[ShardTask]) -> None:
    while todo and len(worker.tasks) < _AHEAD:
        worker.give(todo.popleft())
    if not todo:
        worker.give(None)


def _receive(worker: _Worker) -> Any:
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        return None


def _lost(worker: _Worker, todo: deque[ShardTask], deaths: dict[int, int], observer: Observer) -> None:
    worker.process.join()
    if worker.tasks:
        shard = worker.tasks[0].shard
        deaths[shard] = deaths.get(shard, 0) + 1
        if deaths[shard] >= _MAX_DEATHS:
            raise JobError(f"a worker process died {_MAX_DEATHS} times on shard {shard} ({worker.process.exitcode})")
        observer.notice(f"a worker process died ({worker.process.exitcode}); shard {shard} is done again")
        todo.extendleft(reversed(worker.tasks))


def _main(spec: WorkerSpec, pipe: Connection) -> None:
    """In the worker process."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the first process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def say(*message: Any) -> None:
        with lock:
            pipe.send(message)

    tasks: queue.SimpleQueue[Optional[ShardTask]] = queue.SimpleQueue()

    def receive() -> None:
        """Always: else the parent could wait to send a large task while this process waits to send to it."""
        with contextlib.suppress(EOFError, OSError):  # the parent ends, and this process with it
            while True:
                task = pipe.recv()
                tasks.put(task)
                if task is None:
                    return

    threading.Thread(target=receive, daemon=True).start()
    try:
        for stats in work(
            spec,
            iter(tasks.get, None),
            threading.Event(),
            lambda rows, failed: say("advanced", rows, failed),
            lambda text: say("notice", text),
        ):
            say("stats", stats)
        say("end")
    except Exception as error:
        say("error", error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
