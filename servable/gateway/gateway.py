"""The gateway as a whole: its ports, and one queue with its readiness for each served version."""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

import grpc

from metric_learn_client.wire import (
    GET_MODEL_PATH,
    HEALTH_CHECK_PATH,
    METADATA_AUTHORIZATION,
    PREDICT_PATH,
)
from servable.config.addresses import Address, parse_address
from servable.config.sections import Config
from servable.gateway.backends import Backends, Served
from servable.gateway.bind import API, GRPC, HTTP, cannot_bind, usable_hosts, write_address
from servable.gateway.call.calls import Calls
from servable.gateway.call.model_service import describe_model
from servable.gateway.call.predict import predict
from servable.gateway.call.questions import Questions
from servable.gateway.errors import CallError, StartError
from servable.gateway.http.application import Application
from servable.gateway.http.forms import api
from servable.gateway.http.forms.page import PageState
from servable.gateway.http.http_server import HttpServer
from servable.gateway.http2.grpc_server import GrpcServer
from servable.gateway.inference.grpc_service import InferenceService
from servable.gateway.limits.admission import Admission
from servable.gateway.observe.health import HealthService
from servable.gateway.observe.http_pages import MAX_CONNECTIONS, HttpPages, Page
from servable.gateway.observe.metrics import GatewayMetrics
from servable.gateway.observe.tracing import Tracer
from servable.gateway.preparation import prepare
from servable.gateway.queue.dispatcher import Dispatcher
from servable.gateway.queue.suspects import Trial
from servable.gateway.readiness import Readiness
from servable.gateway.security.tls import HTTP_1, HTTP_2, Certificates
from servable.gateway.security.tokens import Tokens

HEALTH_WATCH_PATH = HEALTH_CHECK_PATH.replace("/Check", "/Watch")
PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
RESERVED_DESCRIPTORS = MAX_CONNECTIONS + 256  # of probes; of files, the pipes and sockets to MindSpore Serving
BATCH_GRACE_S = 5.0  # a batch may outlive the calls that it came from
log = logging.getLogger(__name__)


def _no_batch_runs() -> Mapping[int, tuple[int, int]]:
    return {}


