"""JPEG: OpenCV's pixels for whatever is sound, and an error for whatever is not, also where libjpeg only warns."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from metric_learn_client.preprocess import DecodeLimits, ImageError, decode
from tests.unit.client.preprocess.small_jpeg import segment, small_jpeg

GOLDEN = Path(__file__).parents[3] / "golden"
SOUND = GOLDEN / "hostile" / "sound"
PHOTOS = [cv2.imread(str(GOLDEN / "images" / name)) for name in ("astronaut_420_q90.jpg", "coffee_444_q95.jpg")]
SUBSAMPLINGS = [0x411111, 0x221111, 0x211111, 0x121111, 0x111111]
READ = [
    [(1, 1)],
    [(2, 2)],
    [(1, 1)] * 3,
    [(2, 1), (1, 1), (1, 1)],
    [(1, 2), (1, 1), (1, 1)],
    [(2, 2), (1, 1), (1, 1)],
    [(2, 2), (2, 1), (2, 1)],
    [(4, 1), (1, 1), (1, 1)],
    [(1, 4), (1, 1), (1, 1)],
    [(1, 1)] * 4,
    [(2, 2), (1, 1), (1, 1), (2, 2)],
]
NOT_READ = [[(4, 2), (1, 1), (1, 1)], [(1, 1), (1, 2), (1, 2)], [(1, 1), (2, 2), (2, 2)]]


def opencv(data):
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def error_of(data):
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


def test_pixels_equal_opencvs_for_every_sampling_size_and_quality():
    random = np.random.default_rng(4)
    for index in range(400):
        height, width = (int(side) for side in random.integers(1, 90, 2))
        picture: Any = cv2.resize(PHOTOS[index % 2], (width, height), interpolation=cv2.INTER_AREA)
        if index % 5 == 0:
            picture = random.integers(0, 256, picture.shape, dtype=np.uint8)
        if index % 7 == 0:
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        flags = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(1, 101)), cv2.IMWRITE_JPEG_PROGRESSIVE, index % 3 == 0]
        flags += [cv2.IMWRITE_JPEG_RST_INTERVAL, (index % 4 == 1) * int(random.integers(1, 9))]
        flags += [cv2.IMWRITE_JPEG_OPTIMIZE, index % 2, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[index % 5]]
        data = cv2.imencode(".jpg", picture, [int(flag) for flag in flags])[1].tobytes()
        assert np.array_equal(decode(data), opencv(data)), index


@pytest.mark.parametrize("factors", READ, ids=str)
@pytest.mark.parametrize("together", [True, False], ids=["one scan", "a scan for each channel"])
def test_pixels_equal_opencvs_for_every_colour_space_and_restart_interval(factors, together):
    """Grey, YCbCr, RGB, CMYK and YCCK, with and without the markers that say which."""
    for number, (width, height) in enumerate([(1, 1), (7, 9), (16, 16), (33, 17), (64, 48)]):
        for adobe in (None, 0, 2 if len(factors) == 4 else 1):
            for restart in (0, 1, 3):
                choices = {"restart": restart, "adobe": adobe, "jfif": number % 2 == 0, "together": together}
                data = small_jpeg(width, height, factors, seed=number, **choices)
                assert np.array_equal(decode(data), opencv(data)), choices


@pytest.mark.parametrize("name", ["cmyk.jpg", "rgb.jpg", "grey.jpg", "progressive.jpg", "restarts.jpg"])
def test_pixels_of_what_pillow_writes_equal_opencvs(name):
    data = (SOUND / name).read_bytes()
    assert np.array_equal(decode(data), opencv(data))


@pytest.mark.parametrize("factors", NOT_READ, ids=str)
def test_sampling_that_simplejpeg_does_not_read_is_named(factors):
    error = error_of(small_jpeg(40, 30, factors))
    named = ", ".join(f"{across}x{down}" for across, down in factors)
    assert error.code == "E_UNSUPPORTED" and f"sampling factors {named}," in error.message


def test_two_channels_are_named():
    error = error_of(small_jpeg(40, 30, [(1, 1)] * 2))
    assert str(error).startswith("E_UNSUPPORTED: a JPEG of 2 channels")


def test_threads_do_not_disturb_each_other():
    names = ["baseline.jpg", "progressive.jpg", "cmyk.jpg", "grey.jpg"] * 100
    files = [(SOUND / name).read_bytes() for name in names]
    alone = [decode(data).tobytes() for data in files]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda data: decode(data).tobytes(), files)) == alone


def test_a_missing_channel_is_damage():
    """libjpeg says nothing: the picture comes without colour."""
    whole = small_jpeg(40, 30, [(1, 1)] * 3, together=False)
    assert decode(whole).shape == (30, 40, 3)
    for missing in (1, 2):
        assert opencv(small_jpeg(40, 30, [(1, 1)] * 3, together=False, leave_out=missing)) is not None
        error = error_of(small_jpeg(40, 30, [(1, 1)] * 3, together=False, leave_out=missing))
        assert str(error) == "E_DECODE: the JPEG is not complete: scans of it are missing"


def test_each_missing_scan_of_a_progressive_picture_is_damage():
    data = (SOUND / "progressive.jpg").read_bytes()
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(starts) == 10
    for start, stop in zip(starts, [*starts[1:], len(data) - 2]):
        assert error_of(data[:start] + data[stop:]).code == "E_DECODE"


@pytest.mark.parametrize("name", ["astronaut_420_q90.jpg", "cat_progressive.jpg", "astronaut_cmyk.jpg"])
def test_data_missing_inside_is_damage(name):
    """A thousand bytes less, the end intact: OpenCV gives a picture that is grey or shifted from there on."""
    data = (GOLDEN / "images" / name).read_bytes()
    start = data.index(b"\xff\xda") + 20
    for part in range(20):
        at = start + (len(data) - start - 1200) * part // 20
        assert error_of(data[:at] + data[at + 1000 :]).code == "E_DECODE"


def test_damage_behind_a_harmless_fault_is_still_found():
    """The first warning is all that libjpeg tells: an odd JFIF version would hide the missing data."""
    data = bytearray((GOLDEN / "images" / "cat_tiny_60x40.jpg").read_bytes())
    assert data[6:11] == b"JFIF\0"
    data[11] = 9
    assert decode(bytes(data)).shape == (40, 60, 3)
    del data[900:1100]
    assert str(error_of(bytes(data))) == "E_DECODE: image data is missing inside the JPEG"


def test_ordinary_scripts_stay_far_below_the_limits_and_the_limits_hold_exactly():
    data = (SOUND / "progressive.jpg").read_bytes()
    assert np.array_equal(decode(data, DecodeLimits(max_jpeg_scans=10, max_jpeg_segments=30)), decode(data))
    for limits, word in ((DecodeLimits(max_jpeg_scans=9), "scans"), (DecodeLimits(max_jpeg_segments=20), "segments")):
        with pytest.raises(ImageError) as caught:
            decode(data, limits)
        assert caught.value.code == "E_TOO_LARGE" and word in caught.value.message
    many = data[:2] + segment(0xFE, b"a comment") * 900 + data[2:]
    assert np.array_equal(decode(many), decode(data))
