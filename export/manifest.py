"""manifest.json: what a version is made of. Written last; its presence means that the version is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.facts import ModelFacts
from metric_learn_client.contract.digests import fingerprint
from metric_learn_client.contract.whole_file import write_whole

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"


def fingerprint_of(facts: ModelFacts, weights_sha256: str) -> str:
    """The fingerprint of the model of `facts` with these weights."""
    return fingerprint(
        weights_sha256=weights_sha256,
        network=facts.network,
        mean=facts.mean,
        std=facts.std,
        preprocessing=facts.preprocessing,
    )


def weights_kind(facts: ModelFacts, checkpoint_sha256: str, weights_sha256: str) -> str:
    """ "published", "stand-in" or "custom"."""
    if checkpoint_sha256 == facts.published_sha256:
        return "published"
    return "stand-in" if weights_sha256 == facts.stand_in_weights_sha256 else "custom"


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Whole or not at all."""
    write_whole(folder / FILE_NAME, (json.dumps(manifest, indent=2) + "\n").encode())
