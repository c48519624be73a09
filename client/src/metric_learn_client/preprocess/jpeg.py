"""JPEG (ITU T.81): the header, whether every scan is there, and the pixels, by libjpeg-turbo (simplejpeg).

libjpeg fills what is missing of a damaged file with grey and calls that a warning; OpenCV hides it. simplejpeg raises
on every warning, before and while it decodes, and gives OpenCV's pixels. Not every warning is damage. These are
mended in a copy, which is then decoded as strictly:

- bytes between segments, an ICC profile in wrong pieces, a thumbnail of a wrong length, another JFIF version, an
  unknown Adobe transform (libjpeg assumes YCbCr or YCCK), spectral selection in a sequential scan: left out, or
  written as libjpeg reads them;
- zeros between the last block and the next marker: padding that some encoders write.

Others are damage: data missing (premature end), codes that do not exist, restart markers in a wrong order, other bytes
behind the last block. libjpeg itself says nothing of a progressive or separated picture some of whose scans are
missing; that is found here, from the scans' headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Optional, Union

import numpy as np
import numpy.typing as npt
import simplejpeg

from metric_learn_client.preprocess.header import Buffer, ImageHeader, Pixels, Span, check_size, too_many
from metric_learn_client.preprocess.limits import DecodeLimits, damaged, unsupported

# Markers of T.81 table B.1.
_SOF0, _SOF1, _SOF2, _DHT, _DAC = 0xC0, 0xC1, 0xC2, 0xC4, 0xCC
_SOI, _EOI, _SOS, _DQT, _DRI, _DHP = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xDE
_APP0, _APP1, _APP14, _JPEG_LS = 0xE0, 0xE1, 0xEE, 0xF7
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, _DAC} | {_JPEG_LS}
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD8)])  # TEM, RST0..7
_NEEDED = frozenset([_SOF0, _SOF1, _SOF2, _DHT, _DQT, _DRI, _SOS])  # by the decoder; APP0 and APP14 apart
_PROCESSES = {
    0xC3: "a lossless JPEG",
    0xC5: "a hierarchical JPEG",
    0xC6: "a hierarchical JPEG",
    0xC7: "a hierarchical JPEG",
    0xC9: "an arithmetic-coded JPEG",
    0xCA: "an arithmetic-coded JPEG",
    0xCB: "a lossless JPEG",
    0xCD: "a hierarchical JPEG",
    0xCE: "a hierarchical JPEG",
    0xCF: "a hierarchical JPEG",
    _JPEG_LS: "a JPEG-LS file",
}
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_NEAR_BYTES = 1 << 12
_WINDOW_BYTES = 1 << 16
_LUMA = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4))  # 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1, 4:4:1
_JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
# What libjpeg says first, of what is mended; it says nothing of what follows.
_HARMLESS = re.compile(
    r"Warning: |Unknown Adobe|Invalid SOS parameters for sequential|.*bad ICC marker|.*extraneous bytes before marker"
)
_TOO_MANY_BYTES = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_DAMAGE = (
    ("premature end of data segment", "image data is missing inside the JPEG"),
    ("Premature end of", "the JPEG is cut off"),
    ("bad Huffman code", "the JPEG is damaged: its image data has a code that does not exist"),
    ("instead of RST", "the JPEG is damaged: a restart marker is missing or in the wrong place"),
    ("extraneous bytes", "the JPEG is damaged: bytes behind its last block"),
    ("progression", "the JPEG is damaged: its scans are out of order"),
)


@dataclass
class JpegStructure:
    """What was met from the start to the frame header and on, to the end or to the scan that holds everything.

    needed: what a decoder needs, in the file's order. known: of every component and coefficient the lowest bit that a
    scan so far gave, 255 for none; int [components, 64].
    """

    process: int = 0
    width: int = 0
    height: int = 0
    components: dict[int, tuple[int, int]] = field(default_factory=dict)
    exif: Span = Span(0, 0)
    needed: list[Span] = field(default_factory=list)
    scans: int = 0
    segments: int = 0
    known: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 64), np.uint8))


def read_header(data: Buffer, limits: DecodeLimits) -> tuple[ImageHeader, JpegStructure]:
    """Size, kind, orientation's place, and that all scans are there. Raises ImageError."""
    found = JpegStructure()
    position = 2
    while True:
        at = _next_marker(data, position)
        if at is None:
            raise damaged("the JPEG is cut off" if found.scans else "the JPEG ends before its frame header")
        marker, start, position = data[at + 1], at, at + 2
        found.segments += 1
        if found.segments > limits.max_jpeg_segments:
            if not found.process and not _has_frame(data, position):
                raise damaged("the JPEG has no frame header")
            raise too_many("the JPEG", "segments", limits.max_jpeg_segments)
        if marker in _WITHOUT_LENGTH:
            continue
        if marker == _SOI:
            raise damaged("the JPEG starts a second time")
        if marker == _EOI:
            if not found.scans:
                raise damaged("the JPEG has no image data")
            break
        length = int.from_bytes(data[position : position + 2], "big")
        stop = position + length
        if length < 2 or stop > len(data):
            raise damaged("the JPEG is cut off" if length >= 2 else "the JPEG has a segment of no length")
        body = Span(position + 2, stop)
        position = stop
        if marker in _START_OF_FRAME:
            _read_frame(data, marker, body, found, limits)
        elif marker == _DHP:
            raise unsupported("a hierarchical JPEG")
        elif marker == _DAC:
            raise unsupported("an arithmetic-coded JPEG")
        elif marker == _APP1 and not found.exif.stop and data[body.start : body.start + 5] == b"Exif\0":
            found.exif = Span(body.start + 6, body.stop)
        if marker == _SOS:
            if _read_scan(data, body, found, limits):
                found.needed.append(Span(start, len(data)))
                break  # it holds the whole picture; the decoder says whether it is whole
            end = _next_marker(data, position, in_scan=True)
            if end is None:
                raise damaged("the JPEG is cut off")
            found.needed.append(Span(start, end))
            position = end
        elif marker in _NEEDED or marker in (_APP0, _APP14):
            found.needed.append(Span(start, stop))
    if found.known.any():
        raise damaged("the JPEG is not complete: scans of it are missing")
    return ImageHeader("jpeg", found.width, found.height, found.exif), found


