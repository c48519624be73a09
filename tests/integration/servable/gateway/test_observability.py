"""Health, pages, metrics, logs and traces: what they say is what happened."""

import io
import json
import logging
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

import servable.gateway
from metric_learn_client import wire
from servable.config.sections import LogSection, TracingSection
from servable.gateway import configure_logging
from servable.gateway.observe import logs
from servable.gateway.observe.tracing import Tracer
from tests.integration.servable.gateway.fake_serving import FakeBackend
from tests.integration.servable.gateway.harness import Harness, config_of, predict, predict_future, request, until


@pytest.fixture
def running(tmp_path):
    with Harness(tmp_path, batch_runs=lambda: {1: (5, 5), 16: (10, 120)}) as harness:
        yield harness


@pytest.fixture
def channel(running):
    with running.channel() as channel:
        yield channel


def samples(harness):
    """{(name, labels): value} of /metrics, by Prometheus' own parser."""
    found = {}
    for family in text_string_to_metric_families(harness.http("/metrics")[1]):
        for sample in family.samples:
            found[(sample.name, *sorted(sample.labels.items()))] = sample.value
    return found


def sum_of(found, name, **labels):
    return sum(value for key, value in found.items() if key[0] == name and set(labels.items()) <= set(key[1:]))


def test_counters_equal_what_was_sent(running, channel):
    running.serving.image_errors = {b"bad": "E_DECODE: broken", b"none": "E_EMPTY: no bytes"}
    for _ in range(7):
        predict(channel, request(b"a", b"bad", b"c"))
    predict(channel, request(b"none"))
    for message in (request(), request(b"x", method="other"), request(b"x", version=5), b"nonsense"):
        with pytest.raises(grpc.RpcError):
            predict(channel, message)
    found = samples(running)
    requests = "metric_learn_requests_total"
    assert sum_of(found, requests) == 12
    assert sum_of(found, requests, method="embed", code="OK") == 8
    assert sum_of(found, requests, method="embed", code="NOT_FOUND") == 1
    assert sum_of(found, requests, method="unknown", code="INVALID_ARGUMENT") == 3
    assert sum_of(found, "metric_learn_images_total", method="embed") == 14
    failures = "metric_learn_image_failures_total"
    assert sum_of(found, failures, code="E_DECODE") == 7 and sum_of(found, failures, code="E_EMPTY") == 1
    assert sum_of(found, "metric_learn_request_duration_seconds_count") == 12
    assert sum_of(found, "metric_learn_queue_wait_seconds_count", method="embed") == 8
    assert sum_of(found, "metric_learn_request_images_sum", method="embed") == 7 * 3 + 1 + 1
    for name in ("requests", "images", "bytes"):
        assert found[(f"metric_learn_in_flight_{name}",)] == 0


def test_gauges_follow_calls_in_flight(running, channel):
    running.serving.silent = True
    future = predict_future(channel, request(b"a", b"b"))
    until(lambda: samples(running)[("metric_learn_in_flight_images",)] == 2, "the gauge")
    future.cancel()
    until(lambda: samples(running)[("metric_learn_in_flight_requests",)] == 0, "the gauge")


def test_identity_readiness_restarts_and_batches_are_metrics(running):
    found = samples(running)
    labels = {"version": "1", "fingerprint": "f" * 64, "weights": "stand-in", "default": "true"}
    assert sum_of(found, "metric_learn_model_info", **labels) == 1
    assert found[("metric_learn_ready",)] == 1
    assert sum_of(found, "metric_learn_version_ready", version="1") == 1
    assert sum_of(found, "metric_learn_backend_restarts_total", version="1") == 0
    assert sum_of(found, "metric_learn_batch_runs_total", batch_size="16") == 10
    assert sum_of(found, "metric_learn_batch_images_total", batch_size="16") == 120
    assert sum_of(found, "metric_learn_batch_padding_total", batch_size="16") == 40
    assert sum_of(found, "metric_learn_readiness_probes_total", result="ok") >= 1
    running.call(running.backends.set_down, running.backend, "gone")
    assert samples(running)[("metric_learn_ready",)] == 0
    running.call(running.backends.set_ready, FakeBackend(running.backend.target))
    running.wait_serving()
    assert sum_of(samples(running), "metric_learn_backend_restarts_total", version="1") == 1