class Gateway:
    """Start it, tell it of backends through `backends`, drain it, stop it. All on one event loop.

    on_unhealthy: a version's backend stays wrong or silent and should be replaced; called once for each backend.
    batch_runs: batch size -> (runs, images) of the network so far; decoder_restarts: decoders that ended unasked.
    trial: where images are tried that were in a backend when it ended.
    """

    def __init__(
        self,
        settings: Config,
        backends: Backends,
        *,
        on_unhealthy: Callable[[Served, str], None],
        batch_runs: Callable[[], Mapping[int, tuple[int, int]]] = _no_batch_runs,
        decoder_restarts: Callable[[], int] = lambda: 0,
        trial: Optional[Trial] = None,
    ) -> None:
        self._settings = settings
        self._backends = backends
        self._on_unhealthy = on_unhealthy
        self._trial = trial
        self._admission = Admission(settings.limits, time.monotonic)
        self.metrics = GatewayMetrics(self._admission, backends, batch_runs, decoder_restarts)
        self._queues: dict[Served, tuple[Dispatcher, asyncio.Task[None]]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._health = HealthService(lambda: not self._not_ready())
        self._questions = Questions()
        self._draining = False
        self._server: Optional[GrpcServer] = None
        self._http: Optional[HttpPages] = None
        self._api: Optional[HttpServer] = None
        self._calls: Optional[Calls] = None
        self._tokens: Optional[Tokens] = None
        self._tracer: Optional[Tracer] = None
        self.address = settings.server.address
        self.http_address = settings.server.http_address
        self.api_address = settings.server.api_address

    async def start(self) -> None:
        """Binds all ports. Raises StartError with all problems; nothing is left bound then."""
        settings = self._settings
        prepared = prepare(settings)
        reloaded = self._count_reload
        certificates: Optional[Certificates] = None
        if prepared.certificates is not None:
            certificates = Certificates(settings, prepared.certificates, reloaded)
            self.metrics.watch_certificate(lambda: certificates.expires_at)
        self._tokens = None if prepared.tokens is None else Tokens(settings, prepared.tokens, reloaded)
        self._tracer = Tracer(settings.tracing)
        self._calls = Calls(
            settings, self._backends, self._admission, self._dispatcher_of, self._tokens, self.metrics, self._tracer
        )
        self._backends.on_added = self._add_queue
        self._backends.on_default = lambda version: self._health.changed()
        for served in self._backends.all():
            self._add_queue(served)
        try:
            self.http_address = await self._start_http(parse_address(settings.server.http_address))
            if settings.server.api_address:
                self.api_address = await self._start_api(parse_address(settings.server.api_address), certificates)
            self.address = await self._start_grpc(parse_address(settings.server.address), certificates)
        except BaseException:
            await self.stop()
            raise

    async def drain(self, grace_s: float) -> bool:
        """Not ready, then no new calls, then the end of those in flight. True when none was left after `grace_s`."""
        began = time.monotonic()
        self._draining = True
        self._health.changed()
        await asyncio.sleep(min(self._settings.server.drain_notice_s, grace_s))
        if self._calls is not None:
            self._calls.draining = True
        if self._api is not None:
            self._api.finish()
        while self._admission.calls and time.monotonic() - began < grace_s:
            await asyncio.sleep(0.02)
        return not self._admission.calls

    async def stop(self) -> None:
        """Ends everything that is left. Calls in flight are cancelled: `drain` first."""
        self._draining = True
        if self._server is not None:
            await self._server.stop(0.2)  # replies on their way still leave
            self._server = None
        if self._api is not None:
            await self._api.stop()
            self._api = None
        for served in list(self._queues):
            self._drop_queue(served)
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
        if self._http is not None:
            await self._http.stop()
            self._http = None
        if self._tracer is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._tracer.close)
            self._tracer = None

    async def _start_http(self, address: Address) -> str:
        pages = {"/livez": lambda: Page("200 OK", b"alive\n"), "/readyz": self._readyz, "/metrics": self._metrics_page}
        http = HttpPages(pages)
        try:
            hosts = usable_hosts(address)
            port = await http.start(hosts if address.port else hosts[:1], address.port)  # a free port is one port
        except OSError as error:
            raise StartError(cannot_bind(self._settings, HTTP, error)) from error
        self._http = http
        return write_address(Address(address.host, port))

    async def _start_api(self, address: Address, certificates: Optional[Certificates]) -> str:
        settings = self._settings
        assert self._calls is not None
        state = PageState(self._not_ready, lambda: parse_address(self.address).port or None)
        application = Application(
            settings, self._calls, api(settings, self._backends, self._tokens, state, self._is_ready), self._tokens
        )
        context = None if certificates is None else functools.partial(certificates.context, HTTP_1)
        server = HttpServer(application, self._most_connections(), context)
        try:
            port = await server.start(address)
        except OSError as error:
            raise StartError(cannot_bind(settings, API, error)) from error
        self._api = server
        return write_address(address if address.path is not None else Address(address.host, port))

    def _most_connections(self) -> int:
        """On each of the public ports."""
        wanted, ports = self._settings.limits.max_connections, 2 if self._settings.server.api_address else 1
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return wanted
        return max(1, min(wanted, (soft - min(RESERVED_DESCRIPTORS, soft // 2)) // ports))

    async def _start_grpc(self, address: Address, certificates: Optional[Certificates]) -> str:
        settings = self._settings
        assert self._calls is not None
        server = GrpcServer(
            self._handlers(),
            self._unknown(),
            settings.limits,
            settings.deadlines,
            most_connections=self._most_connections(),
            reflection=settings.server.reflection,
            context=None if certificates is None else functools.partial(certificates.context, HTTP_2),
        )
        try:
            port = await server.start(address)
        except OSError as error:
            raise StartError(cannot_bind(settings, GRPC, error)) from error
        self._server = server
        return write_address(address if address.path is not None else Address(address.host, port))

    def _handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        assert self._calls is not None
        return {
            PREDICT_PATH: grpc.stream_unary_rpc_method_handler(predict(self._calls, self._settings.limits).handle),
            HEALTH_CHECK_PATH: self._questions.answers(self._health.check),
            HEALTH_WATCH_PATH: self._questions.streams(self._health.watch),
            GET_MODEL_PATH: self._questions.answers(self._get_model),
            **InferenceService(
                self._calls,
                self._questions,
                self._backends,
                self._settings.limits,
                self._is_ready,
                self._authorize,
            ).handlers(),
        }

    def _unknown(self) -> grpc.RpcMethodHandler:
        """Every other path, reflection too."""
        known = ", ".join(self._handlers())
        words = f"there is no such call here; known: {known}"
        return self._questions.refuses(CallError(grpc.StatusCode.UNIMPLEMENTED, words))

    def _authorize(self, context: Any) -> None:
        """Raises CallError (UNAUTHENTICATED)."""
        if self._tokens is not None:
            self._tokens.check(dict(context.invocation_metadata() or ()).get(METADATA_AUTHORIZATION))

    async def _get_model(self, body: bytes, context: Any) -> bytes:
        self._authorize(context)
        return describe_model(body, self._backends, self._settings.limits)

    def _not_ready(self, served: Optional[Served] = None) -> str:
        """Why this server should get no calls for the version, None = the default one; "" when it should."""
        if self._draining:
            return "stopping"
        served = served or self._backends.default
        return "" if served.serving else f"version {served.version} is {served.state.value}: {served.reason}"

    def _is_ready(self, served: Optional[Served]) -> bool:
        return not self._not_ready(served)

    def _readyz(self) -> Page:
        reason = self._not_ready()
        if reason:
            return Page("503 Service Unavailable", f"not ready: {reason}\n".encode())
        missing = self._backends.default.missing_workers
        return Page("200 OK", f"ready, but {missing} worker(s) are lost\n".encode() if missing else b"ready\n")

    def _metrics_page(self) -> Page:
        return Page("200 OK", self.metrics.page(), PROMETHEUS_TEXT)

    def _count_reload(self, ok: bool) -> None:
        self.metrics.reloads.labels("ok" if ok else "failed").inc()

    def _dispatcher_of(self, served: Served) -> Dispatcher:
        return self._queues[served][0]

    def _add_queue(self, served: Served) -> None:
        settings = self._settings
        dispatcher = Dispatcher(
            served,
            wait_when_down=settings.server.when_down == "wait",
            timeout_s=settings.deadlines.max_s + BATCH_GRACE_S,
            on_images=self._admission.finished,
            trial=self._trial,
        )
        readiness = Readiness(served, dispatcher, settings.readiness, self._on_unhealthy, self.metrics)
        self._queues[served] = (dispatcher, asyncio.ensure_future(readiness.run()))
        served.listeners.append(self._changed)

    def _changed(self, served: Served) -> None:
        self._health.changed()
        if served.retired:
            self._drop_queue(served)

    def _drop_queue(self, served: Served) -> None:
        queue = self._queues.pop(served, None)
        if queue is None:
            return
        dispatcher, readiness = queue
        served.listeners.remove(self._changed)
        readiness.cancel()
        closing = asyncio.ensure_future(dispatcher.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
