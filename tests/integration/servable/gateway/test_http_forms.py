"""Every form of the API over HTTP: what it takes, what it answers, and the same bits as gRPC in each."""

import base64
import io
import json

import numpy as np
import pytest

from metric_learn_client import wire
from tests.integration.servable.gateway.fake_serving import embedding_of
from tests.integration.servable.gateway.harness import Harness, config_of, predict, request, rows

A, B, BAD = b"picture a" * 100, b"picture b" * 100, b"bad"
BROKEN = "E_DECODE: the JPEG is cut off"


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    with Harness(tmp_path_factory.mktemp("gateway"), config_of(limits={"max_instances": 4})) as running:
        running.serving.image_errors = {BAD: BROKEN}
        yield running


@pytest.fixture(scope="module")
def by_grpc(harness):
    with harness.channel() as channel:
        return rows(predict(channel, request(A, B))[0])


def uri(picture, head="data:image/jpeg;base64,"):
    return head + base64.b64encode(picture).decode()


def embeddings(harness, given, expected=200, path="", **more):
    status, _headers, body = harness.api(
        "POST", f"/v1/embeddings{path}", {"model": "metric_learn", "input": given, **more}
    )
    assert status == expected, body
    return json.loads(body)


def multipart(*files, name="file"):
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: image/jpeg\r\n\r\n%s\r\n'
        % (name.encode(), file.encode(), content)
        for file, content in files
    ]
    return b"".join(parts) + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


def as_floats(lists):
    return np.array(lists, np.float64).astype(np.float32)


def as_openai_base64(given):
    return np.stack([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in given["data"]])


def by_rest(harness, *pictures):
    instances = [{"image": {"b64": base64.b64encode(each).decode()}} for each in pictures]
    status, _, body = harness.api("POST", "/model/metric_learn:embed", {"instances": instances})
    return status, json.loads(body)


@pytest.mark.parametrize("form", ["float", "base64", "rest", "tensorflow", "multipart", "npy"])
def test_a_row_is_the_same_bits_by_every_form(harness, by_grpc, form):
    if form == "float":
        found = as_floats([each["embedding"] for each in embeddings(harness, [uri(A), uri(B)])["data"]])
    elif form == "base64":
        found = as_openai_base64(embeddings(harness, [uri(A), uri(B)], encoding_format="base64"))
    elif form == "rest":
        found = as_floats([each["embedding"] for each in by_rest(harness, A, B)[1]["instances"]])
    elif form == "tensorflow":
        given = {"instances": [{"b64": base64.b64encode(each).decode()} for each in (A, B)]}
        found = as_floats(json.loads(harness.api("POST", "/v1/models/metric_learn:predict", given)[2])["predictions"])
    else:
        body, headers = multipart(("a.jpg", A), ("b.jpg", B))
        if form == "npy":
            headers["accept"] = "application/x-npy"
        status, got, answer = harness.api("POST", "/embed", body, headers)
        assert status == 200, answer
        if form == "npy":
            assert got["content-type"] == "application/x-npy"
            found = np.load(io.BytesIO(answer))
        else:
            found = as_floats(json.loads(answer)["embeddings"])
    assert found.dtype == np.float32 and found.tobytes() == by_grpc.tobytes()


def test_bodies_that_are_read_aside_give_the_same_bits_too(tmp_path):
    """Three pictures of 1.5 MB each: what is read of them goes on in a thread."""
    pictures = [bytes([number]) * 1_500_000 for number in range(3)]
    uris = [uri(each) for each in pictures]
    with_lines = ["data:image/png;base64," + base64.encodebytes(each).decode() for each in pictures]
    behind = b"".join(len(each).to_bytes(4, "little") + each for each in pictures)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(behind)}}
    text = json.dumps({"inputs": [tensor]}).encode()
    expected = np.stack([embedding_of(each) for each in pictures])
    with Harness(tmp_path) as harness:
        for given in (uris, with_lines):
            for form, read in (("float", None), ("base64", as_openai_base64)):
                answer = embeddings(harness, given, encoding_format=form)
                rows = read(answer) if read else as_floats([each["embedding"] for each in answer["data"]])
                assert rows.tobytes() == expected.tobytes()
        found = by_rest(harness, *pictures)[1]["instances"]
        assert as_floats([each["embedding"] for each in found]).tobytes() == expected.tobytes()
        body, headers = multipart(*[("a.jpg", each) for each in pictures])
        found = json.loads(harness.api("POST", "/embed", body, headers)[2])["embeddings"]
        assert as_floats(found).tobytes() == expected.tobytes()
        headers = {"inference-header-content-length": str(len(text))}
        answer = json.loads(harness.api("POST", "/v2/models/metric_learn/infer", text + behind, headers)[2])
        assert as_floats(answer["outputs"][0]["data"]).tobytes() == expected.tobytes()
        status, _, answer = harness.api(
            "POST", "/v1/embeddings", b'{"model": "metric_learn", "input": ["' + b"x" * 5_000_000
        )
        assert status == 400 and b"a string has no end" in answer
        assert harness.gateway._api.application._bodies.bytes == 0


