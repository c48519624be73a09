"""A batch of images as one value, and its embeddings as one: what the gateway and a worker exchange. Pure.

MindSpore Serving copies, queues and hands on every instance of a request by itself, so one instance carries a whole
batch: the lengths of its images and their bytes, one after the other. The answer is one array of rows with the errors
of single images behind it. Little-endian, as everything on this wire. Standard library and numpy only: it is imported
in workers as well, by another Python than the gateway's.

    images: "MLF1" (encoded files) or "MLP1" (pixels), count, length of each, images
    rows:   "MLR1", count, dim, length of each error (0: a good row), float32 [count, dim], errors in UTF-8
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

Buffer = Union[bytes, memoryview]
Array = npt.NDArray[Any]

_FILES, _PIXELS, _ROWS = b"MLF1", b"MLP1", b"MLR1"
_IMAGES_HEAD = struct.Struct("<4sI")
_ROWS_HEAD = struct.Struct("<4sII")
_NUMBER = np.dtype("<u4")
_FLOAT = np.dtype("<f4")


# How a worker begins what it says where it has no answer, which is no image's doing.
OF_THE_WORKER = "this worker "


class MalformedBatch(ValueError):
    """The bytes are no packed batch."""


def images_head(images: Sequence[Buffer], *, pixels: bool) -> bytes:
    """What stands before the images. At least one image; each below 4 GiB."""
    head = _IMAGES_HEAD.pack(_PIXELS if pixels else _FILES, len(images))
    return head + np.fromiter(map(len, images), _NUMBER, len(images)).tobytes()


def unpack_images(packed: Array) -> tuple[list[Array], bool]:
    """packed: uint8 [bytes]. The images, views of it; and whether they are pixels. Raises MalformedBatch."""
    if packed.dtype != np.uint8 or packed.ndim != 1 or len(packed) < _IMAGES_HEAD.size:
        raise MalformedBatch("no batch of images")
    magic, count = _IMAGES_HEAD.unpack_from(packed.data)
    start = _IMAGES_HEAD.size + count * _NUMBER.itemsize
    if magic not in (_FILES, _PIXELS) or not count or start > len(packed):
        raise MalformedBatch("no batch of images")
    lengths = np.frombuffer(packed, _NUMBER, count, _IMAGES_HEAD.size)
    stops = start + np.cumsum(lengths, dtype=np.int64)
    if stops[-1] != len(packed):
        raise MalformedBatch(f"images of {stops[-1] - start} bytes in {len(packed) - start}")
    images = [packed[stop - length : stop] for length, stop in zip(lengths.tolist(), stops.tolist())]
    return images, magic == _PIXELS


def pack_rows(rows: Array, errors: Sequence[Optional[str]]) -> npt.NDArray[np.uint8]:
    """rows: float32 [count, dim]; errors: one an image, None for a good row. -> uint8 [bytes]."""
    said = [(error or "").encode() for error in errors]
    head = _ROWS_HEAD.pack(_ROWS, *rows.shape) + np.fromiter(map(len, said), _NUMBER, len(said)).tobytes()
    packed = np.empty(len(head) + rows.size * _FLOAT.itemsize + sum(map(len, said)), np.uint8)
    packed[: len(head)] = np.frombuffer(head, np.uint8)
    stop = len(head) + rows.size * _FLOAT.itemsize
    packed[len(head) : stop].view(_FLOAT).reshape(rows.shape)[:] = rows
    packed[stop:] = np.frombuffer(b"".join(said), np.uint8)
    return packed


def unpack_rows(packed: Union[Buffer, Array]) -> tuple[Array, list[Optional[str]]]:
    """The rows, float32 [count, dim], a view; and the errors. Raises MalformedBatch."""
    if len(packed) < _ROWS_HEAD.size:
        raise MalformedBatch("no batch of rows")
    magic, count, dim = _ROWS_HEAD.unpack_from(memoryview(packed))  # type: ignore[arg-type]
    start = _ROWS_HEAD.size + count * _NUMBER.itemsize
    stop = start + count * dim * _FLOAT.itemsize
    if magic != _ROWS or not count or not dim or stop > len(packed):
        raise MalformedBatch("no batch of rows")
    lengths = struct.unpack_from(f"<{count}I", packed, _ROWS_HEAD.size)  # few, and NumPy takes 3 us longer
    if stop + sum(lengths) != len(packed):
        raise MalformedBatch("errors of another length than was said")
    rows = np.frombuffer(packed, _FLOAT, count * dim, start).reshape(count, dim)
    errors: list[Optional[str]] = [None] * count
    for index, length in enumerate(lengths):
        if length:
            errors[index] = bytes(packed[stop : stop + length]).decode("utf-8", "replace")
            stop += length
    return rows, errors
