"""Reading REST bodies, JSON alone and with binary tensors behind it; writing replies that give the same bits again."""

import base64
import contextlib
import json
import random
import struct
from typing import Any

import grpc
import numpy as np
import pytest

from servable.config.sections import LimitsSection
from servable.gateway.call.calls import Embedded
from servable.gateway.call.reply import FailedImage
from servable.gateway.errors import CallError
from servable.gateway.inference import rest

LIMITS = LimitsSection(max_instances=8)
PIXELS = np.random.default_rng(7).integers(0, 256, (2, 224, 224, 3), np.uint8)
BROKEN = FailedImage(3, "E_DECODE: the JPEG is cut off")
ROW = np.linspace(-1, 1, 2048, dtype="<f4").tobytes()


def embedded(version, outcomes):
    return Embedded("embed", version, 2048, list(outcomes))


def packed(*elements):
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def image(*images, **fields):
    """An input whose images are inside the JSON."""
    data = [base64.b64encode(each).decode() for each in images]
    return {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": data, **fields}


def binary_image(size, images=1, **fields):
    """An input whose images stand behind the JSON."""
    parameters = {"binary_data_size": size}
    return {"name": "image", "datatype": "BYTES", "shape": [images], "parameters": parameters, **fields}


def pixels(data, shape=PIXELS.shape):
    return {"name": "pixels", "datatype": "UINT8", "shape": list(shape), "data": data}


def document(*inputs, **fields):
    return {"inputs": list(inputs), **fields}


def read(content, behind=None, header=None, version=0):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    if behind is not None and header is None:
        header = str(len(text))
    return rest.read_request(text + (behind or b""), header, version, LIMITS)


def refused(*arguments, **options):
    with pytest.raises(CallError) as caught:
        read(*arguments, **options)
    assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert "\n" not in caught.value.message and len(caught.value.message) < 300
    return caught.value.message


def test_images_inside_the_json_are_base64():
    request = read(document(image(b"one", b"", b"three"), id="mine"), version=7)
    assert (request.method.name, request.version, request.id) == ("embed", 7, "mine")
    assert [bytes(payload) for payload in request.payloads] == [b"one", b"", b"three"]
    column = image(b"one", b"two", shape=[2, 1])
    column["data"] = [[each] for each in column["data"]]
    assert [bytes(payload) for payload in read(document(column)).payloads] == [b"one", b"two"]


def test_images_behind_the_json_are_taken_by_their_lengths():
    behind = packed(b"one", b"", b"three")
    request = read(document(binary_image(len(behind), 3)), behind)
    assert [bytes(payload) for payload in request.payloads] == [b"one", b"", b"three"]


def test_pixels_are_read_flat_nested_and_binary():
    expected = [each.tobytes() for each in PIXELS]
    one = PIXELS[:1]
    for data in (one.ravel().tolist(), one.tolist()):
        request = read(document(pixels(data, shape=one.shape)))
        assert request.method.name == "embed_pixels"
        assert [bytes(payload) for payload in request.payloads] == expected[:1]
    tensor = pixels(None)
    tensor["parameters"] = {"binary_data_size": PIXELS.size}
    request = read(document(tensor), PIXELS.tobytes())
    assert [bytes(payload) for payload in request.payloads] == expected


@pytest.mark.parametrize(
    ("request_level", "output_level", "binary"),
    [(None, None, False), (True, None, True), (True, False, False), (False, True, True), (None, True, True)],
)
def test_the_outputs_own_wish_for_binary_data_goes_before_the_requests(request_level, output_level, binary):
    fields: dict[str, Any] = {}
    if request_level is not None:
        fields["parameters"] = {"binary_data_output": request_level}
    if output_level is not None:
        fields["outputs"] = [{"name": "embedding", "parameters": {"binary_data": output_level}}]
    assert read(document(image(b"one"), **fields)).binary is binary


def test_what_other_clients_send_beside_it_is_accepted():
    fields = {"model_name": "metric_learn", "id": None, "outputs": [], "parameters": {}}
    assert read(document(image(b"one"), **fields)).payloads  # the kserve package names the model again


ONE = packed(b"one")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "too deep"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "request: a list of 0; it must be an object"),
        (b"null", "request: null; it must be an object"),
        ({}, "inputs: 0 of them"),
        ({"inputs": 3}, "request.inputs: 3; it must be a list"),
        (document(3), "inputs[0]: 3; it must be an object"),
        (document(image(b"one"), image(b"two")), "inputs: 2 of them"),
        (document(image(b"one"), pixels([])), "inputs: 2 of them"),
        (document(image(b"one"), instances=[]), "request.instances: is unknown"),
        (document(image(b"one"), model_name="resnet"), "model_name: 'resnet'; the URL says 'metric_learn'"),
        (document(image(b"one"), id=3), "request.id: 3; it must be a string"),
        (document(image(b"one"), id="i" * 257), "id: 257 characters"),
        (document(image(b"one"), parameters={"priority": 1}), "parameters.priority: is not a parameter"),
        (document(image(b"one"), parameters={"on_error": "skip"}), "parameters.on_error: 'skip'"),
        (document(image(b"one"), parameters={"binary_data_output": 1}), "must be true or false"),
        (document(image(b"one"), outputs=[{"name": "rows"}]), "outputs: 'rows'; metric_learn gives 'embedding'"),
        (document(image(b"one"), outputs=[{"name": "embedding"}] * 2), "outputs: 2 of them"),
        (
            document(image(b"one"), outputs=[{"name": "embedding", "parameters": {"classification": 3}}]),
            "outputs[0].parameters.classification: is not a parameter",
        ),
        (document(image(b"one", name="picture")), "inputs[0].name: 'picture'"),
        (document(image(b"one", datatype="FP32")), "inputs[0].datatype: 'FP32'; image is BYTES"),
        (document(image(b"one", shape=[])), "inputs[0].shape: []"),
        (document(image(b"one", shape=[True])), "inputs[0].shape: true; it must be a whole number"),
        (document(image(b"one", shape=[1.0])), "inputs[0].shape: 1.0; it must be a whole number"),
        (document(image(b"one", shape=[-1])), "-1 images"),
        (document(image(b"one", shape=[2])), "1 elements; its shape says 2"),
        (document(image(b"one", shape=[10**30])), "more than 8 images"),
        (document(image(b"one", contents=[])), "inputs[0].contents: is unknown"),
        (document(image(b"one", parameters={"shared_memory_region": "x"})), "shared_memory_region: is not a parameter"),
        (document(image(b"one", data=["https://example.org/a.jpg"])), "inputs[0].data[0]: a URL is never fetched"),
        (document(image(b"one", data=[3])), "inputs[0].data[0]: must be a string"),
        (document(image(b"one"), id="a" * 257), "id: 257 characters; the most is 256"),
        (document(image(b"one"), id="a" * 600), "id: more than 512 characters; the most is 256"),
        (document(image(b"one", data=None)), "either data or parameters.binary_data_size"),
        (document(image(b"one", parameters={"binary_data_size": 3})), "either data or parameters.binary_data_size"),
        (document(binary_image(7)), "7; 0 bytes follow the JSON"),
        (document(binary_image("7")), 'binary_data_size: "7"; it must be a whole number'),
        (document(pixels([])), "0 bytes; its shape needs 301056"),
        (document(pixels([0.5] * 9)), "whole numbers from 0 to 255"),
        (document(pixels(["0"] * 9)), "whole numbers from 0 to 255"),
        (document(pixels([256] * 9)), "whole numbers from 0 to 255"),
        (document(pixels([-1] * 9)), "whole numbers from 0 to 255"),
        (document(pixels([10**30])), "whole numbers from 0 to 255"),
        (document(pixels([[1], [2, 3]])), "nested as [n, 224, 224, 3]"),
        (document(pixels([1, [2, 3]])), "whole numbers from 0 to 255"),
        (document(pixels([*PIXELS.tolist()[:1], 3])), "nested as [n, 224, 224, 3]"),
        (document(pixels([1, 2, 3])), "3 bytes; its shape needs 301056"),
        (document(pixels(PIXELS[0].tolist(), shape=[1, 224, 224, 3])), "nested as [n, 224, 224, 3]"),
        (document(pixels([0] * 500_000)), "more than 1048576 bytes beside its long strings"),
        (b'{"inputs": [' + b"{}," * 40 + b"{}]}", "more than 32 objects"),
        (b'{"inputs": [], "inputs": []}', "the key 'inputs' is there twice"),
    ],
)
def test_what_means_nothing_here_is_refused_by_name(content, words):
    assert words in refused(content)


