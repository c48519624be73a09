"""Reading Predict bodies: what is accepted means the same to protobuf; what is not is refused by field."""

import random

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_learn_client import wire
from servable.config.sections import LimitsSection
from servable.gateway.call.methods import METHODS
from servable.gateway.call.request import read_request
from servable.gateway.errors import CallError

LIMITS = LimitsSection(max_instances=8)
PIXELS = bytes(224 * 224 * 3)


def image_request(*images, **spec):
    request = wire.PredictRequest()
    request.servable_spec.name = spec.get("name", "metric_learn")
    request.servable_spec.method_name = spec.get("method", "embed")
    request.servable_spec.version_number = spec.get("version", 0)
    for image in images:
        tensor = request.instances.add().items["image"]
        tensor.dtype = wire.DataType.MS_BYTES
        tensor.shape.dims.append(1)
        tensor.bytes_val.append(image)
    return request


def pixel_request(data=PIXELS, dims=(224, 224, 3), dtype=wire.DataType.MS_UINT8):
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = "metric_learn", "embed_pixels"
    tensor = request.instances.add().items["pixels"]
    tensor.dtype = dtype
    tensor.shape.dims.extend(dims)
    tensor.data = data
    return request


def refused(body):
    body = body if isinstance(body, bytes) else body.SerializeToString()
    with pytest.raises(CallError) as caught:
        read_request(body, LIMITS)
    assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert "\n" not in caught.value.message and len(caught.value.message) < 300
    return caught.value.message


def test_images_and_version_are_read():
    work = read_request(image_request(b"one", b"", b"three", version=7).SerializeToString(), LIMITS)
    assert (work.method.name, work.version) == ("embed", 7)
    assert [bytes(payload) for payload in work.payloads] == [b"one", b"", b"three"]


def test_pixels_are_read():
    work = read_request(pixel_request().SerializeToString(), LIMITS)
    assert work.method.name == "embed_pixels" and bytes(work.payloads[0]) == PIXELS


def test_a_scalar_shape_is_as_good_as_one():
    request = image_request(b"x")
    request.instances[0].items["image"].shape.Clear()
    assert len(read_request(request.SerializeToString(), LIMITS).payloads) == 1


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_payloads_are_read_as_they_were_written(images, version):
    work = read_request(image_request(*images, version=version).SerializeToString(), LIMITS)
    assert [bytes(payload) for payload in work.payloads] == images and work.version == version


def test_another_order_of_fields_is_read_alike():
    plain = image_request(b"x").SerializeToString()
    spec, instance = plain[: 2 + plain[1]], plain[2 + plain[1] :]
    assert [bytes(payload) for payload in read_request(instance + spec, LIMITS).payloads] == [b"x"]


def edit(change, request=None):
    request = request or image_request(b"x")
    change(request)
    return request


