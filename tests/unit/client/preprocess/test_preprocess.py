"""The pixels that the network sees, against the model zoo's own (tests/golden)."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_learn_client.preprocess import DecodeLimits, ImageError, decode, preprocess, resize

GOLDEN = Path(__file__).parents[3] / "golden"
REFERENCE = np.load(GOLDEN / "reference.npz")
NAMES = [str(name) for name in REFERENCE["names"]]


def image(name: str) -> bytes:
    return (GOLDEN / "images" / name).read_bytes()


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_pixels_equal_the_model_zoos(index):
    assert np.array_equal(preprocess(image(NAMES[index])), REFERENCE["pixels_bgr_u8"][index])


def test_a_view_of_bytes_gives_the_same_pixels_as_bytes():
    data = image(NAMES[0])
    assert np.array_equal(preprocess(np.frombuffer(data, np.uint8)), preprocess(data))


def test_another_filter_or_channel_order_would_be_seen():
    """The comparison above can fail: one bilinear resize and RGB order both do."""
    pixels = decode(image("astronaut_420_q90.jpg"))
    right = resize(pixels)
    assert not np.array_equal(cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_LINEAR), right)
    assert not np.array_equal(right[:, :, ::-1], right)


def test_the_first_resize_rounds_its_factor_as_the_zoo_does():
    """192 x 213: 213 * (224 / 192) rounds to 249, 213 * 224 / 192 to 248."""
    pixels = np.random.default_rng(0).integers(0, 256, (213, 192, 3), dtype=np.uint8)
    short = cv2.resize(pixels, (224, 249), interpolation=cv2.INTER_LANCZOS4)
    assert np.array_equal(resize(pixels), cv2.resize(short, (224, 224), interpolation=cv2.INTER_LINEAR))


def test_pillows_lanczos_would_be_seen():
    image_module = pytest.importorskip("PIL.Image")
    pixels = decode(image("astronaut_420_q90.jpg"))
    short = image_module.fromarray(pixels).resize((224, 224), image_module.LANCZOS)
    assert np.abs(np.asarray(short).astype(int) - resize(pixels)).max() > 8


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_off_file_is_refused_at_every_length(name):
    data = image(name)
    for length in {len(data) * tenth // 10 for tenth in range(10)} | {len(data) - 1, len(data) - 20}:
        with pytest.raises(ImageError):
            preprocess(data[:length])


def test_bytes_behind_the_end_of_a_jpeg_are_allowed():
    data = image("cat_progressive.jpg")
    assert np.array_equal(preprocess(data + b"trailing" * 100), preprocess(data))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "E_EMPTY"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "E_UNSUPPORTED"),
        (b"GIF89a" + bytes(100), "E_UNSUPPORTED"),
        (b"\xff\xd8\xff", "E_DECODE"),
        (b"\x89PNG\r\n\x1a\n", "E_DECODE"),
        (b"RIFF\0\0\0\0WEBP", "E_DECODE"),
        (b"BM", "E_DECODE"),
    ],
)
def test_what_is_not_a_picture_has_its_code(data, code):
    with pytest.raises(ImageError) as caught:
        preprocess(data)
    assert caught.value.code == code
    assert str(caught.value).startswith(f"{code}: ")


def test_limits_are_checked_before_a_pixel_is_decoded():
    png = bytearray(image("coffee_rgb.png"))
    png[16:24] = (60000).to_bytes(4, "big") * 2  # claims 3.6 billion pixels
    for data, limits in (
        (bytes(png), DecodeLimits()),
        (image("coffee_rgb.png"), DecodeLimits(max_image_bytes=100)),
        (image("coffee_rgb.png"), DecodeLimits(max_image_px=100)),
    ):
        with pytest.raises(ImageError) as caught:
            preprocess(data, limits)
        assert caught.value.code == "E_TOO_LARGE"


def test_a_thin_picture_that_would_grow_is_refused():
    thin = cv2.imencode(".png", np.zeros((1, 65535, 3), np.uint8))[1].tobytes()
    with pytest.raises(ImageError) as caught:
        preprocess(thin)
    assert caught.value.code == "E_TOO_LARGE"
