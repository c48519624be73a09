"""AsyncEmbeddingClient: the asyncio shell around the core; the same methods as EmbeddingClient, as coroutines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable
from functools import partial
from typing import Any, Callable, Literal, Optional, Union, overload

from metric_learn_client._client.asyncio_shell import AsyncShell
from metric_learn_client._client.base import BaseClient, SendPlan
from metric_learn_client._client.client import Pixels, in_turn
from metric_learn_client._client.core import embedding
from metric_learn_client._client.core.batches import Batch, Reading, chunks
from metric_learn_client._client.core.calling import Deadline
from metric_learn_client._client.core.identity import ModelInfo, ModelLimits
from metric_learn_client._client.progress import progress_bar
from metric_learn_client.errors import DeadlineError, ImageFailure
from metric_learn_client.inputs import ImageInput, check_image, check_images, check_pixels
from metric_learn_client.option_fields import check_option
from metric_learn_client.options import ClientOptions
from metric_learn_client.results import BatchResult, Collector, EmbeddingResult, OneModel, OnError, Row, check_on_error

Run = Callable[[Batch], Awaitable[BatchResult]]
Images = Union[Iterable[ImageInput], AsyncIterable[ImageInput]]


class AsyncEmbeddingClient(BaseClient):
    """EmbeddingClient for asyncio: same options, same methods, awaited. Cancelling a call ends it on the wire too.

        async with AsyncEmbeddingClient("127.0.0.1:5500", deadline_s=30.0) as client:
            embeddings = (await client.embed(["a.jpg", jpeg_bytes])).embeddings

    It belongs to no event loop until its first call; used in another loop later, it connects anew. Files are read,
    and pictures encoded, in threads. Not to be used by several loops at the same time.
    """

    _shell: AsyncShell

    async def embed(
        self,
        images: Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        show_progress: bool = False,
        deadline_s: Optional[float] = None,
    ) -> EmbeddingResult:
        """As EmbeddingClient.embed."""
        check_on_error(on_error)
        given = check_images(images)
        return await self._embed(given, len(given), self._plan, on_error, show_progress, deadline_s)

    async def embed_one(self, image: ImageInput, *, deadline_s: Optional[float] = None) -> Row:
        """As EmbeddingClient.embed_one."""
        row: Row = (await self.embed([image], deadline_s=deadline_s)).embeddings[0]
        return row

    async def embed_pixels(
        self,
        pixels: Pixels,
        *,
        on_error: OnError = "raise",
        show_progress: bool = False,
        deadline_s: Optional[float] = None,
    ) -> EmbeddingResult:
        """As EmbeddingClient.embed_pixels."""
        check_on_error(on_error)
        check_pixels(pixels)
        contents = (picture.tobytes() for picture in pixels)
        return await self._embed(contents, len(pixels), self._plan_of_pixels, on_error, show_progress, deadline_s)

    @overload
    def embed_iter(
        self, images: Images, *, window: Optional[int] = ..., on_error: Literal["raise"] = ...
    ) -> AsyncIterator[Row]: ...

    @overload
    def embed_iter(
        self, images: Images, *, window: Optional[int] = ..., on_error: Literal["return"]
    ) -> AsyncIterator[Union[Row, ImageFailure]]: ...

    def embed_iter(
        self, images: Images, *, window: Optional[int] = None, on_error: OnError = "raise"
    ) -> AsyncIterator[Any]:
        """As EmbeddingClient.embed_iter; `images` may be an asynchronous iterable."""
        check_on_error(on_error)
        return self._iterate(images, self._window(window), on_error)

    async def is_ready(self) -> bool:
        """As EmbeddingClient.is_ready."""
        return await self._shell.run(embedding.check_ready(self._core, self._core.options.deadline_s)) is None

    async def wait_ready(self, timeout_s: float) -> None:
        """As EmbeddingClient.wait_ready."""
        check_option(ClientOptions, "deadline_s", timeout_s, shown="timeout_s")
        await self._shell.run(embedding.wait_ready(self._core, timeout_s))

    async def model(self) -> ModelInfo:
        """As EmbeddingClient.model."""
        return await self._shell.run(embedding.fetch_model(self._core, self._core.deadline(None)))

    async def close(self) -> None:
        """Ends calls in flight (they raise ClosedError), connections and threads. Can be called again."""
        await self._shell.close()

    async def __aenter__(self) -> AsyncEmbeddingClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _open(self) -> None:
        self._shell = AsyncShell(self._core)

    async def _embed(
        self,
        images: Images,
        count: int,
        plan_by: Callable[[ModelLimits], SendPlan],
        on_error: OnError,
        show_progress: bool,
        deadline_s: Optional[float],
    ) -> EmbeddingResult:
        """As EmbeddingClient's."""
        deadline = self._deadline(deadline_s)
        collector = Collector(count)
        if count:
            plan = plan_by(await self._shell.run(embedding.known_limits(self._core, deadline)))
            run = self._runner(plan, deadline, collector)
            await self._send(self._read(images, plan, deadline), run, collector, show_progress, count)
        return collector.result(on_error)

    def _runner(self, plan: SendPlan, deadline: Optional[Deadline], collector: Optional[Collector]) -> Run:
        """As EmbeddingClient's."""
        core, shell = self._core, self._shell

        async def run(batch: Batch) -> BatchResult:
            limit = deadline or core.deadline(None)
            out = None if collector is None else collector.place(batch)
            ready = batch
            if plan.prepare:
                try:
                    ready = await shell.in_thread(partial(plan.prepare, batch), limit.left_s(core.now()))
                except TimeoutError:
                    raise DeadlineError(
                        f"deadline_s={limit.budget_s:g} was over before images {batch.start} to"
                        f" {batch.start + batch.count - 1} were resized: the threads for that are busy, or what they"
                        " read does not answer",
                        "DEADLINE_EXCEEDED",
                    ) from None
            return await shell.run(embedding.embed_batch(core, plan.method, ready, limit, out))

        return run

    async def _read(self, images: Images, plan: SendPlan, deadline: Optional[Deadline]) -> AsyncIterator[Batch]:
        """As EmbeddingClient's: the images are taken in the loop, and what may hang is read in a thread."""
        first = 0
        async for chunk in _chunks(images, min(plan.batch_size, plan.limits.max_instances)):
            reading = Reading(chunk, plan.batch_size, plan.limits, first)
            first += len(chunk)
            limit = deadline or self._core.deadline(None)
            if not reading.may_hang:
                batches = reading.batches()
            else:
                try:
                    batches = await self._shell.in_thread(reading.batches, limit.left_s(self._core.now()))
                except TimeoutError:
                    raise reading.late(limit.budget_s) from None
            for batch in batches:
                yield batch

    async def _send(
        self, batches: AsyncIterator[Batch], run: Run, collector: Collector, show_progress: bool, total: int
    ) -> None:
        bar = progress_bar(total, show_progress)
        pending: set[asyncio.Task[BatchResult]] = set()
        try:
            async for batch in batches:
                pending.add(asyncio.ensure_future(run(batch)))
                while len(pending) >= self._core.options.max_in_flight:
                    pending = await _collect(pending, collector, bar)
            while pending:
                pending = await _collect(pending, collector, bar)
        finally:
            bar.close()
            await _end(pending)

    async def _iterate(self, images: Images, window: int, on_error: OnError) -> AsyncIterator[Any]:
        plan = self._plan(await self._shell.run(embedding.known_limits(self._core, self._core.deadline(None))))
        plan = plan._replace(batch_size=min(plan.batch_size, window))
        run = self._runner(plan, None, None)
        pending: deque[asyncio.Task[BatchResult]] = deque()
        model = OneModel()
        try:
            async for batch in self._read(images, plan, None):
                pending.append(asyncio.ensure_future(run(batch)))
                if (len(pending) + 1) * plan.batch_size > window:
                    for row in in_turn(await pending[0], model, on_error):
                        yield row
                    pending.popleft()
            while pending:
                for row in in_turn(await pending[0], model, on_error):
                    yield row
                pending.popleft()
        finally:
            await _end(pending)


async def _chunks(images: Images, size: int) -> AsyncIterator[list[Any]]:
    """As core.batches.chunks, of an asynchronous stream too."""
    if not isinstance(images, AsyncIterable):
        for chunk in chunks(images, size):
            yield chunk
        return
    chunk = []
    index = 0
    async for image in images:
        check_image(image, index)
        index += 1
        chunk.append(image)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _collect(
    pending: set[asyncio.Task[BatchResult]], collector: Collector, bar: Any
) -> set[asyncio.Task[BatchResult]]:
    done, waiting = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        part = task.result()
        collector.add(part)
        bar.update(len(part.rows))
    return waiting


async def _end(pending: Iterable[asyncio.Task[BatchResult]]) -> None:
    """Cancels what is still running and waits until it has ended."""
    tasks = list(pending)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
