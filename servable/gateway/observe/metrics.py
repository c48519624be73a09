"""What Prometheus sees. Names and labels in the field's form; one registry a gateway, never the global one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, Optional

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from servable.gateway.backends import Backends
from servable.gateway.limits.admission import Admission
from servable.gateway.observe.logs import dropped_lines

log = logging.getLogger(__name__)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BatchRuns = Callable[[], Mapping[int, "tuple[int, int]"]]  # batch size -> (runs, images) since the server started


class GatewayMetrics:
    """Counters that the gateway moves, and gauges that are read when Prometheus asks."""

    def __init__(
        self, admission: Admission, backends: Backends, batch_runs: BatchRuns, decoder_restarts: Callable[[], int]
    ) -> None:
        self._by_call: dict[tuple[str, str, str], _CallCounters] = {}
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a time beside every counter that nobody asks for
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Calls that ended, by gRPC status.", "wire", "method", "code")
        self.images = self._counter("images", "Images that got an embedding.", "method")
        self.image_failures = self._counter(
            "image_failures", "Images that failed inside a good call.", "method", "code"
        )
        self.request_bytes = self._counter("request_bytes", "Bytes of the bodies received.", "method")
        self.duration = self._histogram("request_duration_seconds", "Headers to reply.", SECONDS, "method")
        self.queue_wait = self._histogram(
            "queue_wait_seconds", "From a call's acceptance to its first image's way to the backend.", SECONDS, "method"
        )
        self.request_images = self._histogram("request_images", "Images in a call.", IMAGES, "method")
        self.probes = self._counter("readiness_probes", "Golden pictures sent, by result.", "result")
        self.probe_duration = self._histogram("readiness_probe_duration_seconds", "Time of a golden picture.", SECONDS)
        self.reloads = self._counter("security_reloads", "Certificates or tokens read again, by result.", "result")
        self._gauge("in_flight_requests", "Calls accepted and not yet answered.", lambda: admission.calls)
        self._gauge("in_flight_images", "Images of those calls.", lambda: admission.images)
        self._gauge("in_flight_bytes", "Bytes of those images.", lambda: admission.bytes)
        self.registry.register(_Logs())
        self.registry.register(_Versions(backends))
        self.registry.register(_BatchRuns(batch_runs))
        self.registry.register(_Decoders(decoder_restarts))

    def call_ended(
        self,
        wire: str,
        method: str,
        code: str,
        *,
        seconds: float,
        queue_s: Optional[float],
        size: int,
        images: int,
        failures: Sequence[str],
    ) -> None:
        """One call: `images` asked for, of which those in `failures` (their codes) got none.

        queue_s: until its first image was sent to the backend; None where none was.
        """
        counters = self._by_call.get((wire, method, code))
        if counters is None:  # looking children up by label takes longer than counting
            counters = self._by_call[wire, method, code] = _CallCounters(self, wire, method, code)
        counters.requests.inc()
        counters.duration.observe(seconds)
        counters.request_bytes.inc(size)
        if queue_s is not None:
            counters.queue_wait.observe(queue_s)
        if images:
            counters.request_images.observe(images)
        if code == "OK":
            counters.images.inc(images - len(failures))
        for failure in failures:
            self.image_failures.labels(method, failure).inc()

    def probe(self, seconds: float, *, ok: bool) -> None:
        self.probes.labels("ok" if ok else "failed").inc()
        self.probe_duration.observe(seconds)

    def page(self) -> bytes:
        """The text that Prometheus scrapes."""
        text: bytes = generate_latest(self.registry)
        return text

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"metric_learn_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"metric_learn_{name}", text, labels, buckets=tuple(buckets), registry=self.registry)

    def watch_certificate(self, expires_at: Callable[[], float]) -> None:
        """There is a certificate; `expires_at`: unix time."""
        self._gauge("certificate_expiry_timestamp_seconds", "End of the server's certificate.", expires_at)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(f"metric_learn_{name}", text, registry=self.registry).set_function(read)


class _CallCounters:
    """The children of one wire, method and code."""

    def __init__(self, metrics: GatewayMetrics, wire: str, method: str, code: str) -> None:
        self.requests = metrics.requests.labels(wire, method, code)
        self.duration = metrics.duration.labels(method)
        self.queue_wait = metrics.queue_wait.labels(method)
        self.request_bytes = metrics.request_bytes.labels(method)
        self.request_images = metrics.request_images.labels(method)
        self.images = metrics.images.labels(method)


class _Logs(Collector):
    """The log is set up before the gateway, and outlives it."""

    def collect(self) -> Iterable[Metric]:
        dropped = CounterMetricFamily("metric_learn_log_lines_dropped", "Log lines lost: their reader is too slow.")
        dropped.add_metric([], dropped_lines())
        return [dropped]

    def describe(self) -> Iterable[Metric]:
        return []


class _Versions(Collector):
    """Readiness, restarts and identity of each served version."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends

    def collect(self) -> Iterable[Metric]:
        ready = GaugeMetricFamily("metric_learn_ready", "1: calls without a version are served.")
        ready.add_metric([], float(self._backends.default.serving))
        version_ready = GaugeMetricFamily(
            "metric_learn_version_ready", "1: its golden picture comes back right.", labels=["version"]
        )
        restarts = CounterMetricFamily(
            "metric_learn_backend_restarts", "Backends started after the first.", labels=["version"]
        )
        deaths = CounterMetricFamily(
            "metric_learn_backend_deaths_with_suspects",
            "Backends that ended, or hung, with images in them.",
            labels=["version"],
        )
        suspects = CounterMetricFamily(
            "metric_learn_suspect_images",
            "Images that were in a backend when it ended, by what became of them.",
            labels=["version", "result"],
        )
        missing = GaugeMetricFamily(
            "metric_learn_missing_workers", "Workers, and their devices, that its backend has lost.", labels=["version"]
        )
        names = ["version", "fingerprint", "weights", "preprocessing", "default"]
        info = GaugeMetricFamily("metric_learn_model_info", "What is served; always 1.", labels=names)
        for served in self._backends.all():
            version, backend = str(served.version), served.backend
            version_ready.add_metric([version], float(served.serving))
            restarts.add_metric([version], served.restarts)
            missing.add_metric([version], served.missing_workers)
            deaths.add_metric([version], served.deaths_with_suspects)
            for result, count in served.suspect_images.items():
                suspects.add_metric([version, result], count)
            if backend is not None:
                default = "true" if served is self._backends.default else "false"
                info.add_metric([version, backend.fingerprint, backend.weights, backend.preprocessing, default], 1.0)
        return [ready, version_ready, restarts, deaths, suspects, missing, info]

    def describe(self) -> Iterable[Metric]:
        return []


