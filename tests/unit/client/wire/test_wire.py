"""The forms that are written and read by hand: equal to protobuf's, and read only where they are exactly that."""

import random

import numpy as np
import pytest

from metric_learn_client import wire
from metric_learn_client.wire.instances import (
    INSTANCE_OVERHEAD_BYTES,
    REQUEST_OVERHEAD_BYTES,
    encode_request,
    read_request,
)
from metric_learn_client.wire.messages import POOL
from metric_learn_client.wire.rows import join_rows, pack_rows, unpack_rows

PATHS = [wire.PREDICT_PATH, wire.HEALTH_CHECK_PATH, wire.GET_MODEL_PATH]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_names_a_method_of_the_proto_files(path):
    service, method = path.lstrip("/").split("/")
    assert method in POOL.FindServiceByName(service).methods_by_name


SIZES = [0, 1, 90, 100, 110, 127, 128, 16_300, 16_340, 16_383, 16_384, 2_097_100, 2_097_152]


def message(method, images):
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = "metric_learn", method
    for image in images:
        if method == "embed":
            tensor = request.instances.add().items["image"]
            tensor.dtype = wire.DataType.MS_BYTES
            tensor.shape.dims.append(1)
            tensor.bytes_val.append(image)
        else:
            tensor = request.instances.add().items["pixels"]
            tensor.dtype = wire.DataType.MS_UINT8
            tensor.shape.dims.extend((224, 224, 3))
            tensor.data = image
    return request.SerializeToString(deterministic=True)


@pytest.mark.parametrize("size", SIZES)
def test_a_request_is_byte_for_byte_what_protobuf_writes(size):
    images = [bytes(size), b"x" * size, b"y"]
    written = encode_request("embed", images)
    assert written == message("embed", images)
    assert len(written) <= sum(len(image) + INSTANCE_OVERHEAD_BYTES for image in images) + REQUEST_OVERHEAD_BYTES
    assert read_request(written, 3) == ("embed", images)
    assert read_request(written, 2) is None
    assert read_request(written[:-1], 3) is None and read_request(written + b"\0", 3) is None


def test_a_request_of_pixels_is_byte_for_byte_what_protobuf_writes():
    pixels = [np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8).tobytes() for _ in range(2)]
    written = encode_request("embed_pixels", pixels)
    assert written == message("embed_pixels", pixels)
    assert read_request(written, 8) == ("embed_pixels", pixels)


@pytest.mark.parametrize("start", range(90, 16_400, 815))
def test_every_size_is_read(start):
    for size in range(start, start + 60):
        method, payloads = read_request(encode_request("embed", [bytes(size)]), 1)
        assert method == "embed" and payloads == [bytes(size)]


def test_what_is_read_of_30000_mutated_requests_is_what_would_be_written():
    chance = random.Random(20261124)
    seeds = [encode_request("embed", [bytes(100), bytes(3), b""]), encode_request("embed_pixels", [bytes(200)])]
    found = 0
    for _ in range(30_000):
        body = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 2)):
            body[chance.randrange(len(body))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        if chance.random() < 0.2:
            del body[chance.randrange(len(body)) :]
        read = read_request(bytes(body), 8)
        if read is not None:
            found += 1
            assert encode_request(*read) == body
    assert 1000 < found < 29_000


def test_a_request_without_images_is_left_to_a_parser():
    assert read_request(encode_request("embed", []), 8) is None
    assert read_request(b"", 8) is None


def rows_of(count):
    return np.random.default_rng(count).standard_normal((count, 2048)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 32])
def test_rows_are_joined_packed_and_unpacked_alike(count):
    rows = rows_of(count)
    reply = pack_rows("embed", rows)
    split = [memoryview(row.tobytes()) for row in rows]
    spec = wire.PredictReply()
    spec.servable_spec.name, spec.servable_spec.method_name = "metric_learn", "embed"
    assert join_rows(spec.SerializeToString(), split) == reply
    assert wire.PredictReply.FromString(reply).instances[count - 1].items["embedding"].data == split[-1]
    out = np.zeros((count, 2048), np.float32)
    assert unpack_rows(reply, out) and (out == rows).all()


@pytest.mark.parametrize(
    ("at", "same"),  # a letter of the servable's name and a bit of a row change no form
    [(0, False), (1, False), (3, True), (40, False), (60, True), (-8193, False), (-8200, False)],
)
def test_a_reply_of_another_form_is_left_to_a_parser(at, same):
    reply = bytearray(pack_rows("embed", rows_of(2)))
    for count in (1, 3):
        assert not unpack_rows(bytes(reply), np.zeros((count, 2048), np.float32))
    reply[at] ^= 1
    assert unpack_rows(bytes(reply), np.zeros((2, 2048), np.float32)) == same
