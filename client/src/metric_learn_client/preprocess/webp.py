"""WebP (RFC 9649): the header and the still picture for OpenCV.

OpenCV is given a plain file of one VP8 or VP8L chunk: no animation, whose path differs between its versions, no alpha,
which is dropped anyway, no metadata.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from metric_learn_client.preprocess.header import Buffer, ImageHeader, Span, check_size, too_many, without_exif_prefix
from metric_learn_client.preprocess.limits import DecodeLimits, damaged, unsupported

_CHUNKS_START = 12
_FRAME_HEADER_BYTES = 16  # of an ANMF chunk: place, size, duration, flags


@dataclass
class WebpStructure:
    """kind: b"VP8 " or b"VP8L" of the picture's chunk; body: where its bytes are."""

    kind: bytes = b""
    body: Span = Span(0, 0)
    canvas: tuple[int, int] = (0, 0)
    frame: tuple[int, int, int, int] = (0, 0, 0, 0)  # x, y, width, height of the first frame
    animated: bool = False
    exif: Span = Span(0, 0)


def read_header(data: Buffer, limits: DecodeLimits) -> tuple[ImageHeader, WebpStructure]:
    """Size, kind and where the picture's chunk is. Raises ImageError."""
    found = WebpStructure()
    stop = 8 + int.from_bytes(data[4:8], "little")
    if stop > len(data):
        raise damaged("the WebP is cut off")
    position = _CHUNKS_START
    for _ in range(limits.max_webp_chunks):
        if position + 8 > stop:
            break
        name, body = _chunk(data, position, stop)
        if name == b"VP8X" and position == _CHUNKS_START:
            if body.stop - body.start < 10:
                raise damaged("the WebP header is cut off")
            found.canvas = _size24(data, body.start + 4)
            check_size("WebP", *found.canvas, limits)
        elif name in (b"VP8 ", b"VP8L") and not found.kind:
            found.kind, found.body = name, body
            if not found.canvas[0]:
                break  # a plain file: what follows is nothing
        elif name == b"ANMF" and not found.kind:
            _read_frame(data, body, found)
        elif name == b"EXIF" and not found.exif.stop:
            found.exif = without_exif_prefix(data, body)
        position = body.stop + (body.stop - body.start) % 2
    else:
        raise too_many("the WebP", "chunks", limits.max_webp_chunks)
    if not found.kind:
        raise damaged("the WebP has no image chunk")
    width, height = _picture_size(data, found)
    check_size("WebP", width, height, limits)
    if found.animated:
        if found.frame != (0, 0, *found.canvas):
            raise unsupported("an animated WebP whose first frame does not fill the canvas")
        if (width, height) != found.canvas:
            raise damaged("the WebP frame has another size than its header")
    elif found.canvas[0] and (width, height) != found.canvas:
        raise damaged("the WebP picture has another size than its header")
    return ImageHeader("webp", width, height, found.exif), found


def still(data: Buffer, found: WebpStructure) -> Buffer:
    """A WebP of the picture's chunk alone; the file itself where that is what it is."""
    size = found.body.stop - found.body.start
    if found.body.start == _CHUNKS_START + 8 and found.body.stop + size % 2 == len(data):
        return data
    chunk = found.kind + struct.pack("<I", size) + data[found.body.start : found.body.stop] + bytes(size % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _chunk(data: Buffer, position: int, stop: int) -> tuple[bytes, Span]:
    size = int.from_bytes(data[position + 4 : position + 8], "little")
    body = Span(position + 8, position + 8 + size)
    if body.stop > stop:
        raise damaged("the WebP is cut off")
    return bytes(data[position : position + 4]), body


def _read_frame(data: Buffer, body: Span, found: WebpStructure) -> None:
    """The first frame of an animation; its chunks are ALPH, if any, and the picture."""
    found.animated = True
    if body.stop - body.start < _FRAME_HEADER_BYTES:
        raise damaged("the WebP frame is cut off")
    x, y = (2 * int.from_bytes(data[body.start + at : body.start + at + 3], "little") for at in (0, 3))
    found.frame = (x, y, *_size24(data, body.start + 6))
    position = body.start + _FRAME_HEADER_BYTES
    for _ in range(2):
        if position + 8 > body.stop:
            break
        name, inner = _chunk(data, position, body.stop)
        if name in (b"VP8 ", b"VP8L"):
            found.kind, found.body = name, inner
            return
        position = inner.stop + (inner.stop - inner.start) % 2
    raise damaged("the WebP frame has no picture")


def _size24(data: Buffer, position: int) -> tuple[int, int]:
    """Width and height, minus one, in 24 bits each."""
    across, down = (int.from_bytes(data[at : at + 3], "little") for at in (position, position + 3))
    return 1 + across, 1 + down


def _picture_size(data: Buffer, found: WebpStructure) -> tuple[int, int]:
    body = bytes(data[found.body.start : min(found.body.stop, found.body.start + 10)])
    if found.kind == b"VP8L":  # 14 bits each, minus one, behind the signature byte
        if len(body) < 5 or body[0] != 0x2F:
            raise damaged("the WebP picture has no header")
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if len(body) < 10 or body[3:6] != b"\x9d\x01\x2a":  # 14 bits each, behind the frame tag and the start code
        raise damaged("the WebP picture has no header")
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