def decode(data: Buffer, found: JpegStructure) -> Pixels:
    """uint8 [height, width, 3] in BGR order as stored. Raises ImageError, MemoryError."""
    said = _try(data)
    if isinstance(said, str) and _HARMLESS.match(said):
        mended = _mended(data, found)
        said = _try(mended)
        padded = _TOO_MANY_BYTES.match(said) if isinstance(said, str) else None
        if padded:
            said = _try(_without_zeros(mended, int(padded.group(1)), int(padded.group(2), 16)))
    if not isinstance(said, str):
        return said
    if "subsampling" in said and not _common_sampling(list(found.components.values())):
        factors = ", ".join(f"{across}x{down}" for across, down in found.components.values())
        raise unsupported(f"a JPEG with sampling factors {factors}")
    for words, message in _DAMAGE:
        if words in said:
            raise damaged(message)
    raise damaged("the JPEG is damaged")


def _try(data: Buffer) -> Union[Pixels, str]:
    """The pixels, or what libjpeg said first."""
    exact = {"fastdct": False, "fastupsample": False, "strict": True}
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="BGR", **exact), np.uint8)
    except ValueError as error:
        return str(error)


def _common_sampling(factors: list[tuple[int, int]]) -> bool:
    """Whether simplejpeg knows them, so that a complaint of them comes from damage; a black channel is as luma."""
    luma, chroma = factors[0], factors[1:3]
    return len(factors) == 1 or (luma in _LUMA and set(chroma) == {(1, 1)} and set(factors[3:]) <= {luma})


def _read_frame(data: Buffer, marker: int, body: Span, found: JpegStructure, limits: DecodeLimits) -> None:
    if marker in _PROCESSES:
        raise unsupported(_PROCESSES[marker])
    if found.process:
        raise damaged("the JPEG has two frame headers")
    frame = bytes(data[body.start : body.stop])
    if len(frame) < 6 or len(frame) != 6 + 3 * frame[5]:
        raise damaged("the JPEG frame header has a wrong length")
    found.process = marker
    found.height, found.width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    if frame[0] == 12:
        raise unsupported("a 12-bit JPEG")
    if frame[0] != 8:
        raise damaged(f"the JPEG frame header says {frame[0]} bits")
    check_size("JPEG", found.width, found.height, limits)
    for at in range(6, len(frame), 3):
        across, down = frame[at + 1] >> 4, frame[at + 1] & 15
        if not (1 <= across <= 4 and 1 <= down <= 4):
            raise damaged("the JPEG frame header has wrong sampling factors")
        found.components[frame[at]] = across, down
    if len(found.components) != frame[5]:
        raise damaged("the JPEG frame header names a component twice")
    if frame[5] not in (1, 3, 4):
        raise unsupported(f"a JPEG of {frame[5]} channels")
    found.known = np.full((frame[5], 64), 255, np.uint8)


