"""Performs the core's steps by blocking: gRPC's blocking calls, events, sleep."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, Callable, TypeVar, Union

from metric_learn_client._client.channels import keep_heap, open_channel, trailing_of
from metric_learn_client._client.core.calling import Core
from metric_learn_client._client.core.steps import Failure, Reply, Resolve, Send, Sleep, Step, Steps, WaitForTicket
from metric_learn_client._client.core.targets import Target
from metric_learn_client._client.daemon_threads import Workers, in_time
from metric_learn_client._client.fork_safe_grpc import grpc, keep_grpc
from metric_learn_client.errors import ClosedError

Result = TypeVar("Result")


class BlockingShell:
    """The channels and threads of one client in one process. Thread-safe."""

    def __init__(self, core: Core) -> None:
        self.workers = Workers(core.options.max_in_flight)
        self._core = core
        keep_heap()
        self._lock = threading.Lock()
        self._channels: dict[Target, Any] = {}
        self._calls: dict[tuple[Target, str], Callable[..., Any]] = {}
        self._closing = threading.Event()

    def run(self, steps: Steps[Result]) -> Result:
        """Drives the steps to their end in the calling thread."""
        answer: Any = None
        try:
            while True:
                answer = self._perform(steps.send(answer))
        except StopIteration as end:
            result: Result = end.value
            return result
        finally:
            steps.close()

    def close(self) -> None:
        self._core.closed = True
        self._closing.set()
        self._core.window.wake_all()
        with self._lock:
            channels = list(self._channels.values())
            self._channels, self._calls = {}, {}
        for channel in channels:
            channel.close()  # cancels its calls
        self.workers.close()

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Send):
            return self._send(step)
        if isinstance(step, WaitForTicket):
            granted = threading.Event()
            self._core.window.when_granted(step.ticket, granted.set)
            if not self._core.closed:
                granted.wait(step.timeout_s)
        elif isinstance(step, Sleep):
            self._closing.wait(step.seconds)
        else:
            return _resolve(step)
        return None

    def _send(self, step: Send) -> Union[Reply, Failure]:
        try:
            call = self._calls.get((step.target, step.path)) or self._connect(step.target, step.path)
            body, status = call(step.body, timeout=step.timeout_s, metadata=step.metadata)
        except grpc.RpcError as error:
            return Failure(error.code().name, error.details() or "", trailing_of(error.trailing_metadata()))
        except ValueError as error:  # what grpc raises on a closed channel
            if self._core.closed:
                raise ClosedError("the client is closed") from error
            return Failure("UNAVAILABLE", str(error), {})
        return Reply(body, trailing_of(status.trailing_metadata()))

    def _connect(self, target: Target, path: str) -> Callable[..., Any]:
        with self._lock:
            if self._core.closed:
                raise ClosedError("the client is closed")
            if target not in self._channels:
                self._drop_old()
                keep_grpc()
                self._channels[target] = open_channel(grpc, target, self._core.options.tls_options)
            call: Callable[..., Any] = self._channels[target].unary_unary(path).with_call
            self._calls[(target, path)] = call
            return call

    def _drop_old(self) -> None:
        """Closes channels to addresses that a name no longer has; under the lock."""
        for target in set(self._channels) - set(self._core.pool.targets):
            self._channels.pop(target).close()
            self._calls = {key: call for key, call in self._calls.items() if key[0] != target}


def _resolve(step: Resolve) -> Sequence[str]:
    try:
        return in_time(partial(addresses_of, step), step.timeout_s)
    except TimeoutError:
        return ()


def addresses_of(step: Resolve) -> Sequence[str]:
    """The addresses of a name, of the family that the system puts first; none where it is not known. Takes as long as
    the system's name servers do."""
    try:
        found = socket.getaddrinfo(step.host, step.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found if entry[0] == found[0][0]))
