"""PNG, WebP and BMP: OpenCV's pixels of the still picture, whatever else the file holds."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_learn_client.preprocess import DecodeLimits, ImageError, decode
from metric_learn_client.preprocess import png as png_module

SOUND = Path(__file__).parents[3] / "golden" / "hostile" / "sound"
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [(depth, 0) for depth in (1, 2, 4, 8, 16)] + [(depth, 3) for depth in (1, 2, 4, 8)]
KINDS += [(depth, colour) for colour in (2, 4, 6) for depth in (8, 16)]
METADATA = {b"gAMA": struct.pack(">I", 45455), b"cHRM": bytes(32), b"sBIT": b"\x05\x05\x05", b"pHYs": bytes(9)}
METADATA.update({b"tEXt": b"a\0b", b"cICP": bytes([9, 16, 0, 1]), b"acTL": struct.pack(">II", 2, 0), b"fdAT": b"junk"})


def opencv(data):
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(random, width, height, depth, colour, interlaced, metadata=False):
    rows = b""
    for x, y, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns = -(-(width - x) // across)
        for _ in range(-(-(height - y) // down) if columns > 0 else 0):
            size = (columns * depth * CHANNELS[colour] + 7) // 8
            rows += random.integers(0, 5, 1, np.uint8).tobytes() + random.integers(0, 256, size, np.uint8).tobytes()
    stream = zlib.compress(rows)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))]
    parts += METADATA.items() if metadata else []
    if colour == 3:
        parts += [(b"PLTE", random.integers(0, 256, 3 << depth, np.uint8).tobytes()), (b"tRNS", b"\x80\0")]
    parts += [(b"IDAT", stream[: len(stream) // 2]), (b"IDAT", stream[len(stream) // 2 :]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(("depth", "colour"), KINDS)
@pytest.mark.parametrize("interlaced", [0, 1])
def test_every_kind_of_png_gives_opencvs_pixels_with_and_without_metadata(depth, colour, interlaced):
    for seed, (width, height) in enumerate([(1, 1), (2, 9), (5, 3), (16, 8), (33, 21)]):
        plain, with_metadata = (
            png(np.random.default_rng(seed), width, height, depth, colour, interlaced, metadata)
            for metadata in (False, True)
        )
        assert np.array_equal(decode(plain), opencv(plain))
        assert np.array_equal(decode(with_metadata), decode(plain))


def test_a_png_in_pieces_of_one_byte_is_one_picture():
    data = (SOUND / "rgb.png").read_bytes()
    at = data.index(b"IDAT") - 4
    body = data[at + 8 : at + 8 + int.from_bytes(data[at : at + 4], "big")]
    pieces = b"".join(chunk(b"IDAT", body[index : index + 1]) for index in range(len(body)))
    assert np.array_equal(decode(data[:at] + pieces + data[-12:]), decode(data))
    with pytest.raises(ImageError, match="E_TOO_LARGE: the PNG has more chunks than the limit of 100"):
        decode(data[:at] + pieces + data[-12:], DecodeLimits(max_png_chunks=100))


def test_an_index_beyond_the_palette_is_black_as_in_opencv():
    random = np.random.default_rng(8)
    data = png(random, 33, 21, 8, 3, 0)
    at = data.index(b"PLTE") - 4
    short = data[:at] + chunk(b"PLTE", data[at + 8 : at + 8 + 30]) + data[at + 12 + 768 :]
    assert np.array_equal(decode(short), opencv(short))
    assert (decode(short) == 0).all(axis=2).mean() > 0.9


def test_rows_are_checked_across_the_pieces_they_come_in(monkeypatch):
    """Whatever the size of a piece, a wrong filter byte is found in any row, and no other byte is taken for one."""
    for size in (1, 7, 133, 134, 1000):
        monkeypatch.setattr(png_module, "_PIECE_BYTES", size)
        for interlaced in (0, 1):
            random = np.random.default_rng(3)
            data = png(random, 44, 30, 8, 2, interlaced)
            assert np.array_equal(decode(data), opencv(data))
        rows = bytearray(b"".join(b"\0" + bytes([200] * 132) for _ in range(30)))
        for row in (0, 1, 29):
            damaged = bytearray(rows)
            damaged[133 * row] = 5
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", 44, 30, 8, 2, 0, 0, 0))
            body = chunk(b"IDAT", zlib.compress(bytes(damaged)))
            with pytest.raises(ImageError, match="filter that does not exist"):
                decode(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    "path", sorted([*SOUND.glob("*.png"), *SOUND.parent.glob("*.png")]), ids=lambda path: path.name
)
def test_a_large_png_which_is_not_held_once_more_is_checked_as_a_small_one(path, monkeypatch):
    def outcome():
        try:
            return decode(path.read_bytes()).tobytes()
        except ImageError as error:
            return str(error)

    small = outcome()
    monkeypatch.setattr(png_module, "_STORED_BYTES", 0)
    assert outcome() == small


@pytest.mark.parametrize("name", ["animated.png", "animated_aside.png"])
def test_the_default_image_of_an_animated_png_is_what_counts(name):
    assert np.array_equal(decode((SOUND / name).read_bytes()), decode((SOUND / "rgb.png").read_bytes()))


@pytest.mark.parametrize("name", ["animated.webp", "animated_alpha.webp"])
def test_the_first_frame_of_an_animated_webp_is_what_counts(name):
    data = (SOUND / name).read_bytes()
    frames = [at for at in range(len(data)) if data[at : at + 4] == b"ANMF"]
    assert len(frames) == 2
    one = bytearray(data[: frames[1]])
    one[4:8] = struct.pack("<I", len(one) - 8)
    assert np.array_equal(decode(data), decode(bytes(one)))


@pytest.mark.parametrize("name", ["lossy.webp", "lossless.webp", "alpha.webp", "exif6.webp"])
def test_a_still_webp_gives_opencvs_pixels(name):
    data = (SOUND / name).read_bytes()
    stored = np.rot90(decode(data)) if name.startswith("exif6") else decode(data)
    assert np.array_equal(stored, opencv(data))


@pytest.mark.parametrize("top_down", [False, True], ids=["bottom-up", "top-down"])
@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24, 32])
@pytest.mark.parametrize("header", [12, 40, 108, 124])
def test_every_kind_of_bmp_gives_opencvs_pixels(header, bits, top_down):
    random = np.random.default_rng(bits)
    for width, height in ((1, 1), (9, 5), (32, 7), (33, 20)):
        pixels = random.integers(0, 256, (width * bits + 31) // 32 * 4 * height, np.uint8).tobytes()
        palette = random.integers(0, 256, (3 if header == 12 else 4) << bits, np.uint8).tobytes() if bits <= 8 else b""
        if header == 12:
            info = struct.pack("<IHHHH", 12, width, height, 1, bits)
        else:
            rows = -height if top_down else height
            info = struct.pack("<IiiHHIIiiII", header, width, rows, 1, bits, 0, len(pixels), 0, 0, 0, 0)
            info = info.ljust(header, b"\0")
        start = 14 + len(info) + len(palette)
        data = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels
        if header == 12 and bits == 16:
            with pytest.raises(ImageError):
                decode(data)
        else:
            assert np.array_equal(decode(data), opencv(data))
            for cut in (len(data) - 1, start):
                with pytest.raises(ImageError, match="E_DECODE: the BMP is cut off"):
                    decode(data[:cut])


def test_run_lengths_give_opencvs_pixels():
    data = (SOUND / "rle8.bmp").read_bytes()
    assert np.array_equal(decode(data), opencv(data))
