"""A few daemon threads that run tasks in the order given. They appear when needed and end with close()."""

from __future__ import annotations

import queue
import threading
from typing import Callable, Optional

_JOIN_S = 10.0  # a closed client's calls are cancelled, so its threads end at once; this bounds what should not happen

Task = Callable[[], None]


class Workers:
    """At most `limit` threads. A task must not raise. The threads hold no reference to who made them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: queue.SimpleQueue[Optional[Task]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, task: Task) -> None:
        """Raises RuntimeError after close()."""
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            self._tasks.put(task)
            if len(self._threads) < self._limit and not self._idle.acquire(blocking=False):
                thread = threading.Thread(
                    target=_work, args=(self._tasks, self._idle), name="metric-learn-client", daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)


def _work(tasks: queue.SimpleQueue[Optional[Task]], idle: threading.Semaphore) -> None:
    while True:
        task = tasks.get()
        if task is None:
            return
        task()
        del task
        idle.release()