def test_batch_statistics_that_fail_do_not_take_the_other_metrics_with_them(tmp_path):
    def fails():
        raise OSError("no file")

    with Harness(tmp_path, batch_runs=fails) as harness:
        assert samples(harness)[("metric_learn_ready",)] == 1


def test_every_metric_has_the_fields_form(running, channel):
    predict(channel, request(b"x"))
    for family in text_string_to_metric_families(running.http("/metrics")[1]):
        assert family.name.startswith(("metric_learn_", "process_")), family.name
        assert family.documentation
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples), family.name


def test_the_standard_health_client_sees_serving_and_not_serving(running, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", wire.HEALTH_SERVICE_PREDICT):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    running.call(running.backends.set_down, running.backend, "gone")
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 2


def test_watch_tells_every_change(running, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=wire.HEALTH_SERVICE_PREDICT), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    running.call(running.backends.set_down, running.backend, "gone")
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    running.call(running.backends.set_ready, FakeBackend(running.backend.target))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    running.start(running.gateway.drain(0.1))
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="other"), timeout=10)
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_get_model_says_what_is_served_and_the_limits(running, channel):
    call = channel.unary_unary(wire.GET_MODEL_PATH, response_deserializer=wire.GetModelReply.FromString)
    model = call(wire.GetModelRequest(name="metric_learn").SerializeToString(), timeout=5)
    assert (model.version, model.fingerprint, model.dim, model.weights) == (1, "f" * 64, 2048, "stand-in")
    assert (model.max_instances, model.max_image_px) == (wire.DEFAULT_MAX_INSTANCES, wire.DEFAULT_MAX_IMAGE_PX)
    assert (list(model.methods), list(model.versions)) == (["embed", "embed_pixels"], [1])
    for wrong, code in (({"name": "other"}, "INVALID_ARGUMENT"), ({"version": 4}, "NOT_FOUND")):
        with pytest.raises(grpc.RpcError) as caught:
            call(wire.GetModelRequest(**wrong).SerializeToString(), timeout=5)
        assert caught.value.code().name == code


def exchange(address, data):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        connection.settimeout(10)
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
        return answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", b"200"),
        (b"HEAD /readyz HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /livez?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /livez HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_the_pages_answer_http_and_survive_the_rest(running, sent, status):
    assert exchange(running.http_address, sent).split(b" ")[1] == status
    assert running.http("/livez") == (200, "alive\n")


def test_connections_that_say_nothing_do_not_block_the_pages(running):
    host, _, port = running.http_address.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(20)]
    assert running.http("/livez")[0] == 200
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("form", ["json", "text"])
def test_each_call_is_one_log_line_with_its_request_id(tmp_path, form):
    stream = io.StringIO()
    settings = config_of(log=LogSection(format=form))
    close = configure_logging(settings.log, stream)
    try:
        with Harness(tmp_path, settings) as harness, harness.channel() as channel:
            predict(channel, request(b"a", b"b"), metadata=[("x-request-id", "id-1")])
            with pytest.raises(grpc.RpcError):
                predict(channel, request(), metadata=[("x-request-id", "id-2")])
            until(lambda: "id-2" in stream.getvalue(), "the line")
    finally:
        close()
    lines = [line for line in stream.getvalue().splitlines() if "id-" in line]
    assert len(lines) == 2
    if form == "json":
        first, second = map(json.loads, lines)
        assert (first["request_id"], first["method"], first["code"], first["images"]) == ("id-1", "embed", "OK", 2)
        assert (second["request_id"], second["code"]) == ("id-2", "INVALID_ARGUMENT")
        assert first["duration_ms"] > 0 and first["version"] == 1
    else:
        assert "request_id=id-1 method=embed code=OK images=2" in lines[0]


def test_a_reader_of_the_log_that_does_not_read_does_not_stop_the_server():
    class Stuck(io.StringIO):
        free = threading.Event()

        def write(self, text):
            self.free.wait(10)
            return len(text)

    stream, before = Stuck(), logs.dropped_lines()
    close = configure_logging(LogSection(), stream)
    try:
        for number in range(25_000):
            logging.getLogger("servable.gateway").info("line %d", number)
        assert logs.dropped_lines() - before >= 25_000 - 2 * logs.MAX_WAITING_LINES
    finally:
        stream.free.set()
        close()


