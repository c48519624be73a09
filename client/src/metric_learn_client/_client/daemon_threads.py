"""Daemon threads: a few that run tasks in the order given, appear when needed and end with close(), or one for a task
that may hang."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Callable, Optional, TypeVar

_JOIN_S = 10.0  # a closed client's calls are cancelled, so its threads end at once; this bounds what should not happen

Task = Callable[[], None]
Result = TypeVar("Result")


def in_time(function: Callable[[], Result], seconds: float) -> Result:
    """What the function returns or raises. Raises TimeoutError after so many seconds; a thread that hangs is left
    behind, and ends with the process."""
    try:
        return begun(function).result(max(0.0, seconds))
    except FutureTimeoutError:  # before Python 3.11 not the built-in one
        raise TimeoutError from None


def begun(function: Callable[[], Result]) -> Future[Result]:
    """What the function will return or raise, in a thread of its own."""
    done: Future[Result] = Future()
    threading.Thread(target=into, args=(done, function), name="metric-learn-client-read", daemon=True).start()
    return done


def into(done: Future[Result], function: Callable[[], Result]) -> None:
    """Runs the function, if nobody has given it up yet, and puts what it returns or raises into the future."""
    if not done.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # whatever it is, it is the caller's
        done.set_exception(error)
    else:
        done.set_result(result)


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

    def close(self, wait_s: float = _JOIN_S) -> None:
        """Ends the threads when they have done what was submitted; waits so long for them, and leaves the rest."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        for _ in threads:
            self._tasks.put(None)
        limit = time.monotonic() + wait_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, limit - time.monotonic()))


def _work(tasks: queue.SimpleQueue[Optional[Task]], idle: threading.Semaphore) -> None:
    while True:
        task = tasks.get()
        if task is None:
            return
        task()
        del task
        idle.release()
