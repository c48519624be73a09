"""Reading, sending and writing at the same time, a bounded number of batches ahead. One pipeline is one worker.

    plan -> batches -> read pool (read, and with preprocess="local" prepare) -> send pool -> this thread -> writer

Batches are collected in order, so the rows of a shard arrive in order. At most two shards are open: the one being
finished, and the first window of the next; so a worker that dies has at most one shard, and that window, to do again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metric_learn_client import wire
from metric_learn_client._client.daemon_threads import Workers
from metric_learn_client.jobs.errors import Stopped
from metric_learn_client.jobs.options import RunOptions
from metric_learn_client.jobs.output.seen import Seen, digest
from metric_learn_client.jobs.output.shard_files import RowFailure
from metric_learn_client.jobs.plan.plan import Plan
from metric_learn_client.jobs.work.reader import Reader
from metric_learn_client.jobs.work.sender import Sendable, Sent

_LOOK_S = 0.2  # so soon it is seen that the run is to end
_READERS_END_S = 1.0  # readers that have not ended by then hang in a file, and end with the process


@dataclass(frozen=True)
class ShardTask:
    """A shard to do, or only some of its rows. places int64: rows within the shard, ascending; None for all. merges:
    the others stay as they are on the disk; else the shard has no others."""

    shard: int
    places: Optional[npt.NDArray[np.int64]] = None
    merges: bool = False


@dataclass
class ShardRows:
    """What became of a task's rows, in order. numbers: rows of the job; parts: `succeeded` counts in `rows`."""

    task: ShardTask
    rows: pa.RecordBatch
    numbers: npt.NDArray[np.int64]
    parts: list[Sent] = field(default_factory=list)
    failures: list[RowFailure] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    sent: int = 0
    collected: int = 0

    def add(self, start: int, count: int, sent: Sent, seen: Sequence[Seen]) -> None:
        self.collected += count
        self.seen += seen
        self.parts.append(sent._replace(succeeded=sent.succeeded + start))
        paths = self.rows.column(0)
        for row, code, message in sent.failures:
            place = start + row
            self.failures.append(RowFailure(int(self.numbers[place]), paths[place].as_py(), code, message))

    @property
    def complete(self) -> bool:
        return bool(self.collected == self.rows.num_rows)

    def places(self) -> npt.NDArray[np.int64]:
        """Which of `rows` have an embedding."""
        return np.concatenate([np.empty(0, np.int64), *(part.succeeded for part in self.parts)])

    def embeddings(self) -> npt.NDArray[np.float32]:
        nothing = np.empty((0, wire.EMBEDDING_DIM), np.float32)
        return np.concatenate([nothing, *(part.embeddings for part in self.parts)])


_Read = tuple[list[Sendable], list[Seen]]