def image(request):
    return request.instances[0].items["image"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (image_request(), ["instances", "none"]),
        (image_request(*[b"x"] * 9), ["instances", "more than 8"]),
        (image_request(b"x", name="other"), ["servable_spec.name", "'other'", "'metric_learn'"]),
        (image_request(b"x", name=""), ["servable_spec.name", "''"]),
        (image_request(b"x", method="nothing"), ["servable_spec.method_name", "'nothing'", "embed, embed_pixels"]),
        (image_request(b"x", method="x" * 5000), ["servable_spec.method_name", "xxx"]),
        (edit(lambda r: r.instances.add()), ["instances[1].items", "'image' is missing"]),
        (edit(lambda r: r.instances[0].items["extra"]), ["instances[0].items", "'extra' is not an input"]),
        (edit(lambda r: r.instances[0].items["im\nage"]), ["instances[0].items", r"'im\nage'"]),
        (edit(lambda r: setattr(image(r), "dtype", 13)), ["instances[0].items['image'].dtype", "13", "14 (MS_BYTES)"]),
        (edit(lambda r: setattr(image(r), "dtype", 0)), ["dtype", "14 (MS_BYTES)"]),
        (edit(lambda r: image(r).shape.dims.append(2)), ["shape", "[1, 2]", "[1] or []"]),
        (edit(lambda r: image(r).shape.dims.__setitem__(0, -1)), ["shape", "[-1]"]),
        (edit(lambda r: image(r).shape.dims.extend([1] * 100)), ["shape", "more than 8 dimensions"]),
        (edit(lambda r: image(r).bytes_val.append(b"y")), ["bytes_val", "more than one"]),
        (edit(lambda r: image(r).ClearField("bytes_val")), ["bytes_val", "is missing"]),
        (edit(lambda r: setattr(image(r), "data", b"y")), ["data", "must be empty"]),
        (edit(lambda r: setattr(image(r).shm_data, "memory_key", "k")), ["shm_data", "shared memory"]),
        (edit(lambda r: image(r).shm_data.SetInParent()), ["shm_data", "shared memory"]),
        (
            edit(lambda r: setattr(r.instances[0].output_buffers["embedding"], "memory_key", "k")),
            ["instances[0].output_buffers", "shared memory"],
        ),
        (pixel_request(dims=(3, 224, 224)), ["instances[0].items['pixels'].shape", "[3, 224, 224]", "[224, 224, 3]"]),
        (pixel_request(dims=(1 << 62, 224, 3)), ["shape", str(1 << 62)]),
        (pixel_request(dims=()), ["shape", "[]"]),
        (pixel_request(data=PIXELS[:-1]), ["data", "150527 bytes", "150528"]),
        (pixel_request(data=PIXELS * 4, dtype=11), ["dtype", "11", "3 (MS_UINT8)"]),
        (edit(lambda r: r.instances[0].items["pixels"].bytes_val.append(b""), pixel_request()), ["bytes_val", "empty"]),
    ],
)
def test_each_wrong_field_is_named(request_, words):
    message = refused(request_)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff" * 20, ["request", "cut off or too long"]),
        (b"\x12\xff\xff\xff\xff\x0f", ["not a PredictRequest", "beyond"]),
        (b"\x13\x14", ["wire type"]),  # a group
        (b"\x00\x00", ["field number"]),
        (b"\x1a\x00", ["field 3 is unknown"]),
        (b"\x10\x01", ["field 2 is unknown, of the wrong type"]),
        (b"\x0a\x00\x0a\x00", ["there twice"]),
        (b"", ["servable_spec.name"]),
        (b"\x0d\x01", ["cut off"]),
    ],
)
def test_broken_bodies_are_refused(body, words):
    message = refused(body)
    assert all(word in message for word in words), message


def test_a_body_of_millions_of_tiny_fields_costs_no_more_than_a_small_one():
    for body in (b"\x12\x00" * 10_000_000, b"\x08\x01" * 10_000_000):
        refused(body)
    inner = b"\x0a\x00" * 10_000_000  # map entries
    refused(image_request().SerializeToString() + b"\x12" + varint(len(inner)) + inner)


def varint(value):
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes(encoded) + bytes([value])


def test_the_same_item_twice_is_refused_though_protobuf_would_take_the_last():
    once = image_request(b"x").SerializeToString()
    spec, instance = once[: 2 + once[1]], once[2 + once[1] :]
    doubled = instance[2:] * 2
    body = spec + b"\x12" + varint(len(doubled)) + doubled
    assert len(wire.PredictRequest.FromString(body).instances[0].items) == 1
    assert "more than once" in refused(body)


def mutate(body, chance):
    """A few random edits of a body: bytes changed, pieces dropped, doubled or swapped in."""
    body = bytearray(body)
    for _ in range(chance.randint(1, 2)):
        where = chance.randrange(len(body) + 1)
        kind = chance.randrange(4)
        if kind == 0 and where < len(body):
            body[where] = chance.randrange(256)
        elif kind == 1:
            del body[where : where + chance.randint(1, 8)]
        elif kind == 2:
            body[where:where] = body[where : where + chance.randint(1, 30)]
        else:
            body[where:where] = chance.randbytes(chance.randint(1, 5))
    return bytes(body)


def test_what_is_accepted_of_20000_mutated_bodies_means_the_same_to_protobuf():
    """Seeded. A body that is read here is read by protobuf too, with the same images and the same method."""
    chance = random.Random(20261124)
    seeds = [image_request(b"abc", b"defg", version=3).SerializeToString(), image_request(b"x").SerializeToString()]
    accepted, refused = 0, set()
    for _ in range(20_000):
        body = mutate(chance.choice(seeds), chance)
        try:
            work = read_request(body, LIMITS)
        except CallError as error:
            refused.add(error.status)
            continue
        accepted += 1
        request = wire.PredictRequest.FromString(body)
        assert request.servable_spec.version_number == work.version
        assert METHODS[request.servable_spec.method_name] is work.method
        assert [each.items["image"].bytes_val[0] for each in request.instances] == [bytes(p) for p in work.payloads]
    assert accepted > 200 and refused == {grpc.StatusCode.INVALID_ARGUMENT}
