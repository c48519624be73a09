"""Makes the small sound pictures of this folder, one of each kind that is read: `.venv/client/bin/python tests/golden/hostile/make.py`.

They are what the mutations of tests/unit/client/preprocess/mutations.py start from. Their bytes are kept, because the
encoders of another version would give other ones; run this only to add a kind. Pillow and OpenCV write what they can,
and the rest is put together here.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent
PHOTO = cv2.resize(
    cv2.imread(str(FOLDER.parent / "images" / "coffee_444_q95.jpg")), (44, 30), interpolation=cv2.INTER_AREA
)
RGB = Image.fromarray(PHOTO[:, :, ::-1])
OTHER = Image.fromarray(255 - PHOTO[:, :, ::-1])


def tiff(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """A TIFF block with one entry, the orientation; kind 3 is SHORT, 4 is LONG."""
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return head + struct.pack(order + "HHHI", 1, 0x112, kind, 1) + value + bytes(4)


def pillow(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def adam7() -> bytes:
    """An interlaced PNG: seven passes, each a small picture of its own."""
    rgb = PHOTO[:, :, ::-1]
    rows = b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in rgb[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 8, 2, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def rle8() -> bytes:
    """A BMP of 8 bits with run lengths: each row one run, then the end of the line; at last the end of the picture."""
    height, width = 6, 20
    pixels = b"".join(bytes([width, row, 0, 0]) for row in range(height)) + b"\0\1"
    palette = b"".join(bytes([index * 40, 255 - index * 40, 128, 0]) for index in range(height))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 2835, 2835, height, height)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


def pictures() -> dict[str, bytes]:
    baseline = pillow(RGB, "JPEG", quality=85)
    app0_end = 2 + 2 + struct.unpack(">H", baseline[4:6])[0]
    exif = segment(0xE1, b"Exif\0\0" + tiff(6))
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
    png = pillow(RGB, "PNG")
    after_header = 8 + 25
    webp = pillow(RGB, "WEBP", quality=80)
    top_down = bytearray(pillow(RGB, "BMP"))
    top_down[22:26] = struct.pack("<i", -PHOTO.shape[0])
    canvas = struct.pack("<I", PHOTO.shape[1] - 1)[:3] + struct.pack("<I", PHOTO.shape[0] - 1)[:3]
    alpha = RGB.copy()
    alpha.putalpha(RGB.convert("L"))
    made = {
        "baseline.jpg": baseline,
        "subsampled_440.jpg": cv2.imencode(".jpg", PHOTO, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x121111])[1].tobytes(),
        "progressive.jpg": pillow(RGB, "JPEG", progressive=True),
        "restarts.jpg": pillow(RGB, "JPEG", restart_marker_blocks=2),
        "grey.jpg": pillow(RGB.convert("L"), "JPEG"),
        "cmyk.jpg": pillow(RGB.convert("CMYK"), "JPEG"),
        "rgb.jpg": pillow(RGB, "JPEG", keep_rgb=True),
        "exif6.jpg": baseline[:app0_end] + exif + baseline[app0_end:],
        "exif6_after_xmp.jpg": baseline[:app0_end] + xmp + exif + baseline[app0_end:],
        "icc.jpg": baseline[:app0_end] + segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(200)) + baseline[app0_end:],
        "rgb.png": png,
        "alpha.png": pillow(alpha, "PNG"),
        "palette.png": pillow(RGB.quantize(16), "PNG", transparency=3),
        "grey16.png": pillow(Image.fromarray(PHOTO[:, :, 0].astype(np.uint16) * 257), "PNG"),
        "bilevel.png": pillow(RGB.convert("1"), "PNG"),
        "interlaced.png": adam7(),
        "exif6.png": png[:after_header] + png_chunk(b"eXIf", tiff(6, ">")) + png[after_header:],
        "animated.png": pillow(RGB, "PNG", save_all=True, append_images=[OTHER], duration=50),
        "animated_aside.png": pillow(RGB, "PNG", save_all=True, append_images=[OTHER, RGB], default_image=True),
        "lossy.webp": webp,
        "lossless.webp": pillow(RGB, "WEBP", lossless=True),
        "alpha.webp": pillow(alpha, "WEBP", quality=60),
        "exif6.webp": riff((b"VP8X", bytes([8, 0, 0, 0]) + canvas), (b"VP8 ", webp[20:]), (b"EXIF", tiff(6))),
        "animated.webp": pillow(RGB, "WEBP", save_all=True, append_images=[OTHER], duration=50),
        "animated_alpha.webp": pillow(
            alpha, "WEBP", save_all=True, append_images=[OTHER.convert("RGBA")], lossless=True
        ),
        "rgb.bmp": pillow(RGB, "BMP"),
        "palette.bmp": pillow(RGB.quantize(16), "BMP"),
        "alpha.bmp": pillow(alpha, "BMP"),
        "top_down.bmp": bytes(top_down),
        "rle8.bmp": rle8(),
    }
    return made


if __name__ == "__main__":
    (FOLDER / "sound").mkdir(exist_ok=True)
    for name, data in pictures().items():
        (FOLDER / "sound" / name).write_bytes(data)
