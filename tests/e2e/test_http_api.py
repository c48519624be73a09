"""The API over HTTP of the real server: golden pictures by each form, curl as people type it."""

import base64
import http.client
import io
import json
import shutil
import subprocess

import grpc
import numpy as np
import pytest

from .conftest import REPOSITORY
from .load import IMAGES, OPTIONS, predict_on, request_of, rows_of

PICTURES = IMAGES[:4]


@pytest.fixture(scope="module")
def by_grpc(server):
    with grpc.insecure_channel(server.endpoint, options=OPTIONS) as channel:
        return np.stack(rows_of(predict_on(channel)(request_of(range(len(PICTURES))), timeout=60)))


def ask(server, method, path, body=None, headers=(), context=None):
    """(status, headers, body)."""
    kind = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
    connection = kind(server.api_endpoint, timeout=60, **({} if context is None else {"context": context}))
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def same(found, expected):
    return found.dtype == np.float32 and found.tobytes() == expected.tobytes()


def multipart(pictures):
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="%d"\r\n\r\n%s\r\n' % (number, picture)
        for number, picture in enumerate(pictures)
    ]
    return b"".join(parts) + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


def test_the_ready_line_says_where_the_api_is(server):
    assert server.ready_line.endswith(f"; HTTP: http://{server.api_endpoint}")


def test_golden_pictures_by_mindspore_servings_rest(server, by_grpc):
    instances = [{"image": {"b64": base64.b64encode(each).decode()}} for each in (*PICTURES, b"no picture")]
    status, headers, body = ask(
        server, "POST", "/model/metric_learn/version/1:embed", json.dumps({"instances": instances})
    )
    *good, bad = json.loads(body)["instances"]
    assert status == 200 and same(np.array([each["embedding"] for each in good]).astype(np.float32), by_grpc)
    assert bad["error_msg"].startswith("E_UNSUPPORTED: ")
    assert headers["x-metric-learn-version"] == "1" and len(headers["x-metric-learn-fingerprint"]) == 64


def test_golden_pictures_as_an_upload_in_json_and_as_an_array(server, by_grpc):
    body, headers = multipart(PICTURES)
    status, _, answer = ask(server, "POST", "/embed", body, headers)
    assert status == 200 and same(np.array(json.loads(answer)["embeddings"]).astype(np.float32), by_grpc)
    status, _, answer = ask(server, "POST", "/embed", body, {**headers, "accept": "application/x-npy"})
    assert status == 200 and same(np.load(io.BytesIO(answer)), by_grpc)


def test_pixels_by_rest_are_embedded(server):
    item = {"b64": base64.b64encode(bytes(224 * 224 * 3)).decode()}
    status, _, body = ask(
        server, "POST", "/model/metric_learn:embed_pixels", json.dumps({"instances": [{"pixels": item}]})
    )
    row = np.array(json.loads(body)["instances"][0]["embedding"])
    assert status == 200 and row.shape == (2048,) and abs(np.linalg.norm(row) - 1) < 1e-5


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_embeds_a_file_and_several_as_people_type_it(server):
    images = REPOSITORY / "tests" / "golden" / "images"
    url = f"http://{server.api_endpoint}/embed"
    for arguments, key, count in (
        (["--data-binary", f"@{images}/coffee_rgb.png"], "embedding", 2048),
        (["-F", f"file=@{images}/coffee_rgb.png", "-F", f"file=@{images}/coffee.webp"], "embeddings", 2),
        (["-T", f"{images}/coffee_rgb.png", "-X", "POST"], "embedding", 2048),
    ):
        done = subprocess.run(["curl", "-sS", "--fail", *arguments, url], capture_output=True, timeout=60, check=True)
        assert len(json.loads(done.stdout)[key]) == count
