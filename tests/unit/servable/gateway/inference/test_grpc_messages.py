"""Reading ModelInferRequest bodies: each form that means one thing is accepted, all others are refused by field."""

import contextlib
import random
import struct

import grpc
import numpy as np
import pytest

from metric_learn_client.wire.messages import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ServerMetadataResponse,
)
from servable.config.sections import LimitsSection
from servable.gateway.call.calls import Embedded
from servable.gateway.call.reply import FailedImage
from servable.gateway.errors import CallError
from servable.gateway.inference import grpc_messages as messages

LIMITS = LimitsSection(max_instances=8, max_image_bytes=500)
PIXELS = np.random.default_rng(7).integers(0, 256, (2, 224, 224, 3), np.uint8)
ROW = np.linspace(-1, 1, 2048, dtype="<f4").tobytes()
BROKEN = FailedImage(3, "E_DECODE: the JPEG is cut off")


def embedded(version, outcomes):
    return Embedded("embed", version, 2048, list(outcomes))


def packed(*elements):
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def image_request(*images, shape=None, raw=None, **fields):
    request = ModelInferRequest(model_name="metric_learn", **fields)
    request.inputs.add(name="image", datatype="BYTES", shape=[len(images)] if shape is None else shape)
    request.raw_input_contents.append(packed(*images) if raw is None else raw)
    return request