class Pipeline:
    """prepare: image -> what is sent, run beside reading; send: thread-safe; write: one finished shard -> its stats,
    on a thread of its own; abort: makes calls that are under way end; progress(rows, failed) after each batch, on the
    caller's thread."""

    def __init__(
        self,
        plan: Plan,
        reader: Reader,
        prepare: Callable[[Any], Sendable],
        send: Callable[[Sequence[Sendable]], Sent],
        write: Callable[[ShardRows], dict[str, Any]],
        *,
        run: RunOptions,
        stop: threading.Event,
        abort: Callable[[], None],
        progress: Callable[[int, int], None],
    ) -> None:
        self._plan = plan
        self._reader = reader
        self._prepare = prepare
        self._send = send
        self._write = write
        self._batch_size = run.batch_size
        self._window = run.in_flight + run.read_threads
        self._stop = stop
        self._abort = abort
        self._progress = progress
        self._readers = Workers(run.read_threads)  # daemons: a read that hangs does not hold up the end
        self._send_pool = ThreadPoolExecutor(run.in_flight, "job-send")
        self._write_pool = ThreadPoolExecutor(1, "job-write")
        self._reads: set[Future[_Read]] = set()
        self._pending: deque[tuple[ShardRows, int, int, Future[tuple[Sent, list[Seen]]]]] = deque()
        self._open: deque[ShardRows] = deque()
        self._writing: Optional[Future[dict[str, Any]]] = None

    def run(self, tasks: Iterable[ShardTask]) -> Iterator[dict[str, Any]]:
        """Does the tasks in order and yields the stats of each once it is committed. Raises what sending or writing
        raises; then nothing of the open shards is kept."""
        iterator = iter(tasks)
        try:
            while True:
                while len(self._open) >= 2:  # before asking for a task, which may wait for what this one gives
                    yield from self._collect()
                task = next(iterator, None)
                if task is None:
                    break
                yield from self._submit(self._begin(task))
            while self._pending:
                yield from self._collect()
            yield from self._settle()
        except BaseException:
            self._stop.set()  # nothing waits any more; after a run that did all of it there is nothing to stop
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Ends the threads. What is being written is finished: it is whole; all else is dropped."""
        self._send_pool.shutdown(wait=False, cancel_futures=True)
        for read in list(self._reads):  # whoever waits for it is not to wait for a file that hangs
            with suppress(InvalidStateError):
                read.set_exception(Stopped())
        self._abort()
        self._write_pool.shutdown(wait=True)
        self._send_pool.shutdown(wait=True)
        self._readers.close(_READERS_END_S)
        self._reader.close()

    def _begin(self, task: ShardTask) -> ShardRows:
        rows = self._plan.read(task.shard)
        first, count = self._plan.span(task.shard)
        places = np.arange(count, dtype=np.int64) if task.places is None else task.places
        if task.places is not None:
            rows = rows.take(pa.array(places))
        shard = ShardRows(task, rows, first + places)
        self._open.append(shard)
        return shard

    def _submit(self, shard: ShardRows) -> Iterator[dict[str, Any]]:
        for start in range(0, shard.rows.num_rows, self._batch_size):
            while len(self._pending) >= self._window or (start and self._holds_back(shard)):
                yield from self._collect()
            rows = shard.rows.slice(start, self._batch_size)
            read = self._begin_read(rows, self._reader.prepare(rows))
            sent = self._send_pool.submit(self._send_read, read)
            shard.sent += rows.num_rows
            self._pending.append((shard, start, rows.num_rows, sent))

    def _holds_back(self, shard: ShardRows) -> bool:
        """Whether a window of this shard is on its way while the one before is not on the disk yet."""
        return shard is not self._open[0] and shard.sent >= self._window * self._batch_size

    def _collect(self) -> Iterator[dict[str, Any]]:
        """Takes the oldest batch, or, where there is none, waits for the writer."""
        if not self._pending or (self._pending[0][0] is not self._open[0] and self._writing is not None):
            yield from self._settle()
            return
        shard, start, count, future = self._pending.popleft()
        sent, seen = self._wait(future)
        shard.add(start, count, sent, seen)
        self._progress(count, len(sent.failures))
        if shard.complete:
            yield from self._settle()
            self._writing = self._write_pool.submit(self._write, shard)

    def _settle(self) -> Iterator[dict[str, Any]]:
        """Waits until the shard being written is committed."""
        if self._writing is not None:
            stats = self._writing.result()  # also when the run is to end: it is short, and nothing is to be half done
            self._writing = None
            self._open.popleft()
            yield stats

    def _wait(self, future: Future[tuple[Sent, list[Seen]]]) -> tuple[Sent, list[Seen]]:
        """The result. Raises Stopped soon after the run is to end, whatever the future waits for."""
        while not self._stop.is_set():
            try:
                return future.result(_LOOK_S)
            except FutureTimeoutError:
                if future.done():  # it is the call's own
                    raise
        raise Stopped

    def _begin_read(self, rows: pa.RecordBatch, images: Optional[list[Any]]) -> Future[_Read]:
        read: Future[_Read] = Future()
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)

        def task() -> None:
            if self._stop.is_set():
                return
            try:
                result = self._read(rows, images)
            except BaseException as error:  # whatever it is, the sender raises it
                with suppress(InvalidStateError):
                    read.set_exception(error)
            else:
                with suppress(InvalidStateError):  # given up meanwhile
                    read.set_result(result)

        self._readers.submit(task)
        return read

    def _read(self, rows: pa.RecordBatch, images: Optional[list[Any]]) -> _Read:
        seen = self._reader.look(rows)
        if images is None:
            images = self._reader.read(rows)
            if not self._plan.in_sources:
                digests = (digest(image) if isinstance(image, bytes) else None for image in images)
                seen = [each._replace(sha256=sha256) for each, sha256 in zip(seen, digests)]
        return [self._prepare(image) for image in images], seen

    def _send_read(self, read: Future[_Read]) -> tuple[Sent, list[Seen]]:
        images, seen = read.result()
        return self._send(images), seen