def test_a_large_answer_in_json_is_the_same_numbers(tmp_path):
    with Harness(tmp_path) as harness:
        pictures = [b"%d" % number for number in range(100)]
        answer = embeddings(harness, [uri(each) for each in pictures])
        rows = as_floats([each["embedding"] for each in answer["data"]])
    assert rows.tobytes() == np.stack([embedding_of(each) for each in pictures]).tobytes()


def test_the_answer_of_v1_embeddings_has_openais_fields_and_nothing_else(harness):
    given = embeddings(harness, uri(A), user="somebody", dimensions=2048, encoding_format=None)
    assert given.keys() == {"object", "data", "model", "usage"}
    assert given["object"] == "list" and given["model"] == "metric_learn"
    assert given["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    (entry,) = given["data"]
    assert entry.keys() == {"object", "index", "embedding"} and (entry["object"], entry["index"]) == ("embedding", 0)


@pytest.mark.parametrize(
    "given",
    [
        uri(A),
        [uri(A)],
        [{"type": "image_url", "image_url": {"url": uri(A)}}],
        {"type": "image_url", "image_url": {"url": uri(A), "detail": "auto"}},
        [{"image_url": uri(A)}],
        [{"type": "image_url", "image_url": uri(A)}],
    ],
    ids=["text", "list", "objects", "object", "short", "url as text"],
)
def test_every_spelling_of_a_picture_is_taken(harness, by_grpc, given):
    found = as_openai_base64(embeddings(harness, given, encoding_format="base64"))
    assert found.tobytes() == by_grpc[:1].tobytes()


def test_spellings_may_be_mixed_and_keep_their_order(harness, by_grpc):
    given = [{"type": "image_url", "image_url": {"url": uri(B)}}, uri(A)]
    assert as_openai_base64(embeddings(harness, given, encoding_format="base64")).tobytes() == by_grpc[::-1].tobytes()


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"input": "https://example.org/a.jpg"}, "input[0]", "a URL is never fetched, for it could reach"),
        ({"input": [uri(A), "file:///etc/passwd"]}, "input[1]", "never fetched"),
        ({"input": [{"image_url": {"url": "http://169.254.169.254/"}}]}, "input[0]", "never fetched"),
        ({"input": "a red shoe"}, "input[0]", "this model embeds pictures, not text"),
        (
            {"input": base64.b64encode(b"\xff\xd8\xff\xe0" + A).decode()},
            "input[0]",
            "data:image/jpeg;base64,... before",
        ),
        ({"input": [1, 2, 3]}, "input", "not tokens"),
        ({"input": []}, "input", "at least one"),
        ({"input": None}, "input", "is missing"),
        ({"input": [uri(A)] * 5}, "input", "5 images; the most is 4"),
        ({"input": [uri(A)] * 2048}, "input", "2048 images; the most is 4: split them"),
        ({"input": base64.encodebytes(A).decode()}, "input[0]", "pictures, not text"),
        ({"input": [{"type": "text", "text": "hello"}]}, "input[0]", "image_url"),
        ({"input": [{"image_url": {"url": uri(A), "size": 3}}]}, "input[0].image_url", "unknown key 'size'"),
        ({"encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"dimensions": 256}, "dimensions", "must be 2048"),
        ({"dimensions": True}, "dimensions", "must be 2048"),
        ({"truncate": True}, "truncate", "unknown parameter"),
        ({"messages": []}, "messages", "unknown parameter"),
        ({"on_error": "skip"}, "on_error", "'null'"),
        ({"user": 3}, "user", "text"),
        ({"model": 3}, "model", "'metric_learn'"),
    ],
)
def test_what_is_not_taken_is_refused_by_name(harness, change, param, words):
    given = {"model": "metric_learn", "input": uri(A), **change}
    status, _, body = harness.api("POST", "/v1/embeddings", given)
    error = json.loads(body)["error"]
    assert status == 400 and error["param"] == param and words in error["message"], error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "model", ["text-embedding-3-small", *(f"metric_learn@{at}" for at in (9, 0, "01", "x", "9" * 10)), ""]
)
def test_another_model_is_not_found_as_openai_says_it(harness, model):
    status, _, body = harness.api("POST", "/v1/embeddings", {"model": model, "input": uri(A)})
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


