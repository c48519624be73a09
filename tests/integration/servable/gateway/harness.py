"""A gateway with fake backends on an event loop of its own thread, and a plain gRPC client for it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import grpc
import numpy as np

from metric_learn_client import wire
from servable.config.sections import Config, ReadinessSection
from servable.gateway import Backends, Gateway
from tests.integration.servable.gateway.fake_serving import FakeBackend, FakeServing
from tests.patience import patient

WAIT_S = 10.0


def config_of(*, server=None, **sections):
    """A configuration with free ports. server: keys beside or instead of the addresses; the others are sections."""
    free = {"address": "127.0.0.1:0", "http_address": "127.0.0.1:0", "api_address": "127.0.0.1:0"}
    return Config(server={**free, **(server or {})}, **sections)


class LoopThread:
    """An event loop on a thread of its own, and ways to have something done there."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    @staticmethod
    def wait_s():
        """Seconds that anything may take there."""
        return WAIT_S

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(self.wait_s())

    def start(self, coroutine):
        """Runs beside the test; the future returned has its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call(self, function, *arguments):
        """On that loop, as the supervisor does."""

        async def inside():
            return function(*arguments)

        return self.run(inside())

    @contextlib.contextmanager
    def standing(self):
        """The event loop stands still inside the block, so that what comes piles up in front of it."""
        stands, goes_on = threading.Event(), threading.Event()
        self.loop.call_soon_threadsafe(lambda: (stands.set(), goes_on.wait(WAIT_S)))
        assert stands.wait(self.wait_s())
        try:
            yield
        finally:
            goes_on.set()

    def end_loop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)
        self.loop.close()


class Harness(LoopThread):
    """`with Harness(folder) as h:` -> h.gateway, h.serving, h.backends, h.address."""

    def __init__(self, folder, settings=None, *, backend=None, start_backend=True, serving=None, **gateway_options):
        super().__init__()
        self.folder = folder
        self.settings = settings or config_of()
        self.backend = backend or FakeBackend(target=f"unix:{folder}/backend.sock")
        self.serving = serving or FakeServing()
        self.unhealthy: list[tuple[int, str]] = []
        self._start_backend = start_backend
        self._gateway_options = gateway_options

    def __enter__(self):
        self._thread.start()
        try:
            self.run(self._start())
        except BaseException:
            self.end_loop()
            raise
        self.address, self.http_address = self.gateway.address, self.gateway.http_address
        self.api_address = self.gateway.api_address
        if self._start_backend:
            self.wait_serving()
        return self

    def __exit__(self, *exc):
        self.run(self._stop())
        self.end_loop()

    async def _start(self):
        self.backends = Backends(self.backend.version)
        self.gateway = Gateway(
            self.settings,
            self.backends,
            on_unhealthy=lambda served, reason: self.unhealthy.append((served.version, reason)),
            **self._gateway_options,
        )
        await self.serving.start(self.backend.target[len("unix:") :])
        try:
            await self.gateway.start()
        except BaseException:
            await self.serving.stop()
            raise
        if self._start_backend:
            self.backends.set_ready(self.backend)

    async def _stop(self):
        await self.gateway.stop()
        await self.serving.stop()

    def wait_serving(self, version=0):
        assert self.run(self.backends.wait_serving(version, WAIT_S)), self.backends.default.reason

    def channel(self, credentials=None, options=()):
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), *options]
        if credentials is not None:
            return grpc.secure_channel(self.address, credentials, options)
        return grpc.insecure_channel(self.address, options)

    def http(self, path):
        """(status, body)."""
        try:
            with urllib.request.urlopen(f"http://{self.http_address}{path}", timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def api(self, method, path, body=None, headers=(), *, context=None):
        """(status, headers by name in lower case, body) of the API over HTTP; `body` that is no bytes goes as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        kind = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
        options = {} if context is None else {"context": context}
        connection = kind(self.api_address, timeout=WAIT_S, **options)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def api_socket(self):
        """A connection for bytes that no client of HTTP sends."""
        host, _, port = self.api_address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=WAIT_S)


def answers(connection):
    """All that comes until the end of the connection."""
    found = b""
    try:
        while chunk := connection.recv(65536):
            found += chunk
    except ConnectionResetError:
        pass
    return found


def request(*images, method="embed", version=0, name=wire.SERVABLE_NAME):
    message = wire.PredictRequest()
    message.servable_spec.name, message.servable_spec.method_name = name, method
    message.servable_spec.version_number = version
    for image in images:
        tensor = message.instances.add().items[wire.ITEM_IMAGE]
        tensor.dtype = wire.DataType.MS_BYTES
        tensor.shape.dims.append(1)
        tensor.bytes_val.append(image)
    return message


def predict(channel, message, *, timeout=WAIT_S, metadata=()):
    """(reply, trailing metadata as dict). `message` may be raw bytes. Raises grpc.RpcError."""
    body = message if isinstance(message, bytes) else message.SerializeToString()
    call = channel.unary_unary(wire.PREDICT_PATH, response_deserializer=wire.PredictReply.FromString)
    reply, done = call.with_call(body, timeout=timeout, metadata=metadata)
    return reply, dict(done.trailing_metadata())


def predict_future(channel, message, *, timeout=WAIT_S, metadata=()):
    body = message if isinstance(message, bytes) else message.SerializeToString()
    call = channel.unary_unary(wire.PREDICT_PATH, response_deserializer=wire.PredictReply.FromString)
    return call.future(body, timeout=timeout, metadata=metadata)


def rows(reply):
    return np.stack([np.frombuffer(each.items[wire.ITEM_EMBEDDING].data, "<f4") for each in reply.instances])


def until(condition, what="the condition", bound_s=WAIT_S):
    """Polls with a bound; returns the condition's value."""
    began = time.monotonic()
    while time.monotonic() - began < patient(bound_s):
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"{what} did not come true within {patient(bound_s):.0f} s")


def noticing_hangs_soon():
    """A golden picture that stays away is noticed after a second, and a busy machine is not taken for it."""
    return ReadinessSection(interval_s=0.1, deadline_s=patient(0.3), forced_interval_s=0.3)
