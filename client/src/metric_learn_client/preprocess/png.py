"""PNG (W3C PNG, third edition): the header, whether its image data is whole, and the still picture for OpenCV.

What OpenCV does with animation, metadata and damage depends on its version, and some of it writes to memory that is
not its own. It is given a file that holds nothing but a header, a palette and image data that were all checked here:
checksums, the inflated length, and the filter byte of every row. It is written without compression, so that checking
costs no second inflation.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from metric_learn_client.preprocess.header import Buffer, ImageHeader, Span, check_size, too_many, without_exif_prefix
from metric_learn_client.preprocess.limits import DecodeLimits, damaged, unsupported

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6  # colour types
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_DEPTHS = {_GREY: (1, 2, 4, 8, 16), _PALETTE: (1, 2, 4, 8), _RGB: (8, 16), _GREY_ALPHA: (8, 16), _RGB_ALPHA: (8, 16)}
_FILTERS = 5
_PIECE_BYTES = 1 << 18
_STORED_BYTES = 1 << 26  # of rows; larger pictures are inflated twice instead of being held once more
# Adam7: x and y of each pass's first pixel, and its steps.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass
class PngStructure:
    """The chunks that are decoded: bodies of IHDR and PLTE, and where the image data is."""

    header: bytes = b""
    palette: bytes = b""
    image_data: list[Span] = field(default_factory=list)
    exif: Span = Span(0, 0)
    unknown: bool = False  # a critical chunk of another name


def read_header(data: Buffer, limits: DecodeLimits) -> tuple[ImageHeader, PngStructure]:
    """Size, kind and where the image data is; every chunk is visited, none is inflated. Raises ImageError."""
    found = PngStructure()
    position, last, ended = len(_SIGNATURE), b"", False
    for _ in range(limits.max_png_chunks):
        if position + 12 > len(data):
            break
        size = int.from_bytes(data[position : position + 4], "big")
        name = bytes(data[position + 4 : position + 8])
        body = Span(position + 8, position + 8 + size)
        if body.stop + 4 > len(data):
            break
        if name == b"CgBI":
            raise unsupported("an Apple CgBI PNG")
        if not found.header and name != b"IHDR":
            raise damaged("the PNG header chunk is missing")
        if name == b"IEND":
            ended = True
            break
        if name == b"IDAT":
            if not found.image_data or last == name:  # a second run of them is not the picture's
                found.image_data.append(body)
                _check_sum(data, body)
        elif name == b"eXIf":
            found.exif = found.exif if found.exif.stop else without_exif_prefix(data, body)
        elif name in (b"IHDR", b"PLTE") or not name[0] & 0x20:
            _read_critical(name, bytes(data[body.start : body.stop]), found, limits)
            _check_sum(data, body)
        position, last = body.stop + 4, name
    else:
        raise too_many("the PNG", "chunks", limits.max_png_chunks)
    if not found.header:
        raise damaged("the PNG header chunk is missing")
    if not ended:
        raise damaged("the PNG is cut off")
    if found.unknown:
        raise unsupported("a PNG with an unknown critical chunk")
    if not found.image_data:
        raise damaged("the PNG has no image data")
    if found.header[9] == _PALETTE and not found.palette:
        raise damaged("the PNG has no palette")
    width, height = struct.unpack(">II", found.header[:8])
    return ImageHeader("png", width, height, found.exif), found


def still(data: Buffer, found: PngStructure) -> bytes:
    """A PNG of the default image alone, for OpenCV. Raises ImageError where the image data is not whole."""
    stream = b"".join(data[span.start : span.stop] for span in found.image_data)
    image_data = _checked(stream, found.header, stored=_Rows(found.header).missing <= _STORED_BYTES)
    parts = [_SIGNATURE, *_chunk(b"IHDR", [found.header])]
    if found.header[9] == _PALETTE:  # an index beyond the palette is black, as libpng reads it
        entries = 1 << found.header[8]
        parts += _chunk(b"PLTE", [found.palette[: 3 * entries].ljust(3 * entries, b"\0")])
    return b"".join([*parts, *_chunk(b"IDAT", image_data), *_chunk(b"IEND", [])])


def _read_critical(name: bytes, body: bytes, found: PngStructure, limits: DecodeLimits) -> None:
    if name == b"IHDR":
        if found.header or len(body) != 13:
            raise damaged("the PNG header chunk is wrong")
        width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
        check_size("PNG", width, height, limits)
        if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
            raise damaged("the PNG header chunk says what PNG does not have")
        found.header = body
    elif name == b"PLTE":
        if found.palette or len(body) % 3 or not 3 <= len(body) <= 768:
            raise damaged("the PNG palette is wrong")
        if not found.image_data:
            found.palette = body
    else:
        found.unknown = True


def _check_sum(data: Buffer, body: Span) -> None:
    if zlib.crc32(data[body.start - 4 : body.stop]) != int.from_bytes(data[body.stop : body.stop + 4], "big"):
        raise damaged("the PNG is damaged: a checksum is wrong")


def _chunk(name: bytes, body: list[bytes]) -> list[bytes]:
    checksum = zlib.crc32(name)
    for part in body:
        checksum = zlib.crc32(part, checksum)
    return [struct.pack(">I", sum(map(len, body))), name, *body, struct.pack(">I", checksum)]


def _checked(stream: bytes, header: bytes, stored: bool) -> list[bytes]:
    """The zlib stream in pieces, without what follows the picture in it. Raises ImageError where it is not whole.

    stored: rewritten without compression, so that it is inflated once, here, and not again by libpng.
    """
    rows, inflater, parts = _Rows(header), zlib.decompressobj(0), []  # 0: the window that the stream itself names
    copy = zlib.compressobj(0)
    start, held = 0, b""
    try:
        while rows.missing and start < len(stream) and not inflater.eof:
            held, full = stream[start : start + _PIECE_BYTES], True
            start += _PIECE_BYTES
            while rows.missing and (held or full):
                room = min(_PIECE_BYTES, rows.missing)
                piece = inflater.decompress(held, room)
                held, full = inflater.unconsumed_tail, len(piece) == room
                rows.take(piece)
                if stored:
                    parts.append(copy.compress(piece))
        if rows.missing:
            raise damaged("the PNG image data ends early")
        more = b"" if inflater.eof else inflater.decompress(held + stream[start:], 1)  # or the checksum at its end
    except zlib.error:
        raise damaged("the PNG image data is damaged") from None
    if not more and not inflater.eof:
        raise damaged("the PNG image data ends early")
    if stored:
        return [*parts, copy.flush()]
    exact = not more and not inflater.unused_data and start >= len(stream)
    return [stream] if exact else _checked(stream, header, stored=True)


class _Rows:
    """Rows of an image as they come out of the stream; each starts with the number of its filter."""

    def __init__(self, header: bytes) -> None:
        width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", header)
        bits = depth * _CHANNELS[colour]
        sizes = [(width, height)]
        if interlace:
            sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _PASSES]
        self._passes = [(1 + (across * bits + 7) // 8, down) for across, down in sizes if across > 0 and down > 0]
        self._passes.reverse()
        self._at = 0  # within the present pass
        self.missing = sum(size * count for size, count in self._passes)

    def take(self, piece: bytes) -> None:
        """Raises ImageError where a filter byte is none."""
        self.missing -= len(piece)
        values: npt.NDArray[np.uint8] = np.frombuffer(piece, np.uint8)
        while len(values):
            size, count = self._passes[-1]
            here = values[: size * count - self._at]
            if (here[-self._at % size :: size] >= _FILTERS).any():
                raise damaged("the PNG is damaged: a row has a filter that does not exist")
            self._at += len(here)
            if self._at == size * count:
                self._passes.pop()
                self._at = 0
            values = values[len(here) :]
