"""EmbeddingClient: the blocking shell around the core. It performs the steps with threads and gRPC's blocking calls."""

from __future__ import annotations

import queue
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from typing import Any, Callable, Literal, Optional, Union, overload

import numpy as np
import numpy.typing as npt

from metric_learn_client._client.base import BaseClient, SendPlan
from metric_learn_client._client.blocking_shell import BlockingShell
from metric_learn_client._client.core import embedding
from metric_learn_client._client.core.batches import Batch, Reading, chunks
from metric_learn_client._client.core.calling import Deadline, no_place
from metric_learn_client._client.core.identity import ModelInfo, ModelLimits
from metric_learn_client._client.daemon_threads import in_time, into
from metric_learn_client._client.progress import progress_bar
from metric_learn_client.errors import ClosedError, ImageFailure, ImagesFailedError
from metric_learn_client.inputs import ImageInput, check_images, check_pixels
from metric_learn_client.option_fields import check_option
from metric_learn_client.options import ClientOptions
from metric_learn_client.results import BatchResult, Collector, EmbeddingResult, OneModel, OnError, Row, check_on_error

Pixels = Union[npt.NDArray[np.uint8], Sequence[npt.NDArray[np.uint8]]]
Run = Callable[[Batch], BatchResult]
_LATE_S = 0.25  # a batch on the wire ends so soon after its deadline, and says better why