def _read_scan(data: Buffer, body: Span, found: JpegStructure, limits: DecodeLimits) -> bool:
    """Counts it and notes what it gives. True where it is the only one that is needed."""
    if not found.process:
        raise damaged("the JPEG has no frame header")
    found.scans += 1
    if found.scans > limits.max_jpeg_scans:
        raise too_many("the JPEG", "scans", limits.max_jpeg_scans)
    scan = bytes(data[body.start : body.stop])
    count = scan[0] if scan else 0
    if not 1 <= count <= 4 or len(scan) != 4 + 2 * count:
        raise damaged("a JPEG scan header has a wrong length")
    order = list(found.components)
    if not set(scan[1 : 1 + 2 * count : 2]) <= set(order):
        raise damaged("a JPEG scan is of a component that does not exist")
    rows = [order.index(name) for name in scan[1 : 1 + 2 * count : 2]]
    if found.process != _SOF2:
        found.known[rows] = 0
        return count == len(order)
    first, last, low = scan[-3], scan[-2], scan[-1] & 15
    if not first <= last < 64:
        raise damaged("a JPEG scan header has a wrong range")
    found.known[rows, first : last + 1] = low
    return False


def _next_marker(data: Buffer, position: int, in_scan: bool = False) -> Optional[int]:
    """Where the next marker starts: 0xFF and a byte that is neither a stuffed zero nor a fill byte.

    As libjpeg, bytes before it are skipped. in_scan: restart markers are passed over. Mostly it is near; what is far is
    searched as arrays, in pieces that fit a processor's cache, because an expression takes up to 11 ms for a MB.
    """
    near = (_SCAN_END if in_scan else _MARKER).search(data, position, position + _NEAR_BYTES)
    if near:
        return near.start()
    encoded = np.frombuffer(data, np.uint8)
    for start in range(position + _NEAR_BYTES - 1, len(data) - 1, _WINDOW_BYTES):
        window = encoded[start : start + _WINDOW_BYTES + 1]
        second = window[1:]
        marks = (window[:-1] == 0xFF) & (second - np.uint8(1) < 0xFE)
        if in_scan:
            marks &= (second & 0xF8) != 0xD0
        first = int(marks.argmax())
        if marks[first]:
            return start + first
    return None


def _has_frame(data: Buffer, position: int) -> bool:
    """Whether the two bytes of any frame header's marker are there at all."""
    encoded = np.frombuffer(data, np.uint8)
    for start in range(position, len(data) - 1, _WINDOW_BYTES):
        window = encoded[start : start + _WINDOW_BYTES + 1]
        second = window[1:]
        marks = (window[:-1] == 0xFF) & (second & 0xF0 == 0xC0)
        if marks.any() and not _START_OF_FRAME.isdisjoint(second[marks].tolist()):
            return True
    return False


def _mended(data: Buffer, found: JpegStructure) -> bytes:
    """What a decoder needs and nothing else, with the headers written as libjpeg reads them."""
    parts = [b"\xff\xd8"]
    for start, stop in found.needed:
        part = bytes(data[start:stop])
        marker = part[1]
        if marker == _APP0:
            part = _JFIF if part[4:9] == b"JFIF\0" else b""
        elif marker == _APP14:
            part = _adobe(part, found) if part[4:9] == b"Adobe" and len(part) >= 16 else b""
        elif marker == _SOS and found.process != _SOF2:
            range_at = 2 + int.from_bytes(part[2:4], "big") - 3
            part = part[:range_at] + b"\0\x3f\0" + part[range_at + 3 :]
        parts.append(part)
    if len(data) > found.needed[-1].stop:
        parts.append(b"\xff\xd9")
    return b"".join(parts)


def _adobe(part: bytes, found: JpegStructure) -> bytes:
    """libjpeg: an unknown transform counts as YCbCr (1), of four channels as YCCK (2)."""
    known, assumed = ((0, 2), 2) if len(found.components) == 4 else ((0, 1), 1)
    return part[:15] + bytes([part[15] if part[15] in known else assumed]) + part[16:]


def _without_zeros(data: bytes, count: int, marker: int) -> bytes:
    """The same without the `count` bytes before a marker that libjpeg did not need, if zeros they are."""
    at = data.find(bytes(count) + bytes([0xFF, marker]))
    return data if at < 0 else data[:at] + data[at + count :]
