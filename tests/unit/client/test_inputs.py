"""What counts as an image, what is sent for it, and how it is put into batches."""

import io
import os
import socket

import cv2
import numpy as np
import PIL.Image
import pytest

from metric_learn_client._client.core.batches import pack
from metric_learn_client._client.core.identity import ModelLimits
from metric_learn_client._client.lossless import encode_lossless
from metric_learn_client.inputs import UnreadableError, check_image, read_image

RNG = np.random.default_rng(5)
MB = 10**6


def decoded(encoded):
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 3), (7, 5), (224, 224), (300, 401)])
@pytest.mark.parametrize("limit", [0, 10**9], ids=["png", "bmp"])
def test_pixels_are_sent_losslessly(monkeypatch, size, limit):
    monkeypatch.setattr("metric_learn_client._client.lossless.BMP_MAX_BYTES", limit)
    pixels = RNG.integers(0, 256, (*size, 3), np.uint8)
    encoded = encode_lossless(pixels)
    assert encoded[:2] == (b"BM" if limit else b"\x89P") and (decoded(encoded) == pixels).all()


def test_every_form_of_an_array_is_understood():
    pixels = RNG.integers(0, 256, (6, 5, 4), np.uint8)
    assert (decoded(read_image(pixels, MB)) == pixels[:, :, :3]).all()
    for grey in (pixels[:, :, 0], pixels[:, :, :1]):
        assert (decoded(read_image(grey, MB)) == np.repeat(pixels[:, :, :1], 3, axis=2)).all()
    assert (decoded(read_image(pixels[::-2, ::2, 2::-1], MB)) == pixels[::-2, ::2, 2::-1]).all()  # no plain layout


def test_a_pil_image_is_upright_rgb_without_alpha():
    pixels = RNG.integers(0, 256, (6, 5, 4), np.uint8)
    for mode, channels in (("RGB", 3), ("RGBA", 4)):
        image = PIL.Image.fromarray(pixels[:, :, :channels])
        assert image.mode == mode and (decoded(read_image(image, MB)) == pixels[:, :, 2::-1]).all()
    rotated = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(pixels[:, :, :3]).save(rotated, "png", exif=exif)
    opened = PIL.Image.open(io.BytesIO(rotated.getvalue()))
    assert (decoded(read_image(opened, MB)) == decoded(rotated.getvalue())).all()
    with pytest.raises(ValueError, match="I;16"):
        check_image(PIL.Image.new("I;16", (3, 3)), 4)
    cut = io.BytesIO()
    PIL.Image.fromarray(RNG.integers(0, 256, (60, 60, 3), np.uint8)).save(cut, "jpeg")
    with pytest.raises(UnreadableError, match="Pillow"):
        read_image(PIL.Image.open(io.BytesIO(cut.getvalue()[:800])), MB)


def test_a_path_that_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    address = socket.socket(socket.AF_UNIX)
    address.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "pipe", str(tmp_path / "pipe"), "/dev/zero", "/dev/null"):
        with pytest.raises(UnreadableError, match=f"^{path}: it is not a regular file$") as caught:
            read_image(path, 100)
        assert caught.value.code == "E_READ"
    for path in (tmp_path / "socket", tmp_path):
        with pytest.raises(UnreadableError) as caught:
            read_image(path, 100)
        assert caught.value.code == "E_READ"
    address.close()


def test_an_endless_or_huge_file_is_refused_after_its_limit(tmp_path):
    (tmp_path / "huge").write_bytes(bytes(500))
    with pytest.raises(UnreadableError, match="more than 100 bytes; the limit is 100") as caught:
        read_image(tmp_path / "huge", 100)
    assert caught.value.code == "E_TOO_LARGE"
    with pytest.raises(UnreadableError, match="more than 100"):
        read_image(io.BytesIO(bytes(101)), 100)
    with pytest.raises(UnreadableError, match="limit is 100"):
        read_image(bytes(500), 100)
    assert read_image(bytes(100), 100) == bytes(100)


def test_a_file_object_is_read_from_where_it_stands():
    file = io.BytesIO(b"0123456789")
    file.seek(4)
    assert read_image(file, 100) == b"456789"
    file.close()
    with pytest.raises(UnreadableError) as caught:
        read_image(file, 100)
    assert caught.value.code == "E_READ"


class Pieces(io.RawIOBase):
    """A stream without a buffer, as a pipe or a socket is: a read gives what is there."""

    def __init__(self, *pieces):
        self._pieces = list(pieces)

    def read(self, _size=-1):
        return self._pieces.pop(0) if self._pieces else b""


def test_a_stream_without_a_buffer_is_read_to_its_end():
    assert read_image(Pieces(b"0123", b"4", b"56789"), 100) == b"0123456789"
    with pytest.raises(UnreadableError, match="the limit is 9"):
        read_image(Pieces(b"0123", b"4", b"56789", b"more"), 9)
    with pytest.raises(UnreadableError, match="it is non-blocking, and nothing is there now") as caught:
        read_image(Pieces(b"0123", None), 100)
    assert caught.value.code == "E_READ"
    for pieces in (("text",), (b"0123", "text")):
        with pytest.raises(TypeError, match="binary mode"):
            read_image(Pieces(*pieces), 100)


def test_batches_cover_every_image_once_in_order_whatever_the_sizes():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        images = [bytes(int(size)) for size in rng.integers(0, 900, 60)]
        limits = ModelLimits(int(rng.integers(1, 20)), int(rng.integers(1000, 4000)), int(rng.integers(300, 900)), 1)
        batches = list(pack(images, int(rng.integers(1, 20)), limits, first=100))
        sent = [position for batch in batches for position in batch.positions]
        failed = [failure.index for batch in batches for failure in batch.failures]
        assert sorted(sent + failed) == list(range(100, 160)) and sent == sorted(sent)
        assert [batch.start for batch in batches] == [100, *(batch.start + batch.count for batch in batches[:-1])]
        for batch in batches:
            assert len(batch.images) <= limits.max_instances
            assert sum(len(image) + 64 for image in batch.images) + 64 <= limits.max_request_bytes
            assert all(batch.start <= index < batch.start + batch.count for index in batch.positions)


def test_a_full_batch_is_given_without_asking_for_the_next_image():
    taken = []

    def source():
        for number in range(4):
            taken.append(number)
            yield b"x"

    next(iter(pack(source(), 2, ModelLimits())))
    assert taken == [0, 1]


def test_halves_hold_all_images_and_no_failure_twice():
    (batch,) = pack([b"a", "/none", b"b", b"c"], 9, ModelLimits())
    first, second = batch.halves()
    assert first.positions + second.positions == batch.positions == (0, 2, 3)
    assert not first.failures and not second.failures and len(batch.failures) == 1
