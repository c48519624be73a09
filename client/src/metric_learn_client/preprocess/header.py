"""What an encoded image says of itself: format, size and whether it is whole, read without decoding a pixel.

Pure bytes in, facts out. It must never allocate in proportion to what a header claims: it is the guard that runs
before a decoder does. Formats: JPEG (ITU T.81), PNG (RFC 2083), WebP (RFC 9649), BMP (Windows GDI headers).
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Union

Buffer = Union[bytes, memoryview]  # a memoryview of unsigned bytes: a large file is never copied

# A marker: 0xFF and a byte that is neither a stuffed zero nor a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# The next marker that ends a JPEG scan: 0xFF not followed by a stuffed zero, a restart marker or a fill byte.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Start-of-frame markers of T.81 table B.1; C4, C8 and CC are DHT, JPG and DAC.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset([0x01, *range(0xD0, 0xD9)])  # TEM, RST0..7, SOI: markers without a length
_EOI = b"\xff\xd9"
_TAIL_BYTES = 64  # writers that append do so behind EOI; looking here first spares the walk over the scans


class ImageHeader(NamedTuple):
    """format: "jpeg", "png", "webp" or "bmp"; width_px and height_px as stored, before EXIF rotation."""

    format: str
    width_px: int
    height_px: int


def read_header(data: Buffer) -> Optional[ImageHeader]:
    """The header of an encoded image, or None where the bytes are none of the four formats.

    Raises ValueError where the format is recognised and the header is broken or cut off.
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        if data[12:16] != b"IHDR" or len(data) < 24:
            raise ValueError("the PNG header chunk is missing")
        return _sized("png", _u32_be(data, 16), _u32_be(data, 20))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] == b"BM":
        return _bmp(data)
    return None


def jpeg_is_whole(data: Buffer) -> bool:
    """Whether a JPEG reaches its end-of-image marker.

    libjpeg, and so OpenCV, fills what is missing of a cut file with grey and reports success; an embedding of
    half a picture would be wrong without a sign of it. Bytes after the marker are allowed.
    """
    if _EOI in bytes(data[-_TAIL_BYTES:]):
        return True
    position = 2
    while True:
        found = _next_marker(data, position)
        if found is None:
            return False
        marker, position = found
        if marker == 0xD9:
            return True
        if marker in _STANDALONE:
            continue
        if position + 2 > len(data):
            return False
        position += _u16_be(data, position)
        if marker == 0xDA:  # entropy-coded data follows the header of a scan
            match = _SCAN_END.search(data, position)
            if match is None:
                return False
            position = match.start()


def _jpeg(data: Buffer) -> ImageHeader:
    position = 2
    while True:
        found = _next_marker(data, position)
        if found is None:
            raise ValueError("the JPEG ends before its frame header")
        marker, position = found
        if marker in _STANDALONE:
            continue
        if marker in (0xD9, 0xDA) or position + 2 > len(data):
            raise ValueError("the JPEG has no frame header")
        if marker in _START_OF_FRAME:
            if position + 7 > len(data):
                raise ValueError("the JPEG frame header is cut off")
            return _sized("jpeg", _u16_be(data, position + 5), _u16_be(data, position + 3))
        position += max(2, _u16_be(data, position))


def _next_marker(data: Buffer, position: int) -> Optional[tuple[int, int]]:
    """(marker, position after it) of the marker at or after `position`; as libjpeg, bytes between are skipped."""
    found = _MARKER.search(data, position)
    return (data[found.end() - 1], found.end()) if found else None


def _webp(data: Buffer) -> ImageHeader:
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise ValueError("the WebP header is cut off")
    if kind == b"VP8X":  # canvas size minus one, 24 bits each
        width = 1 + int.from_bytes(body[4:7], "little")
        height = 1 + int.from_bytes(body[7:10], "little")
    elif kind == b"VP8L":  # 14 bits each, minus one, behind the signature byte
        bits = int.from_bytes(body[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    elif kind == b"VP8 ":  # 14 bits each, behind the frame tag and the start code
        width = int.from_bytes(body[6:8], "little") & 0x3FFF
        height = int.from_bytes(body[8:10], "little") & 0x3FFF
    else:
        raise ValueError("the WebP has no image chunk")
    return _sized("webp", width, height)


def _bmp(data: Buffer) -> ImageHeader:
    if len(data) < 26:
        raise ValueError("the BMP header is cut off")
    if int.from_bytes(data[14:18], "little") == 12:  # OS/2 core header: 16-bit sizes
        return _sized("bmp", int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little"))
    width = int.from_bytes(data[18:22], "little", signed=True)
    height = int.from_bytes(data[22:26], "little", signed=True)  # negative: rows stored top-down
    return _sized("bmp", abs(width), abs(height))


def _sized(name: str, width_px: int, height_px: int) -> ImageHeader:
    if width_px < 1 or height_px < 1:
        raise ValueError(f"the {name.upper()} header says {width_px} x {height_px} pixels")
    return ImageHeader(name, width_px, height_px)


def _u16_be(data: Buffer, position: int) -> int:
    return int.from_bytes(data[position : position + 2], "big")


def _u32_be(data: Buffer, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "big")