def test_one_bad_picture_names_its_index_and_code(harness):
    error = embeddings(harness, [uri(A), uri(BAD), uri(BAD)], 400)["error"]
    assert (error["param"], error["code"]) == ("input[1]", "E_DECODE")
    assert "the JPEG is cut off" in error["message"] and "2 pictures failed, also [2] E_DECODE" in error["message"]


def test_one_bad_picture_is_null_where_that_is_asked_for(harness, by_grpc):
    given = embeddings(harness, [uri(A), uri(BAD), "data:;base64,?", uri(B)], encoding_format="base64", on_error="null")
    assert [each["embedding"] is None for each in given["data"]] == [False, True, True, False]
    assert given["data"][1]["error"] == {"code": "E_DECODE", "message": "E_DECODE: the JPEG is cut off"}
    assert given["data"][2]["error"]["code"] == "E_DECODE" and "base64" in given["data"][2]["error"]["message"]
    assert np.frombuffer(base64.b64decode(given["data"][3]["embedding"]), "<f4").tobytes() == by_grpc[1].tobytes()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'\xef\xbb\xbf{"model": "metric_learn", "input": "x"}',
        b'{"model": "metric_learn", "input": NaN}',
        b'{"model": "metric_learn", "model": "metric_learn", "input": "x"}',
        b'{"model": "metric_learn", "input": "\xff"}',
        b"[" * 100_000,
        b'{"input": "' + b"x" * 1000,
        b'{"input": "\\u0000 5"}',
        b"[" + b"1," * 400_000 + b"1]",
        b'{"model": "\\ud800", "input": "x"}',
        b'{"\\ud800": 1}',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_no_such_json_is_the_callers_fault(harness, body):
    status, _, answer = harness.api("POST", "/v1/embeddings", body)
    assert status in (400, 404) and json.loads(answer)["error"]["type"] == "invalid_request_error"


def test_the_models_are_listed_and_found_by_name(harness):
    listed = json.loads(harness.api("GET", "/v1/models")[2])
    assert listed["object"] == "list" and [each["id"] for each in listed["data"]] == ["metric_learn", "metric_learn@1"]
    for each in listed["data"]:
        assert json.loads(harness.api("GET", f"/v1/models/{each['id']}")[2]) == each
    assert harness.api("GET", "/v1/models/gpt-4")[0] == 404
    assert embeddings(harness, uri(A), model="metric_learn@1")["model"] == "metric_learn@1"


def test_rest_answers_each_picture_in_its_place(harness, by_grpc):
    status, given = by_rest(harness, A, BAD, B)
    assert status == 200 and given.keys() == {"instances"}
    assert given["instances"][1] == {"error_msg": "E_DECODE: the JPEG is cut off"}
    assert as_floats(given["instances"][2]["embedding"]).tobytes() == by_grpc[1].tobytes()


def test_rest_takes_one_object_a_version_a_type_and_a_shape(harness):
    item = {"b64": base64.b64encode(A).decode(), "type": "bytes", "shape": [1]}
    status, _, body = harness.api("POST", "/model/metric_learn/version/1:embed", {"instances": {"image": item}})
    assert status == 200 and len(json.loads(body)["instances"]) == 1