@pytest.mark.parametrize(
    ("size", "behind", "header", "words"),
    [
        (7, ONE, "0", "0; the body has"),
        (7, ONE, "-5", "is not a number of bytes"),
        (7, ONE, "1e3", "is not a number of bytes"),
        (7, ONE, "9" * 30, "is not a number of bytes"),
        (7, ONE, "99999", "99999; the body has"),
        (7, ONE, "5", "a string has no end"),
        (7, ONE + b"x", None, "binary_data_size: 7; 8 bytes follow"),
        (8, ONE, None, "binary_data_size: 8; 7 bytes follow"),
        (-7, ONE, None, "binary_data_size: -7; 7 bytes follow"),
        (8, ONE + b"x", None, "1 bytes are left after its 1 elements"),
        (4, b"\xff\xff\xff\xff", None, "element 0 has 4294967295 bytes by its length"),
        (3, b"\x01\x00\x00", None, "end before element 0"),
    ],
)
def test_sizes_that_disagree_are_refused(size, behind, header, words):
    assert words in refused(document(binary_image(size)), behind, header)


def test_bytes_behind_json_that_holds_everything_are_refused():
    assert "7 bytes follow the JSON" in refused(document(image(b"one")), ONE)


def test_bodies_with_flipped_bytes_are_read_or_refused_and_nothing_else():
    text = json.dumps(document(binary_image(7, id="x"))).encode() + ONE
    source = random.Random(5)
    for _ in range(1000):
        broken = bytearray(text)
        for _ in range(source.randint(1, 3)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        with contextlib.suppress(CallError):
            rest.read_request(bytes(broken), str(source.randint(0, len(text) + 2)), 0, LIMITS)


def floats():
    """float32 of every size and sign, and the ones at the ends."""
    bits = np.random.default_rng(3).integers(0, 2**32, 40_000, np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    info = np.finfo(np.float32)
    ends = np.array([0, -0.0, info.max, info.min, info.tiny, info.smallest_subnormal, -info.tiny], np.float32)
    values = np.concatenate([ends, values[np.isfinite(values)]])
    return values[: len(values) // 2048 * 2048].reshape(-1, 2048)


def test_a_reply_in_json_gives_the_same_bits_again():
    rows = floats()
    request = read(document(image(*[b"x"] * 8), id='quote"\u00e9'))
    response = rest.encode_response(request, embedded(3, [row.astype("<f4").tobytes() for row in rows]))
    assert response.content_type == "application/json" and not response.headers
    reply = json.loads(response.body)
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("metric_learn", "3", 'quote"\u00e9')
    (output,) = reply["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [len(rows), 2048])
    again = np.array(output["data"], np.float64).astype(np.float32).reshape(rows.shape)
    assert (again.view(np.uint32) == rows.view(np.uint32)).all()


def test_a_reply_in_binary_form_is_the_rows_behind_the_json():
    request = read(document(image(b"one", b"two"), parameters={"binary_data_output": True}))
    response = rest.encode_response(request, embedded(1, [ROW, ROW]))
    length = int(response.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(response.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 2 * len(ROW)} and "data" not in output
    assert response.body[length:] == ROW + ROW


def test_a_failed_image_fails_the_call_with_its_code_and_number():
    with pytest.raises(CallError) as caught:
        rest.encode_response(read(document(image(b"one", b"two"))), embedded(1, [ROW, BROKEN]))
    assert caught.value.message == "image[1]: E_DECODE: the JPEG is cut off"


def test_base64_that_is_broken_fails_its_picture_alone():
    tensor = image(b"one", b"two")
    tensor["data"][1] = "no base64!"
    request = read(document(tensor))
    assert list(request.failed) == [1] and request.failed[1].startswith("E_DECODE: ")


def test_data_uris_are_taken_for_base64():
    tensor = image(b"one")
    tensor["data"][0] = "data:image/jpeg;base64," + tensor["data"][0]
    assert bytes(read(document(tensor)).payloads[0]) == b"one"
    long = base64.b64encode(bytes(5000)).decode()
    assert bytes(read(document(image(b"x", data=[f"data:;base64,{long}"]))).payloads[0]) == bytes(5000)


@pytest.mark.parametrize("binary", [False, True])
def test_a_failed_image_is_a_row_without_numbers_where_asked(binary):
    parameters = {"on_error": "null", "binary_data_output": binary}
    request = read(document(image(b"one", b"two"), parameters=parameters))
    response = rest.encode_response(request, embedded(1, [ROW, BROKEN]))
    length = int(response.headers.get("Inference-Header-Content-Length", len(response.body)))
    (output,) = json.loads(response.body[:length])["outputs"]
    assert output["parameters"].pop("1") == BROKEN.text
    rows = np.frombuffer(response.body[length:], "<f4") if binary else np.array(output["data"], np.float32)
    rows = rows.reshape(2, 2048)
    assert rows[0].tobytes() == ROW and np.isnan(rows[1]).all()


def test_metadata_are_those_of_grpc():
    assert rest.describe_server()["extensions"] == ["binary_tensor_data"]
    model = rest.describe_model([1, 4])
    assert (model["name"], model["versions"]) == ("metric_learn", ["1", "4"])
    assert [each["name"] for each in model["inputs"]] == ["image", "pixels"]
    assert model["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 2048]}]
