"""configs/model.yaml, and what the client knows too, as a frozen value. Reads one file; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from metric_learn_client.contract import EMBEDDING_DIM, PIXELS_SHAPE, PREPROCESSING_ID
from metric_learn_client.contract.digests import fingerprint

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL_YAML = REPOSITORY / "configs" / "model.yaml"


@dataclass(frozen=True)
class ModelFacts:
    """What configs/model.yaml and the contract say; the comments there give units and sources."""

    name: str
    network: str
    embedding_dim: int
    input_side_px: int
    batch_sizes: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    preprocessing: str
    published_file: str
    published_url: str
    published_sha256: str
    stand_in_weights_sha256: str
    golden_image: Path
    golden_pixels: Path
    expected_extras: tuple[str, ...]


@cache
def model_facts() -> ModelFacts:
    """The facts of the model. Raises OSError or KeyError where the file is missing or incomplete."""
    document: dict[str, Any] = yaml.safe_load(MODEL_YAML.read_text())
    model, published, stand_in = document["model"], document["published"], document["stand_in"]
    mean, std = document["normalisation"]["mean"], document["normalisation"]["std"]
    return ModelFacts(
        name=model["name"],
        network=model["network"],
        embedding_dim=EMBEDDING_DIM,
        input_side_px=PIXELS_SHAPE[0],
        batch_sizes=tuple(model["batch_sizes"]),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        preprocessing=PREPROCESSING_ID,
        published_file=published["file"],
        published_url=published["url"],
        published_sha256=published["sha256"],
        stand_in_weights_sha256=stand_in["weights_sha256"],
        golden_image=MODEL_YAML.parent / document["golden"]["image"],
        golden_pixels=MODEL_YAML.parent / document["golden"]["pixels"],
        expected_extras=tuple(document["expected_extras"]),
    )


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
