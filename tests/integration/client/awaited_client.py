"""AsyncEmbeddingClient behind the methods of EmbeddingClient, so that one test proves both."""

import asyncio
import inspect
import threading

from metric_learn_client import AsyncEmbeddingClient

_END = object()


class AwaitedClient:
    """Each call is awaited on an event loop that runs in a thread until the client is closed."""

    def __init__(self, *arguments, **options):
        self._client = AsyncEmbeddingClient(*arguments, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __getattr__(self, name):
        value = getattr(self._client, name)
        if not inspect.iscoroutinefunction(value):
            return value
        return lambda *arguments, **options: self._wait(value(*arguments, **options))

    def embed_iter(self, images, **options):
        return self._rows(self._client.embed_iter(images, **options))

    def close(self):
        """Returns when every call has ended and the thread with it."""
        self._wait(self._close())
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _close(self):
        await self._client.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def _wait(self, awaitable):
        if self._loop.is_closed():  # after close: a loop of its own, for what the client says then
            return asyncio.run(awaitable)
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result()

    def _rows(self, stream):
        async def following():
            try:
                return await stream.__anext__()
            except StopAsyncIteration:  # which cannot leave a coroutine
                return _END

        try:
            while (row := self._wait(following())) is not _END:
                yield row
        finally:
            self._wait(stream.aclose())
