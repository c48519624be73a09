"""Performs the core's steps by awaiting: grpc.aio's calls, futures, asyncio.sleep."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Callable, Optional, TypeVar, Union

from metric_learn_client._client.blocking_shell import addresses_of
from metric_learn_client._client.channels import keep_heap, open_channel, trailing_of
from metric_learn_client._client.core.calling import Core
from metric_learn_client._client.core.steps import Failure, Reply, Resolve, Send, Sleep, Step, Steps, WaitForTicket
from metric_learn_client._client.core.targets import Target
from metric_learn_client._client.daemon_threads import Workers, begun, into
from metric_learn_client._client.fork_safe_grpc import grpc
from metric_learn_client.errors import ClosedError

Result = TypeVar("Result")
_READERS = 4  # threads that read files and encode pictures


class AsyncShell:
    """The channels of one client in one event loop; for another loop they are made anew."""

    def __init__(self, core: Core) -> None:
        self._core = core
        keep_heap()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._channels: dict[Target, Any] = {}
        self._calls: dict[tuple[Target, str], Callable[..., Any]] = {}
        self._in_flight: Counter[Target] = Counter()
        self._threads: Optional[Workers] = None

    async def run(self, steps: Steps[Result]) -> Result:
        """Drives the steps to their end; cancelled, it ends the call on the wire and gives its place back."""
        answer: Any = None
        try:
            while True:
                answer = await self._perform(steps.send(answer))
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            steps.close()

    async def in_thread(self, function: Callable[[], Result], seconds: Optional[float] = None) -> Result:
        """What the function returns or raises. Raises TimeoutError after so many seconds; threads of which one hangs
        are left behind, and end with the process."""
        if self._core.closed:
            raise ClosedError("the client is closed")
        threads = self._threads = self._threads or Workers(_READERS)
        done: Future[Result] = Future()
        threads.submit(partial(into, done, function))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(done), seconds)
        except asyncio.TimeoutError:  # before Python 3.11 not the built-in one
            if self._threads is threads:
                self._threads = None
            threads.close(wait_s=0)  # those that do not hang end
            raise TimeoutError from None

    async def close(self) -> None:
        self._core.closed = True
        self._core.window.wake_all()
        channels, self._channels, self._calls = self._channels, {}, {}
        if self._loop is asyncio.get_running_loop():
            for channel in channels.values():
                await channel.close()  # cancels its calls
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.close()

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Send):
            return await self._send(step)
        if isinstance(step, WaitForTicket):
            await self._wait(step)
        elif isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
        else:
            return await _resolve(step)
        return None

    async def _send(self, step: Send) -> Union[Reply, Failure]:
        start = await self._call(step.target, step.path)
        self._in_flight[step.target] += 1
        try:
            call = start(step.body, timeout=step.timeout_s, metadata=step.metadata)
            body = await call
            return Reply(body, trailing_of(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            return Failure(error.code().name, error.details() or "", trailing_of(error.trailing_metadata()))
        except asyncio.CancelledError as error:  # of this task, or of the call when the channel was closed
            if self._core.closed:
                raise ClosedError("the client was closed during the call") from error
            raise  # grpc.aio has cancelled the call
        finally:
            self._in_flight[step.target] -= 1

    async def _wait(self, step: WaitForTicket) -> None:
        loop = asyncio.get_running_loop()
        granted = asyncio.Event()

        def wake() -> None:  # called by whoever gives a place back, perhaps in another thread
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it whoever waited
                loop.call_soon_threadsafe(granted.set)

        self._core.window.when_granted(step.ticket, wake)
        if not self._core.closed:
            with contextlib.suppress(asyncio.TimeoutError):  # the core sees that the ticket was not granted
                await asyncio.wait_for(granted.wait(), step.timeout_s)

    async def _call(self, target: Target, path: str) -> Callable[..., Any]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._channels, self._calls = loop, {}, {}
        if target not in self._channels:
            await self._drop_old()
        if self._core.closed:
            raise ClosedError("the client is closed")
        found = self._calls.get((target, path))
        if found is None:
            if target not in self._channels:
                self._channels[target] = open_channel(grpc.aio, target, self._core.options.tls_options)
            found = self._calls[(target, path)] = self._channels[target].unary_unary(path)
        return found

    async def _drop_old(self) -> None:
        """Closes channels to addresses that a name no longer has. Not while a call is on one: its end by the channel
        would look like a cancellation of the caller's task."""
        for target in set(self._channels) - set(self._core.pool.targets):
            channel = None if self._in_flight[target] else self._channels.pop(target, None)
            if channel is not None:
                self._calls = {key: call for key, call in self._calls.items() if key[0] != target}
                await channel.close()


async def _resolve(step: Resolve) -> Sequence[str]:
    """In a thread of its own: the event loop would wait at its end for one of its default executor's."""
    try:
        looked_up = asyncio.wrap_future(begun(partial(addresses_of, step)))
        return await asyncio.wait_for(looked_up, step.timeout_s)
    except asyncio.TimeoutError:
        return ()
