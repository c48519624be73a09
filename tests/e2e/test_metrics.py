"""The real server's health and metrics by the standard tools: they say what was sent."""

import json
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from metric_learn_client import wire

from .conftest import VERSIONS
from .load import IMAGES, predict_on, request_of


def samples(server):
    with urllib.request.urlopen(f"http://{server.http_endpoint}/metrics", timeout=10) as page:
        assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = page.read().decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def total(found, name, **labels):
    return sum(one.value for one in found if one.name == name and labels.items() <= one.labels.items())


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.endpoint) as made:
        yield made


def test_counters_equal_what_was_sent(server, channel):
    before = samples(server)
    predict = predict_on(channel)
    sizes = [1, 3, 8, 20, 1]
    for size in sizes:
        predict(request_of([index % len(IMAGES) for index in range(size)]), timeout=60)
    broken = request_of([0, 1])
    broken.instances[0].items["image"].bytes_val[0] = IMAGES[0][:1000]
    predict(broken, timeout=60)
    for _ in range(4):
        with pytest.raises(grpc.RpcError):
            predict(request_of([]), timeout=10)
    after = samples(server)

    def grown(name, **labels):
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("metric_learn_requests_total") == len(sizes) + 1 + 4
    assert grown("metric_learn_requests_total", method="embed", code="OK") == len(sizes) + 1
    assert grown("metric_learn_requests_total", code="INVALID_ARGUMENT") == 4
    assert grown("metric_learn_images_total", method="embed") == sum(sizes) + 1
    assert grown("metric_learn_image_failures_total", method="embed", code="E_DECODE") == 1
    assert grown("metric_learn_request_duration_seconds_count") == len(sizes) + 1 + 4
    assert grown("metric_learn_request_images_sum") == sum(sizes) + 2
    assert grown("metric_learn_queue_wait_seconds_count") == len(sizes) + 1
    # Images of the network's runs: those that were embedded, and golden pictures.
    golden = grown("metric_learn_readiness_probes_total")
    assert sum(sizes) + 1 <= grown("metric_learn_batch_images_total") <= sum(sizes) + 1 + golden + 1


def test_identity_is_a_metric(server):
    manifest = json.loads((VERSIONS / "1" / "manifest.json").read_text())
    found = samples(server)
    assert total(found, "metric_learn_model_info", fingerprint=manifest["fingerprint"], version="1") == 1
    assert total(found, "metric_learn_ready") == 1
    assert total(found, "metric_learn_readiness_probes_total", result="ok") >= 1


def test_the_standard_health_client_and_the_pages_agree(server, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", wire.HEALTH_SERVICE_PREDICT):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    for page, text in (("/readyz", b"ready\n"), ("/livez", b"alive\n")):
        with urllib.request.urlopen(f"http://{server.http_endpoint}{page}", timeout=10) as answer:
            assert (answer.status, answer.read()) == (200, text)


def test_get_model_says_what_is_served(server, channel):
    manifest = json.loads((VERSIONS / "1" / "manifest.json").read_text())
    call = channel.unary_unary(wire.GET_MODEL_PATH, response_deserializer=wire.GetModelReply.FromString)
    model = call(b"", timeout=10)
    assert (model.name, model.version, model.dim) == ("metric_learn", 1, 2048)
    assert (model.fingerprint, model.weights) == (manifest["fingerprint"], manifest["weights"])