class EmbeddingClient(BaseClient):
    """Embeds images through a metric-learn server. Thread-safe, and usable in a forked child.

        with EmbeddingClient("127.0.0.1:5500", deadline_s=30.0) as client:
            embeddings = client.embed(["a.jpg", jpeg_bytes, bgr_array]).embeddings  # float32 [3, 2048]

    Use it as a context manager or call close(). Nothing is connected before the first call. Every method that talks
    to the server raises EndpointError (module `errors` has its kinds), and ClosedError after close().
    """

    _shell: BlockingShell

    def embed(
        self,
        images: Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        show_progress: bool = False,
        deadline_s: Optional[float] = None,
    ) -> EmbeddingResult:
        """Embeds images: paths, encoded bytes, binary files, uint8 arrays (BGR), PIL images, mixed as you like.

        Rows come in input order; no images give [0, 2048] without a call. A failed image is an error at its index
        and a row of NaN with on_error="return", and raises ImagesFailedError with "raise". deadline_s replaces the
        client's own for this call. Raises TypeError and ValueError for what is no image, before anything is sent.
        """
        check_on_error(on_error)
        given = check_images(images)
        return self._embed(given, len(given), self._plan, on_error, show_progress, deadline_s)

    def embed_one(self, image: ImageInput, *, deadline_s: Optional[float] = None) -> Row:
        """One image -> float32 [2048]. Raises ImagesFailedError where it fails."""
        row: Row = self.embed([image], deadline_s=deadline_s).embeddings[0]
        return row

    def embed_pixels(
        self,
        pixels: Pixels,
        *,
        on_error: OnError = "raise",
        show_progress: bool = False,
        deadline_s: Optional[float] = None,
    ) -> EmbeddingResult:
        """Embeds pictures that `metric_learn_client.preprocess` made: uint8 [N, 224, 224, 3] or so many arrays, BGR."""
        check_on_error(on_error)
        check_pixels(pixels)
        contents = (picture.tobytes() for picture in pixels)
        return self._embed(contents, len(pixels), self._plan_of_pixels, on_error, show_progress, deadline_s)

    @overload
    def embed_iter(
        self, images: Iterable[ImageInput], *, window: Optional[int] = ..., on_error: Literal["raise"] = ...
    ) -> Iterator[Row]: ...

    @overload
    def embed_iter(
        self, images: Iterable[ImageInput], *, window: Optional[int] = ..., on_error: Literal["return"]
    ) -> Iterator[Union[Row, ImageFailure]]: ...

    def embed_iter(
        self, images: Iterable[ImageInput], *, window: Optional[int] = None, on_error: OnError = "raise"
    ) -> Iterator[Any]:
        """Embeds a stream of any length in bounded memory: float32 [2048] per image, in order.

        At most `window` images are taken from `images` and not yet given back; default: one batch more than may be
        in flight. deadline_s holds for each batch. A failed image is an ImageFailure in its place with
        on_error="return", and ends the stream with ImagesFailedError with "raise".
        """
        check_on_error(on_error)
        return self._iterate(iter(images), self._window(window), on_error)

    def is_ready(self) -> bool:
        """Whether any endpoint is ready to embed, by its health service; False where none answers in time."""
        return self._shell.run(embedding.check_ready(self._core, self._core.options.deadline_s)) is None

    def wait_ready(self, timeout_s: float) -> None:
        """Returns as soon as any endpoint is ready. Raises UnreachableError, with the reason, after timeout_s."""
        check_option(ClientOptions, "deadline_s", timeout_s, shown="timeout_s")
        self._shell.run(embedding.wait_ready(self._core, timeout_s))

    def model(self) -> ModelInfo:
        """What the server serves, asked now. Raises RejectedError where it has no ModelService."""
        return self._shell.run(embedding.fetch_model(self._core, self._core.deadline(None)))

    def close(self) -> None:
        """Ends calls in flight (they raise ClosedError), connections and threads. Can be called again."""
        self._finalizer()

    def __enter__(self) -> EmbeddingClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> None:
        self._shell = BlockingShell(self._core)
        self._finalizer = weakref.finalize(self, self._shell.close)  # also when nobody called close()

    def _after_fork(self) -> None:
        self._finalizer.detach()  # the parent's threads and channels are not ours to end
        super()._after_fork()

    def _embed(
        self,
        images: Iterable[ImageInput],
        count: int,
        plan_by: Callable[[ModelLimits], SendPlan],
        on_error: OnError,
        show_progress: bool,
        deadline_s: Optional[float],
    ) -> EmbeddingResult:
        """So many images, in the order in which their batches come back."""
        deadline = self._deadline(deadline_s)
        collector = Collector(count)
        if count:
            plan = plan_by(self._shell.run(embedding.known_limits(self._core, deadline)))
            run = self._runner(plan, deadline, collector)
            self._send(self._read(images, plan, deadline), run, deadline, collector, show_progress, count)
        return collector.result(on_error)

    def _runner(self, plan: SendPlan, deadline: Optional[Deadline], collector: Optional[Collector]) -> Run:
        """What embeds one batch: by `deadline`, else each by its own; into the collector's array, else a new one."""
        core, shell = self._core, self._shell

        def run(batch: Batch) -> BatchResult:
            limit = deadline or core.deadline(None)
            out = None if collector is None else collector.place(batch)
            ready = plan.prepare(batch) if plan.prepare else batch
            return shell.run(embedding.embed_batch(core, plan.method, ready, limit, out))

        return run

    def _read(self, images: Iterable[ImageInput], plan: SendPlan, deadline: Optional[Deadline]) -> Iterator[Batch]:
        """Batches in order. The images are taken here; what may hang is read in a thread, by `deadline`, else each
        chunk by its own. Raises DeadlineError."""
        first = 0
        for chunk in chunks(images, min(plan.batch_size, plan.limits.max_instances)):
            reading = Reading(chunk, plan.batch_size, plan.limits, first)
            first += len(chunk)
            limit = deadline or self._core.deadline(None)
            if not reading.may_hang:
                batches = reading.batches()
            else:
                try:
                    batches = in_time(reading.batches, limit.left_s(self._core.now()))
                except TimeoutError:
                    raise reading.late(limit.budget_s) from None
            yield from batches

    def _send(
        self,
        batches: Iterator[Batch],
        run: Run,
        deadline: Deadline,
        collector: Collector,
        show_progress: bool,
        total: int,
    ) -> None:
        """One batch in the caller's own thread; of more, so many at once as may be in flight, as they come."""
        bar = progress_bar(total, show_progress)
        try:
            first, second = next(batches, None), next(batches, None)
            if first is not None and second is None:
                collector.add(run(first))
                bar.update(first.count)
            elif first is not None and second is not None:
                for part in self._unordered(chain((first, second), batches), run, deadline):
                    collector.add(part)
                    bar.update(len(part.rows))
        finally:
            bar.close()

    def _unordered(self, batches: Iterable[Batch], run: Run, deadline: Deadline) -> Iterator[BatchResult]:
        """As they end. Raises DeadlineError, also while other calls keep every thread."""
        done: queue.SimpleQueue[Future[BatchResult]] = queue.SimpleQueue()
        pending = 0
        abandoned = threading.Event()

        def next_done() -> BatchResult:
            left_s = max(0.0, deadline.left_s(self._core.now())) + _LATE_S
            try:
                return done.get(timeout=left_s).result()
            except queue.Empty:
                raise no_place(self._core, deadline) from None

        try:
            for batch in batches:
                if pending == self._core.options.max_in_flight:
                    yield next_done()
                    pending -= 1
                self._submit(batch, run, abandoned).add_done_callback(done.put)
                pending += 1
            while pending:
                yield next_done()
                pending -= 1
        finally:
            abandoned.set()

    def _iterate(self, images: Iterator[ImageInput], window: int, on_error: OnError) -> Iterator[Any]:
        deadline = self._core.deadline(None)
        plan = self._plan(self._shell.run(embedding.known_limits(self._core, deadline)))
        plan = plan._replace(batch_size=min(plan.batch_size, window))
        run = self._runner(plan, None, None)
        pending: deque[Future[BatchResult]] = deque()
        model = OneModel()
        abandoned = threading.Event()
        try:
            for batch in self._read(images, plan, None):
                pending.append(self._submit(batch, run, abandoned))
                if (len(pending) + 1) * plan.batch_size > window:  # the next batch is one more that is held
                    yield from in_turn(pending.popleft().result(), model, on_error)
            while pending:
                yield from in_turn(pending.popleft().result(), model, on_error)
        finally:
            abandoned.set()

    def _submit(self, batch: Batch, run: Run, abandoned: threading.Event) -> Future[BatchResult]:
        future: Future[BatchResult] = Future()

        def task() -> None:
            if not abandoned.is_set():
                into(future, lambda: run(batch))

        try:
            self._shell.workers.submit(task)
        except RuntimeError as error:
            raise ClosedError("the client is closed") from error
        return future


def in_turn(part: BatchResult, model: OneModel, on_error: OnError) -> Iterator[Any]:
    """The rows of a batch, with each failure in its place. Raises ImagesFailedError, and IdentityError as `model`."""
    model.check(part)
    failed = {failure.index: failure for failure in part.failures}
    for index, row in enumerate(part.rows, part.start):
        failure = failed.get(index)
        if failure is not None and on_error == "raise":
            raise ImagesFailedError([failure])
        yield row if failure is None else failure
