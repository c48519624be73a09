"""The Open Inference Protocol over HTTP: the same rows as Predict's, statuses, and the protocol's own errors."""

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest

from servable.config.sections import SecuritySection
from tests.integration.servable.gateway.fake_serving import FakeBackend, embedding_of
from tests.integration.servable.gateway.harness import Harness, config_of, until

MODEL = "/v2/models/metric_learn"
TOKEN = "0123456789abcdef-first"
LENGTH = "inference-header-content-length"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    limits = {"max_instances": 4, "max_image_bytes": 1000, "max_request_bytes": 200_000}
    with Harness(tmp_path_factory.mktemp("gateway"), config_of(limits=limits)) as harness:
        yield harness


def packed(*elements):
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def binary_body(*images, **fields):
    """(body, headers) with the images behind the JSON, and the rows wanted there."""
    behind = packed(*images)
    tensor: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [len(images)]}
    tensor["parameters"] = {"binary_data_size": len(behind)}
    fields.setdefault("parameters", {})["binary_data_output"] = True
    text = json.dumps({"inputs": [tensor], **fields}).encode()
    return text + behind, {LENGTH: str(len(text))}


def json_body(*images, **fields):
    data = [base64.b64encode(each).decode() for each in images]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": data}], **fields}


def infer(harness, body, headers=(), path=MODEL):
    return harness.api("POST", f"{path}/infer", body, headers)


def refused(harness, body, headers=(), path=MODEL):
    """(status, words) of a call that fails."""
    status, _, answer = infer(harness, body, headers, path)
    assert set(json.loads(answer)) == {"error"} and status >= 400
    return status, json.loads(answer)["error"]


def test_rows_in_json_and_in_binary_form_are_those_of_the_network(running):
    images = [b"one" * 100, b"two" * 200]
    expected = np.stack([embedding_of(image) for image in images]).astype("<f4")
    status, headers, answer = infer(running, json_body(*images, id="mine"))
    reply = json.loads(answer)
    assert (status, reply["id"], reply["model_version"]) == (200, "mine", "1")
    assert np.array(reply["outputs"][0]["data"]).astype("<f4").tobytes() == expected.tobytes()
    status, headers, answer = infer(running, *binary_body(*images), path=f"{MODEL}/versions/1")
    length = int(headers[LENGTH])
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert json.loads(answer[:length])["outputs"][0]["parameters"] == {"binary_data_size": expected.nbytes}
    assert answer[length:] == expected.tobytes()
    assert headers["x-metric-learn-version"] == "1" and headers["x-request-id"]
    assert headers["x-metric-learn-fingerprint"] == running.backend.fingerprint


def test_an_id_that_utf_8_cannot_hold_comes_back_with_a_question_mark(running):
    status, _, answer = infer(running, json_body(b"one", id="half \ud800"))
    assert status == 200 and json.loads(answer)["id"] == "half ?"


def test_a_failed_image_is_400_with_its_code_or_a_row_of_null(running):
    running.serving.image_errors[b"bad"] = "E_DECODE: the JPEG is cut off"
    assert refused(running, json_body(b"good", b"bad")) == (400, "image[1]: E_DECODE: the JPEG is cut off")
    body = json_body(b"good", b"bad", parameters={"on_error": "null"})
    body["inputs"][0]["data"].append("no base64!")
    body["inputs"][0]["shape"] = [3]
    status, _, answer = infer(running, body)
    (output,) = json.loads(answer)["outputs"]
    assert status == 200 and output["data"][2048:] == [None] * 4096
    assert output["parameters"]["1"] == "E_DECODE: the JPEG is cut off"
    assert output["parameters"]["2"].startswith("E_DECODE: the base64")


def test_mistakes_are_4xx_with_words(running):
    assert refused(running, b"{")[0] == 400
    assert refused(running, json_body(*[b"x"] * 5))[0] == 400
    assert refused(running, bytes(200_001))[0] == 413
    assert refused(running, json_body(b"x"), path="/v2/models/resnet")[0] == 404
    for version in ("2", "latest", "0"):
        assert refused(running, json_body(b"x"), path=f"{MODEL}/versions/{version}")[0] == 404
    body, headers = binary_body(b"x")
    assert refused(running, body + b"x", headers)[0] == 400
    assert refused(running, body, {LENGTH: "99999"})[0] == 400
    status, words = refused(running, body, {**headers, "content-encoding": "gzip"})
    assert status == 415 and "uncompressed" in words


@pytest.mark.parametrize("path", ["/v2/models", f"{MODEL}/config", "/v2/models/stats", "/v2/repository/index"])
def test_paths_of_other_servers_are_not_found_in_the_protocols_form(running, path):
    status, _, answer = running.api("GET", path)
    assert status == 404 and isinstance(json.loads(answer)["error"], str)


def test_server_and_model_describe_themselves(running):
    status, _, answer = running.api("GET", "/v2")
    assert status == 200 and json.loads(answer)["name"] == "metric_learn_serving"
    for path in (MODEL, f"{MODEL}/versions/1"):
        status, _, answer = running.api("GET", path)
        assert status == 200 and json.loads(answer)["versions"] == ["1"]
    for path in (f"{MODEL}/versions/2", "/v2/models/resnet", f"{MODEL}/versions/2/ready"):
        assert running.api("GET", path)[0] == 404


def test_readiness_is_that_of_the_version_and_ends_with_the_drain(tmp_path):
    with Harness(tmp_path) as harness:

        def answer(path):
            status, headers, body = harness.api("GET", path)
            assert status == 200 or headers["retry-after"] == "1"
            return status, json.loads(body).get("ready", False)

        harness.call(harness.backends.set_ready, FakeBackend(f"unix:{tmp_path}/nobody.sock", version=2))
        assert answer("/v2/health/ready") == (200, True)
        assert answer(f"{MODEL}/ready") == answer(f"{MODEL}/versions/1/ready") == (200, True)
        assert answer(f"{MODEL}/versions/2/ready") == (503, False)
        drained = harness.start(harness.gateway.drain(1.0))
        until(lambda: answer("/v2/health/ready") == (503, False), "not ready")
        assert answer(f"{MODEL}/ready") == (503, False)
        assert harness.api("GET", "/v2/health/live")[0] == 200
        drained.result(10)


def test_calls_and_metadata_need_the_token_and_readiness_does_not(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"{TOKEN}\n")
    with Harness(tmp_path, config_of(security=SecuritySection(tokens_file=tokens))) as harness:
        for token, status in (("x" * 20, 401), (TOKEN, 200)):
            headers = {"authorization": f"Bearer {token}"}
            assert infer(harness, json_body(b"x"), headers)[0] == status
            for path in ("/v2", MODEL):
                assert harness.api("GET", path, headers=headers)[0] == status
        for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready"):
            assert harness.api("GET", path)[0] == 200


def test_metrics_name_the_wire(running):
    infer(running, json_body(b"x"))
    until(lambda: 'wire="oip"' in running.http("/metrics")[1], "the counter")
