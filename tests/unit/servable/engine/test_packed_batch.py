"""Batches as one value: what is written is read back, and foreign bytes are refused."""

import contextlib
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from servable.engine.packed_batch import MalformedBatch, images_head, pack_rows, unpack_images, unpack_rows

REPOSITORY = Path(__file__).parents[4]
IMAGES = [b"one", b"", bytes(1000), b"four"]
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
ERRORS = [None, "E_DECODE: cut off", None, "é"]


def packed(images, pixels=False):
    return np.frombuffer(images_head(images, pixels=pixels) + b"".join(images), np.uint8)


@pytest.mark.parametrize("pixels", [False, True])
def test_images_come_back_as_views_in_order_with_their_kind(pixels):
    images, are_pixels = unpack_images(packed(IMAGES, pixels))
    assert are_pixels is pixels
    assert [image.tobytes() for image in images] == IMAGES
    assert all(image.base is not None for image in images)


def test_rows_and_errors_come_back():
    for errors in ([None] * 4, ERRORS, ["all"] * 4):
        rows, said = unpack_rows(pack_rows(ROWS, errors).tobytes())
        assert rows.dtype == np.float32 and np.array_equal(rows, ROWS) and said == errors


def test_rows_are_read_from_an_array_and_from_bytes_alike():
    array = pack_rows(ROWS, ERRORS)
    for given in (array, array.tobytes(), memoryview(array.tobytes())):
        rows, errors = unpack_rows(given)
        assert np.array_equal(rows, ROWS) and errors == ERRORS


def test_a_value_that_is_cut_off_anywhere_is_refused():
    for whole, unpack in ((packed(IMAGES), unpack_images), (pack_rows(ROWS, ERRORS), unpack_rows)):
        for length in range(len(whole)):
            with pytest.raises(MalformedBatch):
                unpack(whole[:length])


@pytest.mark.parametrize(
    "foreign",
    [
        np.zeros(100, np.uint8),
        np.frombuffer(b"\xff\xd8\xff\xe0" * 30, np.uint8),
        np.frombuffer(b"MLF1" + struct.pack("<I", 0), np.uint8),
        np.frombuffer(b"MLP1" + struct.pack("<I", 0xFFFFFFFF) + bytes(50), np.uint8),
        np.frombuffer(b"MLF1" + struct.pack("<III", 2, 0xFFFFFFFF, 5) + bytes(4), np.uint8),
        np.frombuffer(b"MLR1" + struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + bytes(50), np.uint8),
        np.frombuffer(b"MLR1" + struct.pack("<III", 1, 0, 0), np.uint8),
    ],
)
def test_foreign_bytes_are_refused(foreign):
    for unpack in (unpack_images, unpack_rows):
        with pytest.raises(MalformedBatch):
            unpack(foreign)


def test_an_array_of_another_kind_is_no_batch():
    for other in (np.zeros(100, np.float32), np.zeros((10, 10), np.uint8), np.zeros(0, np.uint8)):
        with pytest.raises(MalformedBatch):
            unpack_images(other)


def test_changed_bytes_never_raise_anything_else():
    chance = random.Random(3)
    for whole, unpack in ((packed(IMAGES), unpack_images), (pack_rows(ROWS, ERRORS), unpack_rows)):
        for _ in range(3000):
            broken = whole.copy()
            for _ in range(chance.randint(1, 4)):
                broken[chance.randrange(min(len(broken), 40))] = chance.randrange(256)
            with contextlib.suppress(MalformedBatch):
                unpack(broken)


def test_it_needs_neither_grpc_nor_protobuf():
    code = "import sys, servable.engine.packed_batch; print(sorted({'grpc', 'google.protobuf'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
