"""A picture in memory -> an encoded file that decodes to the very same pixels. Pure; needs no image library.

BMP, because it costs no compression and holds BGR as it is; PNG where the BMP would be large.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

BMP_MAX_BYTES = 16 * 1024 * 1024
_PNG_LEVEL = 1  # of zlib: the fastest; higher levels save little on photos

Pixels = npt.NDArray[np.uint8]


def encode_lossless(pixels: Pixels) -> bytes:
    """uint8 [height, width, 3], channels in BGR order -> BMP or PNG."""
    height, width = pixels.shape[:2]
    return _bmp(pixels) if height * (3 * width + 3) <= BMP_MAX_BYTES else _png(pixels)


def _bmp(pixels: Pixels) -> bytes:
    height, width = pixels.shape[:2]
    stride = -(-3 * width // 4) * 4  # rows are padded to four bytes and stored from the bottom up
    rows = np.zeros((height, stride), np.uint8)
    rows[:, : 3 * width] = pixels[::-1].reshape(height, 3 * width)
    offset = 14 + 40
    file_header = struct.pack("<2sIHHI", b"BM", offset + rows.size, 0, 0, offset)
    info_header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, rows.size, 2835, 2835, 0, 0)
    return b"".join((file_header, info_header, rows.tobytes()))


def _png(pixels: Pixels) -> bytes:
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row starts with its filter: 0, none
    rows[:, 1:] = pixels[:, :, ::-1].reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    data = zlib.compress(rows.tobytes(), _PNG_LEVEL)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