class _Decoders(Collector):
    """Counted where the decoders are, in the workers."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        restarts = CounterMetricFamily(
            "metric_learn_decoder_restarts", "Decoder processes that ended unasked, most often by an image."
        )
        restarts.add_metric([], self._read())
        return [restarts]

    def describe(self) -> Iterable[Metric]:
        return []


class _BatchRuns(Collector):
    """Fill = batch_images / (runs x batch_size); padding = the rest."""

    def __init__(self, read: BatchRuns) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        runs = CounterMetricFamily("metric_learn_batch_runs", "Runs of the network.", labels=["batch_size"])
        images = CounterMetricFamily("metric_learn_batch_images", "Images in those runs.", labels=["batch_size"])
        padding = CounterMetricFamily(
            "metric_learn_batch_padding", "Places in those runs without an image.", labels=["batch_size"]
        )
        try:
            counted = self._read()
        except Exception:  # someone else's code: the other metrics must not go with it
            log.exception("batch statistics could not be read")
            counted = {}
        for size, (count, filled) in sorted(counted.items()):
            runs.add_metric([str(size)], count)
            images.add_metric([str(size)], filled)
            padding.add_metric([str(size)], count * size - filled)
        return [runs, images, padding]

    def describe(self) -> Iterable[Metric]:
        return []