def test_a_log_line_cannot_be_forged():
    stream = io.StringIO()
    close = configure_logging(LogSection(), stream)
    logging.getLogger("servable.x").warning("one\ntwo", extra={"fields": {"peer": "a\nb c"}})
    close()
    assert stream.getvalue().count("\n") == 1 and '"a\\nb c"' in stream.getvalue()


def test_traces_continue_the_callers():
    exporter = InMemorySpanExporter()
    tracer = Tracer(TracingSection(enabled=True), exporter)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with tracer.span("Predict", {"traceparent": parent}) as attributes:
        attributes["rpc.grpc.status_code"] = "UNAVAILABLE"
    tracer.close()
    (span,) = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.attributes["rpc.grpc.status_code"] == "UNAVAILABLE" and not span.status.is_ok


def test_without_tracing_nothing_of_opentelemetry_is_imported():
    import subprocess
    import sys

    code = "import sys, servable.gateway; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_collector_that_is_away_does_not_hold_up_the_end(tmp_path):
    tracing = TracingSection(enabled=True, otlp_endpoint="http://127.0.0.1:1")
    settings = config_of(tracing=tracing)
    with Harness(tmp_path, settings) as harness:
        with harness.channel() as channel:
            predict(channel, request(b"x"))
        began = time.monotonic()
        harness.run(harness.gateway.stop())
        assert time.monotonic() - began < 4


def test_the_readmes_table_of_metrics_is_the_truth(running, channel):
    predict(channel, request(b"x"))
    shown = {
        family.name + ("_total" if family.type == "counter" else ""): {
            name for sample in family.samples for name in sample.labels if name != "le"
        }
        for family in text_string_to_metric_families(running.http("/metrics")[1])
        if family.name.startswith("metric_learn_")
    }
    readme = (Path(servable.gateway.__file__).parent / "README.md").read_text()
    rows = re.findall(r"^\| `(metric_learn_\w+)` \| ([\w, ]*) ?\|", readme, re.MULTILINE)
    written = {name: {label for label in labels.replace(" ", "").split(",") if label} for name, labels in rows}
    written.pop("metric_learn_certificate_expiry_timestamp_seconds")  # only with TLS
    assert set(written) == set(shown)
    # A family without a sample yet shows no labels.
    assert {name: labels for name, labels in written.items() if shown[name]} == {
        name: labels for name, labels in shown.items() if labels
    }


def test_spans_of_calls_arrive_at_a_collector(tmp_path):
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector

    received = []

    def export(body, _context):
        received.append(collector.ExportTraceServiceRequest.FromString(body))
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": grpc.unary_unary_rpc_method_handler(export)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tracing = TracingSection(enabled=True, otlp_endpoint=f"http://127.0.0.1:{port}")
    settings = config_of(tracing=tracing)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    try:
        with Harness(tmp_path, settings) as harness, harness.channel() as channel:
            predict(channel, request(b"x"), metadata=[("traceparent", parent), ("x-request-id", "id-9")])
    finally:
        server.stop(None)
    (span,) = [one for batch in received for part in batch.resource_spans[0].scope_spans for one in part.spans]
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c" and span.parent_span_id.hex() == "b7ad6b7169203331"
    values = {attribute.key: attribute.value.string_value for attribute in span.attributes}
    assert (values["metric_learn.request_id"], values["rpc.grpc.status_code"]) == ("id-9", "OK")


def test_records_of_libraries_are_in_the_log_in_its_own_form_and_few():
    stream, before = io.StringIO(), logs.dropped_lines()
    close = configure_logging(LogSection(format="json"), stream)
    for number in range(100):
        logging.getLogger("some.library").warning("words of a library %d\nin two lines", number)
    close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0]["logger"] == "some.library" and lines[0]["message"] == "words of a library 0\nin two lines"
    assert logs.LIBRARY_RECORDS_A_SECOND <= len(lines) <= 2 * logs.LIBRARY_RECORDS_A_SECOND
    assert logs.dropped_lines() - before == 100 - len(lines)
