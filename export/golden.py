"""Golden pictures with the checkpoint's own embeddings of them, computed by MindSpore: what a served model must answer.

Also what the network answers under mistakes that no picture can imitate, such as missing normalisation, so that a
failed gate can be told what it looks like. Pictures are decoded and resized in the engine's environment, by the
preprocessing that is served; its pixels are held to the model zoo's by tests/golden.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import numpy.typing as npt

from export.checkpoint import Checkpoint, weights_digest
from export.errors import ExportError, UnusableInputError
from export.facts import REPOSITORY, ModelFacts, fingerprint_of, weights_kind
from export.network import ResNet50, backbone_of

BATCH = 8
Images = npt.NDArray[np.float32]


def record_golden(
    checkpoint: Checkpoint,
    pictures: list[Path],
    output: Path,
    facts: ModelFacts,
    progress: Callable[[str], None],
    *,
    with_mistakes: bool,
) -> None:
    """Writes the golden set `output`, whole or not at all. Raises UnusableInputError, ExportError.

    with_mistakes: also what the network answers under each mistake, which takes four times as long.
    """
    if output.exists():
        raise UnusableInputError(f"{output} exists; record into a new directory, references are never overwritten")
    with tempfile.TemporaryDirectory(prefix="metric-learn-golden-") as folder:
        scratch = Path(folder)
        progress(f"pixels of {len(pictures)} pictures")
        _run(["pixels", str(scratch), *map(str, pictures)])
        pixels = np.load(scratch / "pixels.npy")
        backbone = backbone_of(checkpoint.weights)
        for name, images in network_inputs(pixels, facts).items():
            if name != "features" and not with_mistakes:
                continue
            progress(f"{name} by MindSpore")
            np.save(scratch / f"{name}.npy", features_of(backbone, images))
        weights_sha256 = weights_digest(checkpoint.weights)
        about: dict[str, Any] = {
            "recorded_from": "checkpoint",
            "checkpoint_sha256": checkpoint.sha256,
            "fingerprint": fingerprint_of(facts, weights_sha256),
            "weights": weights_kind(facts, checkpoint.sha256, weights_sha256),
            "precision": "float32",
            "tools": {"mindspore": ms.__version__},
        }
        _run(["write", str(scratch), str(output), json.dumps(about), *map(str, pictures)])


def network_inputs(pixels: npt.NDArray[np.uint8], facts: ModelFacts) -> dict[str, Images]:
    """File stem -> float32 [N, 3, H, W]: as training normalised, and as mistakes would."""
    raw = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    shape = (1, 3, 1, 1)
    mean = np.array(facts.mean, np.float32).reshape(shape)
    deviation = np.array(facts.std, np.float32).reshape(shape)
    scaled = raw * np.float32(1 / 255)
    return {
        "features": (scaled - mean) / deviation,
        "wrong_missing_normalisation": scaled,
        "wrong_deviation_missing": scaled - mean,
        "wrong_raw_pixels": raw,
    }


def features_of(backbone: ResNet50, images: Images) -> npt.NDArray[np.float32]:
    """float32 [N, 3, H, W] -> float32 [N, 2048], in batches of one size: the graph is compiled once."""
    made = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        padded = np.zeros((BATCH, *part.shape[1:]), np.float32)
        padded[: len(part)] = part
        made.append(backbone(ms.Tensor(padded)).asnumpy()[: len(part)])
    return np.concatenate(made)


def _run(arguments: list[str]) -> None:
    """metric_learn_client.verification in the engine's environment."""
    own = REPOSITORY / ".venv" / "engine" / "bin" / "python"
    python = Path(os.environ.get("METRIC_LEARN_BACKEND__ENGINE_PYTHON", own))
    if not python.exists():
        raise ExportError(f"{python} does not exist: golden needs the engine's environment; run `make engine-env`")
    command = [str(python), "-m", "metric_learn_client.verification", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise (
            UnusableInputError(message)
            if done.returncode == 2
            else ExportError(f"preparing the pictures failed: {message}")
        )