def pixel_request(pixels=PIXELS, **fields):
    request = ModelInferRequest(model_name="metric_learn", **fields)
    request.inputs.add(name="pixels", datatype="UINT8", shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    return request


def read(request):
    return messages.read_request(request.SerializeToString(), LIMITS)


def refused(request, status=grpc.StatusCode.INVALID_ARGUMENT):
    body = request if isinstance(request, bytes) else request.SerializeToString()
    with pytest.raises(CallError) as caught:
        messages.read_request(body, LIMITS)
    assert caught.value.status is status, caught.value.message
    assert "\n" not in caught.value.message and len(caught.value.message) < 300
    return caught.value.message


def test_images_in_raw_input_contents_are_read_with_version_and_id():
    request = read(image_request(b"one", b"", b"three", model_version="7", id="mine"))
    assert (request.method.name, request.version, request.id, request.null_failed) == ("embed", 7, "mine", False)
    assert [bytes(payload) for payload in request.payloads] == [b"one", b"", b"three"]


def test_images_in_a_column_are_the_same_images():
    request = read(image_request(b"one", b"two", shape=[2, 1]))
    assert [bytes(payload) for payload in request.payloads] == [b"one", b"two"]


def test_images_in_bytes_contents_are_read():
    request = image_request(b"one", b"two")
    del request.raw_input_contents[:]
    request.inputs[0].contents.bytes_contents.extend([b"one", b"two"])
    assert [bytes(payload) for payload in read(request).payloads] == [b"one", b"two"]


def test_pixels_are_read_from_raw_and_from_uint_contents():
    expected = [each.tobytes() for each in PIXELS]
    request = pixel_request()
    assert [bytes(payload) for payload in read(request).payloads] == expected
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend(PIXELS.ravel().tolist())
    read_again = read(request)
    assert read_again.method.name == "embed_pixels"
    assert [bytes(payload) for payload in read_again.payloads] == expected


def test_a_shape_that_is_not_packed_is_read():
    tensor = b"\x0a\x05image\x12\x05BYTES\x18\x01"  # shape: field 3, one varint, as proto2 writers do
    body = b"\x0a\x0cmetric_learn" + b"\x2a" + bytes([len(tensor)]) + tensor + b"\x3a\x07" + packed(b"one")
    assert bytes(messages.read_request(body, LIMITS).payloads[0]) == b"one"


def test_the_size_that_kserve_sends_with_raw_contents_must_be_theirs():
    request = image_request(b"one")
    request.inputs[0].parameters["binary_data_size"].int64_param = 7
    assert read(request).payloads
    request.inputs[0].parameters["binary_data_size"].int64_param = 8
    assert "binary_data_size" in refused(request)


def test_failed_images_become_rows_where_the_caller_says_so():
    request = image_request(b"one")
    request.parameters["on_error"].string_param = "null"
    assert read(request).null_failed
    request.parameters["on_error"].string_param = "ignore"
    assert "parameters.on_error" in refused(request)


def changed(**fields):
    request = image_request(b"one")
    for name, value in fields.items():
        setattr(request.inputs[0], name, value)
    return request


def shaped(*shape):
    return image_request(b"one", shape=shape)


def with_parameter(place, name, value):
    request = image_request(b"one")
    holder = {"request": request, "input": request.inputs[0]}.get(place) or request.outputs.add(name="embedding")
    holder.parameters[name].string_param = value
    return request


def with_contents(**contents):
    request = image_request(b"one")
    del request.raw_input_contents[:]
    for name, values in contents.items():
        getattr(request.inputs[0].contents, name).extend(values)
    return request


def with_both():
    request = image_request(b"one")
    request.inputs[0].contents.bytes_contents.append(b"one")
    return request


def cut_uint_contents():
    """The last number has no second byte."""
    numbers = [1] * (PIXELS[0].size - 1) + [200]
    request = pixel_request(PIXELS[:1])
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend(numbers)
    packed_numbers = request.inputs[0].contents.SerializeToString()[-(PIXELS[0].size + 1) :]

    def field(number, value):
        return bytes([number << 3 | 2]) + varint(len(value)) + value

    request.inputs[0].ClearField("contents")
    tensor = request.inputs[0].SerializeToString() + field(5, field(4, packed_numbers[:-1]))
    return field(1, b"metric_learn") + field(5, tensor)


def varint(number):
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def twice(request, name):
    body = request.SerializeToString()
    part = ModelInferRequest()
    getattr(part, name).extend(getattr(request, name))
    return body + part.SerializeToString()


def with_outputs(*names):
    request = image_request(b"one")
    for name in names:
        request.outputs.add(name=name)
    return request


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (changed(name="picture"), "inputs[0].name: 'picture'; metric_learn takes image or pixels"),
        (changed(datatype="UINT8"), "inputs[0].datatype: 'UINT8'; image is BYTES"),
        (shaped(), "inputs[0].shape"),
        (shaped(0), "0 images"),
        (shaped(-1), "-1 images"),
        (shaped(1, 2), "[n] or [n, 1]"),
        (shaped(1, 1, 1), "[n] or [n, 1]"),
        (shaped(*[1] * 9), "dimensions"),
        (shaped(9), "more than 8 images"),
        (shaped(2**62), "more than 8 images"),
        (shaped(2), "its 7 bytes end before element 1 of 2"),
        (image_request(b"one", b"two", shape=[1]), "7 bytes are left after its 1 elements"),
        (
            image_request(raw=b"\xff\xff\xff\xff", shape=[1]),
            "element 0 has 4294967295 bytes by its length, and 0 are left",
        ),
        (image_request(raw=b"\x01\x00", shape=[1]), "end before element 0 of 1"),
        (pixel_request(PIXELS[:, :100]), "pixels is [n, 224, 224, 3]"),
        (twice(image_request(b"one"), "inputs"), "more than one"),
        (twice(image_request(b"one"), "raw_input_contents"), "more than one"),
        (ModelInferRequest(model_name="metric_learn"), "inputs: there are none"),
        (with_contents(), "either into raw_input_contents or into its contents"),
        (with_both(), "either into raw_input_contents or into its contents"),
        (cut_uint_contents(), "whole numbers from 0 to 255"),
        (with_contents(bytes_contents=[b"a", b"b"]), "more elements; its shape says 1"),
        (with_contents(fp32_contents=[1.0]), "image is read from bytes_contents"),
        (with_outputs("embeddings"), "outputs: 'embeddings'; metric_learn gives 'embedding'"),
        (with_outputs("embedding", "embedding"), "more than one"),
        (with_parameter("request", "priority", "1"), "parameters.priority: is not a parameter of this server"),
        (with_parameter("input", "shared_memory_region", "x"), "inputs[0].parameters.shared_memory_region"),
        (with_parameter("output", "classification", "1"), "outputs[0].parameters.classification"),
        (image_request(b"one", id="i" * 257), "id: 257 characters"),
        (b"\xff\xff", "not a ModelInferRequest"),
        (image_request(b"one").SerializeToString() + b"\x50\x01", "field 10 is unknown"),
    ],
)
def test_what_means_nothing_here_is_refused_by_name(request_, words):
    assert words in refused(request_)


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("resnet", "", "model 'resnet'"),
        ("", "", "model ''"),
        ("metric_learn", "latest", "version 'latest'"),
        ("metric_learn", "0", "version '0'"),
        ("metric_learn", "-1", "version '-1'"),
        ("metric_learn", "9" * 40, "version '999"),
    ],
)
def test_another_model_or_a_version_that_is_no_number_is_not_found(name, version, words):
    request = image_request(b"one", model_version=version)
    request.model_name = name
    assert words in refused(request, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("values", [[256], [1, 2**31], [128, 200, 300]])
def test_uint_contents_beyond_a_pixel_are_refused(values):
    request = pixel_request(PIXELS[:1])
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend(PIXELS[0].ravel().tolist()[: -len(values)] + values)
    assert "whole numbers from 0 to 255" in refused(request)


def test_too_few_uint_contents_are_refused():
    request = pixel_request(PIXELS[:1])
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend(PIXELS[0].ravel().tolist()[1:])
    assert "150527 bytes; its shape needs 150528" in refused(request)


def test_bodies_with_flipped_bytes_are_read_or_refused_and_nothing_else():
    body = bytearray(image_request(b"one", b"two", model_version="1", id="x").SerializeToString())
    source = random.Random(5)
    for _ in range(3000):
        broken = bytearray(body)
        for _ in range(source.randint(1, 3)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        with contextlib.suppress(CallError):
            messages.read_request(bytes(broken[: source.randint(1, len(broken))]), LIMITS)


def test_a_reply_holds_the_rows_as_they_are():
    request = read(image_request(b"one", b"two", id="mine"))
    reply = ModelInferResponse.FromString(messages.encode_response(request, embedded(3, [ROW, ROW])))
    assert (reply.model_name, reply.model_version, reply.id) == ("metric_learn", "3", "mine")
    (output,) = reply.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("embedding", "FP32", [2, 2048])
    assert list(reply.raw_output_contents) == [ROW + ROW]


def test_a_failed_image_fails_the_call_with_its_code_and_number():
    request = read(image_request(b"one", b"two", b"three"))
    with pytest.raises(CallError) as caught:
        messages.encode_response(request, embedded(1, [ROW, BROKEN, BROKEN]))
    assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message == "image[1]: E_DECODE: the JPEG is cut off; 2 pictures failed, also [2] E_DECODE"


def test_a_failed_image_is_a_row_of_nan_and_a_parameter_where_asked():
    request = image_request(b"one", b"two")
    request.parameters["on_error"].string_param = "null"
    reply = ModelInferResponse.FromString(messages.encode_response(read(request), embedded(1, [ROW, BROKEN])))
    rows = np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(2, 2048)
    assert rows[0].tobytes() == ROW and np.isnan(rows[1]).all()
    assert {key: value.string_param for key, value in reply.outputs[0].parameters.items()} == {"1": BROKEN.text}


def test_metadata_name_both_inputs_and_the_output():
    reply = ModelMetadataResponse.FromString(messages.describe_model([1, 4]))
    assert (reply.name, list(reply.versions), reply.platform) == ("metric_learn", ["1", "4"], "mindspore_mindir")
    tensors = [(each.name, each.datatype, list(each.shape)) for each in (*reply.inputs, *reply.outputs)]
    assert tensors == [
        ("image", "BYTES", [-1]),
        ("pixels", "UINT8", [-1, 224, 224, 3]),
        ("embedding", "FP32", [-1, 2048]),
    ]
    assert ServerMetadataResponse.FromString(messages.describe_server()).extensions == ["binary_tensor_data"]
