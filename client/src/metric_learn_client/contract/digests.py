"""Digests that files and models are told apart by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """The same, of what is left of an open file."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def fingerprint(
    *, weights_sha256: str, network: str, mean: Sequence[float], std: Sequence[float], preprocessing: str
) -> str:
    """sha256 over what decides the embedding space, in hexadecimal.

    The same for every batch size and for every file that holds the same weights. mean and std: the normalisation, of
    three channels; preprocessing: an id as contract.PREPROCESSING_ID.
    """
    decides = {
        "weights": weights_sha256,
        "network": network,
        "mean": list(mean),
        "std": list(std),
        "preprocessing": preprocessing,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
