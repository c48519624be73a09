"""Which way up: one rule for every place, byte order and type, whatever OpenCV's version makes of it."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from metric_learn_client.preprocess import decode
from metric_learn_client.preprocess.header import ImageHeader, Span
from metric_learn_client.preprocess.orientation import orientation
from tests.unit.client.preprocess.small_jpeg import segment

SOUND = Path(__file__).parents[3] / "golden" / "hostile" / "sound"
SHORT, LONG = 3, 4
TURNED = {
    1: lambda picture: picture,
    2: lambda picture: cv2.flip(picture, 1),
    3: lambda picture: cv2.rotate(picture, cv2.ROTATE_180),
    4: lambda picture: cv2.flip(picture, 0),
    5: lambda picture: cv2.transpose(picture),
    6: lambda picture: cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE),
    7: lambda picture: cv2.rotate(cv2.transpose(picture), cv2.ROTATE_180),
    8: lambda picture: cv2.rotate(picture, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def tiff(value, order="<", kind=SHORT, count=1, before=(), start=8):
    """A TIFF block: entries of the tags `before`, then the orientation."""
    fields = b"".join(struct.pack(order + "HHII", tag, LONG, 1, 7) for tag in before)
    held = struct.pack(order + ("H" if kind == SHORT else "I"), value).ljust(4, b"\0")
    fields += struct.pack(order + "HHI", 0x112, kind, count) + held
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", start)
    return head + bytes(start - 8) + struct.pack(order + "H", len(before) + 1) + fields + bytes(4)


def jpeg(*segments):
    data = (SOUND / "baseline.jpg").read_bytes()
    return data[:20] + b"".join(segments) + data[20:]


def exif_segment(block):
    return segment(0xE1, b"Exif\0\0" + block)


def png(block):
    data = (SOUND / "rgb.png").read_bytes()
    chunk = b"eXIf" + block
    return data[:33] + struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def png_behind_the_picture(block):
    data = png(block)
    size = 12 + len(block)
    return data[:33] + data[33 + size : -12] + data[33 : 33 + size] + data[-12:]


def webp(block):
    picture = (SOUND / "lossy.webp").read_bytes()[12:]
    canvas = struct.pack("<I", 44 - 1)[:3] + struct.pack("<I", 30 - 1)[:3]
    exif = b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2)
    body = b"WEBPVP8X\x0a\0\0\0\x08\0\0\0" + canvas + picture + exif
    return b"RIFF" + struct.pack("<I", len(body)) + body


XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
PLACES = {
    "jpeg": lambda block: jpeg(exif_segment(block)),
    "jpeg behind xmp": lambda block: jpeg(XMP, exif_segment(block)),
    "jpeg behind icc and a comment": lambda block: jpeg(
        segment(0xE2, b"FPXR"), segment(0xFE, b"-"), exif_segment(block)
    ),
    "png": png,
    "png behind the picture": png_behind_the_picture,
    "png with a prefix": lambda block: png(b"Exif\0\0" + block),
    "webp": webp,
    "webp with a prefix": lambda block: webp(b"Exif\0\0" + block),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("value", range(1, 9))
def test_the_picture_comes_upright_wherever_the_block_stands(place, value):
    stored = decode(place(tiff(1)))
    for order in "<>":
        for kind in (SHORT, LONG):
            turned = decode(place(tiff(value, order, kind)))
            assert np.array_equal(turned, TURNED[value](stored)) and turned.flags.c_contiguous


@pytest.mark.parametrize("order", "<>")
def test_the_entry_is_found_among_others_and_away_from_the_header(order):
    assert read(tiff(6, order, before=(0x100, 0x10F, 0x110))) == 6
    assert read(tiff(6, order, start=100)) == 6


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\x08\0\0\0",
        tiff(6)[:-8],
        tiff(0),
        tiff(9),
        tiff(0x106, kind=LONG),
        tiff(6, kind=1),
        tiff(6, kind=LONG, count=2),
        b"MM*\0" + tiff(6)[4:],
        b"II+\0" + tiff(6)[4:],
        tiff(6, start=8)[:4] + b"\xff\xff\xff\xff" + tiff(6)[8:],
        b"II*\0\x08\0\0\0\xff\xff" + b"\0\1" * 100,
    ],
)
def test_what_makes_no_sense_is_upright(block):
    assert read(block) == 1


def test_the_first_block_of_a_jpeg_counts():
    first = decode(jpeg(exif_segment(tiff(6))))
    assert np.array_equal(decode(jpeg(exif_segment(tiff(6)), exif_segment(tiff(3)))), first)


def test_a_directory_of_65535_entries_is_read_at_once():
    assert read(tiff(6, before=[0x100] * 65534)) == 6


def read(block):
    return orientation(block, ImageHeader("jpeg", 1, 1, Span(0, len(block))))