def test_tensorflow_servings_clients_may_name_the_signature_that_there_is(harness):
    given = {"instances": [{"b64": base64.b64encode(A).decode()}], "signature_name": "serving_default"}
    assert harness.api("POST", "/v1/models/metric_learn:predict", given)[0] == 200
    for name in ("other", None):
        status, _, body = harness.api("POST", "/v1/models/metric_learn:predict", {**given, "signature_name": name})
        assert status == 400 and b"it must be 'serving_default'" in body


def test_rest_embeds_pixels(harness):
    pixels = bytes(224 * 224 * 3)
    item = {"b64": base64.b64encode(pixels).decode(), "type": "uint8", "shape": [224, 224, 3]}
    status, _, body = harness.api("POST", "/model/metric_learn:embed_pixels", {"instances": [{"pixels": item}]})
    found = as_floats(json.loads(body)["instances"][0]["embedding"])
    assert status == 200 and found.tobytes() == embedding_of(pixels).tobytes()


def test_broken_base64_gets_an_answer(harness):
    given = {"instances": [{"image": {"b64": "@@@"}}]}
    status, _, body = harness.api("POST", "/model/metric_learn:embed", given)
    assert status == 200
    assert json.loads(body)["instances"][0]["error_msg"] == "E_DECODE: the base64 text is broken or cut off"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/model/other:embed", {"instances": []}, 404),
        ("/model/metric_learn:other", {"instances": []}, 404),
        ("/model/metric_learn/version/7:embed", {"instances": [{"image": {"b64": ""}}]}, 404),
        ("/model/metric_learn/version/x:embed", {"instances": [{"image": {"b64": ""}}]}, 400),
        ("/model/metric_learn:embed", {"instances": []}, 400),
        ("/model/metric_learn:embed", {"instances": [{"image": "text"}]}, 400),
        ("/model/metric_learn:embed", {"instances": [{"image": {"b64": "", "more": 1}}]}, 400),
        ("/model/metric_learn:embed", {"instances": [{"pixels": {"b64": ""}}]}, 400),
        ("/model/metric_learn:embed", {"instances": [{"image": {"b64": 5}}]}, 400),
        ("/model/metric_learn:embed", {"instances": [{"image": {"b64": "", "shape": [[1]]}}]}, 400),
        ("/model/metric_learn:embed", {"instances": [None]}, 400),
        ("/model/metric_learn:embed", {"instances": 3, "signature_name": "x"}, 400),
        ("/model/metric_learn:embed_pixels", {"instances": [{"pixels": {"b64": "AAAA"}}]}, 400),
    ],
)
def test_a_rest_call_that_fails_as_a_whole_has_a_status_and_an_error_msg(harness, path, body, status):
    found, _, answer = harness.api("POST", path, body)
    assert found == status and list(json.loads(answer)) == ["error_msg"], answer


def test_rest_says_200_to_failures_where_that_is_configured(tmp_path):
    with Harness(tmp_path, config_of(server={"rest_status_always_200": True})) as harness:
        status, _, body = harness.api("POST", "/model/metric_learn:embed", {"instances": []})
        assert status == 200 and "at least one image" in json.loads(body)["error_msg"]
        assert harness.api("POST", "/v1/models/metric_learn:predict", {"instances": []})[0] == 400


