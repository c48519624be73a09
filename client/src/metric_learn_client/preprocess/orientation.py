"""Which way up a picture is (EXIF orientation, TIFF 6.0 tag 0x112), and turning it: our rule, not the library's.

OpenCV's answer depends on its version: 4.11 finds the entry only in a JPEG whose first APP1 segment is EXIF, 5.0 in
others too. Here it is the same wherever the TIFF block stands, in both byte orders, as SHORT or LONG.
"""

from __future__ import annotations

import cv2
import numpy as np

from metric_learn_client.preprocess.header import Buffer, ImageHeader, Pixels

_TAG = 0x112
_SHORT, _LONG = 3, 4
_ENTRY_BYTES = 12
# After the transposition that 5 to 8 need; as cv2.flip has it: 1 left to right, 0 top to bottom, -1 both.
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}


def orientation(data: Buffer, header: ImageHeader) -> int:
    """1 to 8 as EXIF defines them; 1 (upright) where nothing is said or what is said makes no sense.

    Only the first directory is read, so nothing nests, and its entries are compared as one array.
    """
    block = bytes(data[header.exif.start : header.exif.stop])
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order, sign = ("little", "<") if block[:1] == b"I" else ("big", ">")
    start = int.from_bytes(block[4:8], order)  # type: ignore[arg-type]
    count = int.from_bytes(block[start : start + 2], order)  # type: ignore[arg-type]
    held = min(count, max(0, len(block) - start - 2) // _ENTRY_BYTES)
    entry = np.dtype([("tag", sign + "u2"), ("kind", sign + "u2"), ("count", sign + "u4"), ("value", "V4")])
    entries = np.frombuffer(block, entry, held, start + 2) if held else np.empty(0, entry)
    found = entries[entries["tag"] == _TAG]
    if not found.size or found[0]["count"] != 1:
        return 1
    size = {_SHORT: 2, _LONG: 4}.get(int(found[0]["kind"]), 0)
    value = int.from_bytes(bytes(found[0]["value"])[:size], order)  # type: ignore[arg-type]
    return value if 1 <= value <= 8 else 1


def upright(pixels: Pixels, turn: int) -> Pixels:
    """uint8 [height, width, 3] as stored -> as it is to be seen, C-contiguous. turn: what `orientation` gave."""
    if turn >= 5:
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    if turn in _FLIPS:
        pixels = np.asarray(cv2.flip(pixels, _FLIPS[turn]), np.uint8)
    return np.ascontiguousarray(pixels)
