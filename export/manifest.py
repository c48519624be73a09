"""manifest.json: what a version is made of. Written last; its presence means that the version is complete."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from export.facts import ModelFacts

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"


def fingerprint(facts: ModelFacts, weights_sha256: str) -> str:
    """sha256 over what decides the embedding space: weights, network, normalisation, preprocessing.

    The same for every batch size and for every file that holds the same weights.
    """
    decides = {
        "weights": weights_sha256,
        "network": facts.network,
        "mean": facts.mean,
        "std": facts.std,
        "preprocessing": facts.preprocessing,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def weights_kind(facts: ModelFacts, checkpoint_sha256: str, weights_sha256: str) -> str:
    """ "published", "stand-in" or "custom"."""
    if checkpoint_sha256 == facts.published_sha256:
        return "published"
    return "stand-in" if weights_sha256 == facts.stand_in_weights_sha256 else "custom"


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Whole or not at all."""
    aside = folder / f".{FILE_NAME}.partial"
    with aside.open("w") as file:
        json.dump(manifest, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / FILE_NAME)


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
