"""Embedding rows as they stand in a serialised PredictReply. Pure: bytes and arrays.

A reply without errors is the servable's name, then one frame per row; every frame has the same bytes before its 8192
bytes of float32, because name, shape and type of the item never change. So a whole batch is one array with a row per
frame: it is checked by comparing those bytes and copied at once, without a message object per image. Whatever does
not fit this form exactly (errors, another field order, unknown fields) is left to whoever asks, and a general decoder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
import numpy.typing as npt

from metric_learn_client import wire

Embeddings = npt.NDArray[np.float32]
assert sys.byteorder == "little", "rows are copied as they travel, in little-endian order"
_ROW_BYTES = 4 * wire.EMBEDDING_DIM


def _frame_head() -> bytes:
    """What stands before a row's float32 data, tag and lengths included."""
    reply = wire.PredictReply()
    tensor = reply.instances.add().items[wire.ITEM_EMBEDDING]
    tensor.shape.dims.append(wire.EMBEDDING_DIM)
    tensor.dtype = wire.DataType.MS_FLOAT32
    tensor.data = bytes(_ROW_BYTES)
    return reply.SerializeToString()[:-_ROW_BYTES]


_FRAME_HEAD = _frame_head()
_HEAD = np.frombuffer(_FRAME_HEAD, np.uint8)
_FRAME_BYTES = len(_HEAD) + _ROW_BYTES


def pack_rows(method: str, embeddings: Embeddings) -> bytes:
    """float32 [N, 2048] -> the serialised reply that holds them, without errors."""
    spec = wire.PredictReply()
    spec.servable_spec.name = wire.SERVABLE_NAME
    spec.servable_spec.method_name = method
    return join_rows(spec.SerializeToString(), [row.tobytes() for row in np.asarray(embeddings, "<f4")])


def unpack_rows(reply: bytes, out: Embeddings) -> bool:
    """Copies the rows of a serialised reply to `out`, float32 [N, 2048], C-contiguous.

    False, and nothing copied, where the reply is not exactly of the form above with N rows.
    """
    count = len(out)
    start = _first_frame(reply, count)
    if start is None:
        return False
    frames = np.frombuffer(reply, np.uint8, offset=start).reshape(count, _FRAME_BYTES)
    if not (frames[:, : len(_HEAD)] == _HEAD).all():
        return False
    out.view(np.uint8)[:] = frames[:, len(_HEAD) :]
    return True


def join_rows(spec: bytes, rows: Sequence[Union[bytes, memoryview]]) -> bytes:
    """rows: 8192 bytes each. -> the reply that holds them, without errors; `spec`: a reply with its servable_spec."""
    parts: list[Union[bytes, memoryview]] = [spec]
    for row in rows:
        parts.append(_FRAME_HEAD)
        parts.append(row)
    return b"".join(parts)


def _first_frame(reply: bytes, count: int) -> Optional[int]:
    """Where the frames begin: behind field 1, a specification shorter than 128 bytes."""
    start = len(reply) - count * _FRAME_BYTES
    return start if start >= 2 and reply[0] == 0x0A and reply[1] == start - 2 else None
