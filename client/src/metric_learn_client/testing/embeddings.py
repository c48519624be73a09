"""What the fake answers: an embedding that is a function of the image's bytes alone, so that a test can tell rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Union

import numpy as np
import numpy.typing as npt

from metric_learn_client import wire

_CORRUPT_MARKER = b"corrupt"
_DIGEST_BYTES = 64  # blake2b's longest; its 512 bits are repeated to fill the row
_AMPLITUDE = np.float32(wire.EMBEDDING_DIM**-0.5)  # 2048 of them have norm 1


def fake_embeddings(images: Sequence[Union[bytes, npt.NDArray[np.uint8]]]) -> npt.NDArray[np.float32]:
    """The rows that FakeServable gives for `images`: float32 [N, 2048], unit norm.

    Row i depends on the bytes of image i alone (an array counts as its C-order bytes): every component is plus or
    minus 1/sqrt(2048), the signs being the bits of the bytes' BLAKE2b digest. Different bytes, different row.
    """
    digests = b"".join(hashlib.blake2b(_content(image), digest_size=_DIGEST_BYTES).digest() for image in images)
    bits = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(len(images), _DIGEST_BYTES), axis=1)
    signed = np.where(bits == 1, _AMPLITUDE, -_AMPLITUDE)
    return np.tile(signed, (1, wire.EMBEDDING_DIM // (8 * _DIGEST_BYTES)))


def is_corrupt(image: bytes) -> bool:
    """Whether FakeServable refuses the image with E_DECODE: its bytes start with b"corrupt"."""
    return image.startswith(_CORRUPT_MARKER)


def _content(image: Union[bytes, npt.NDArray[np.uint8]]) -> bytes:
    return image.tobytes() if isinstance(image, np.ndarray) else image