@pytest.mark.parametrize("kind", [None, "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_embed_takes_a_file_as_the_body_whatever_its_type_is_called(harness, by_grpc, kind):
    status, _headers, body = harness.api("POST", "/embed", A, {"content-type": kind} if kind else {})
    given = json.loads(body)
    assert status == 200 and given.keys() == {"embedding", "model", "version"} and given["version"] == 1
    assert as_floats(given["embedding"]).tobytes() == by_grpc[0].tobytes()


def test_embed_echoes_the_files_names_and_says_which_failed(harness, by_grpc):
    body, headers = multipart(("a.jpg", A), ("bäd.jpg", BAD), ("b.jpg", B))
    status, _, answer = harness.api("POST", "/embed", body, headers)
    assert status == 400 and json.loads(answer)["error"]["param"] == "files[1]"
    status, _, answer = harness.api("POST", "/embed?on_error=null", body, headers)
    given = json.loads(answer)
    assert status == 200 and given["names"] == ["a.jpg", "bäd.jpg", "b.jpg"]
    words = "E_DECODE: the JPEG is cut off"
    assert given["errors"] == [{"index": 1, "name": "bäd.jpg", "code": "E_DECODE", "message": words}]
    assert given["embeddings"][1] is None
    assert as_floats(given["embeddings"][2]).tobytes() == by_grpc[1].tobytes()


def test_in_an_array_a_failed_picture_is_a_row_of_nan_that_a_header_names(harness, by_grpc):
    body, headers = multipart(("a.jpg", A), ("bad.jpg", BAD))
    headers["accept"] = "application/x-npy"
    assert harness.api("POST", "/embed", body, headers)[0] == 400
    status, got, answer = harness.api("POST", "/embed?on_error=null", body, headers)
    found = np.load(io.BytesIO(answer))
    assert status == 200 and got["x-metric-learn-failed"] == "1=E_DECODE"
    assert found.shape == (2, wire.EMBEDDING_DIM) and found[0].tobytes() == by_grpc[0].tobytes()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"--edge--\r\n", "multipart/form-data; boundary=edge", 400),
        (multipart(*[("a", A)] * 5)[0], "multipart/form-data; boundary=edge", 400),
        (multipart(("a", A))[0][:-12], "multipart/form-data; boundary=edge", 400),
        (multipart(("a", A))[0], "multipart/form-data", 400),
        (multipart(("a", A))[0], "multipart/form-data; boundary=other", 400),
        (multipart(("a", A))[0], f"multipart/form-data; boundary={'e' * 71}", 400),
        (multipart(("a" * 5000, A))[0], "multipart/form-data; boundary=edge", 400),
        (multipart(("a", A))[0], "multipart/mixed; boundary=edge", 415),
        (b'{"image": "x"}', "application/json", 415),
    ],
)
def test_an_upload_that_is_none_is_the_callers_fault(harness, body, kind, status):
    found, _, answer = harness.api("POST", "/embed", body, {"content-type": kind})
    assert found == status, answer
    assert json.loads(answer)["error"]["message"]


def test_a_parameter_of_the_query_that_is_unknown_or_there_twice_is_refused(harness):
    for query in ("onerror=null", "on_error=null&on_error=null", "on_error=maybe", "&".join(["a=1"] * 100)):
        assert harness.api("POST", f"/embed?{query}", A)[0] == 400
    assert harness.api("GET", "/v1/models?limit=1")[0] == 400
    assert "api-version" in embeddings(harness, uri(A), 400, path="?api-version=1")["error"]["message"]


def test_an_empty_body_is_an_empty_picture(harness):
    harness.serving.image_errors[b""] = "E_EMPTY: the image has no bytes"
    status, _, body = harness.api("POST", "/embed", b"")
    assert status == 400 and json.loads(body)["error"]["code"] == "E_EMPTY"


def test_a_picture_over_the_limit_is_that_pictures_error(tmp_path):
    with Harness(tmp_path, config_of(limits={"max_image_bytes": 10})) as harness:
        status, _, body = harness.api("POST", "/embed", b"x" * 11)
        assert status == 400 and json.loads(body)["error"]["code"] == "E_TOO_LARGE"


def test_as_many_pictures_as_a_call_may_carry_are_read_in_their_longest_form(tmp_path):
    """Far more commas and brackets than a call with few pictures may have."""
    item = {"pixels": {"b64": "", "type": "uint8", "shape": [224, 224, 3]}}
    limits = {"max_instances": 3000, "max_in_flight_instances": 3000}
    with Harness(tmp_path, config_of(limits=limits)) as harness:
        status, _, body = harness.api("POST", "/model/metric_learn:embed_pixels", {"instances": [item] * 3000})
        assert status == 400 and "instances[0].pixels.b64: 0 bytes" in json.loads(body)["error_msg"]
        status, _, body = harness.api("POST", "/model/metric_learn:embed_pixels", {"instances": [item] * 3001})
        assert status == 400 and "3001 images; the most is 3000" in json.loads(body)["error_msg"]
