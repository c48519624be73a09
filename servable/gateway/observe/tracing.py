"""OpenTelemetry spans of calls, exported over OTLP; nothing of it is imported unless it is switched on.

A caller's `traceparent` (W3C Trace Context) is continued.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from servable.config.problem import NOT_READY, Problem, wrong
from servable.config.sections import Config, TracingSection

SERVICE = "metric-learn-serving"
PACKAGES = {  # distribution -> what is imported of it
    "opentelemetry-sdk": "opentelemetry.sdk",
    "opentelemetry-exporter-otlp-proto-grpc": "opentelemetry.exporter.otlp.proto.grpc",
}
EXPORT_S = 2  # retries included: an absent collector must not hold up the end of the server
Attributes = dict[str, "str | int | float | bool"]
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def tracing_problems(config: Config) -> Iterator[Problem]:
    """Where tracing is switched on: a package that is not installed, and an endpoint that spans cannot go to."""
    if not config.tracing.enabled:
        return
    if not _usable(config.tracing.otlp_endpoint):
        what = "must be http:// or https:// (TLS) with a host"
        yield wrong(config, "tracing.otlp_endpoint", what, "give one such as http://127.0.0.1:4317")
    for distribution, module in PACKAGES.items():
        if not _found(module):
            remedy = "run `make server-env`, or set it to false"
            yield wrong(config, "tracing.enabled", f"{distribution} is not installed", remedy, exit_code=NOT_READY)


def _usable(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        host = bool(parts.hostname) and not any(character.isspace() for character in endpoint)
        return host and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # of a host or a port that is none
        return False


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


class Tracer:
    """`span` gives a dict: what stands in it at the end becomes the span's attributes. None: nobody wants them."""

    def __init__(self, settings: TracingSection, exporter: Optional[Any] = None) -> None:
        self._tracer: Optional[Any] = None
        self._extract: Optional[Callable[[Mapping[str, str]], Any]] = None
        self._provider: Optional[Any] = None
        if settings.enabled:
            self._start(settings, exporter)

    def _start(self, settings: TracingSection, exporter: Optional[Any]) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if exporter is None:
            insecure = urlsplit(settings.otlp_endpoint).scheme == "http"
            exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=insecure, timeout=EXPORT_S)
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._extract = TraceContextTextMapPropagator().extract

    def span(self, name: str, metadata: Mapping[str, Any]) -> AbstractContextManager[Optional[Attributes]]:
        return _NO_SPAN if self._tracer is None else self._span(name, metadata)

    @contextmanager
    def _span(self, name: str, metadata: Mapping[str, Any]) -> Iterator[Attributes]:
        attributes: Attributes = {}
        assert self._tracer is not None and self._extract is not None
        from opentelemetry.trace import SpanKind, Status, StatusCode

        carrier = {key: value for key, value in metadata.items() if isinstance(value, str)}
        span = self._tracer.start_span(name, context=self._extract(carrier), kind=SpanKind.SERVER)
        try:
            yield attributes
        finally:
            span.set_attributes(attributes)
            if attributes.get("rpc.grpc.status_code", "OK") not in ("OK", 0):
                span.set_status(Status(StatusCode.ERROR))
            span.end()

    def close(self) -> None:
        """Sends what is left; bounded by the exporter's own timeout."""
        if self._provider is not None:
            self._provider.shutdown()
