"""Golden pictures with the checkpoint's own embeddings of them, computed by MindSpore: what a served model must answer.

Also what the network answers under mistakes that no picture can imitate, such as missing normalisation, so that a
failed gate can be told what it looks like. Pictures are decoded and resized in the engine's environment, by the
preprocessing that is served; its pixels are held to the model zoo's by tests/golden.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import numpy.typing as npt

from export.checkpoint import Checkpoint, weights_digest
from export.errors import ExportError, UnusableInputError
from export.facts import REPOSITORY, ModelFacts, fingerprint_of, weights_kind
from export.network import ResNet50, backbone_of
from metric_learn_client.verification.golden import GoldenSet, safe_names, write_golden
from metric_learn_client.verification.parity import unit_rows

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
    progress(f"pixels of {len(pictures)} pictures")
    pixels = _pixels(pictures)
    backbone = backbone_of(checkpoint.weights)
    rows: dict[str, Images] = {}
    for name, images in network_inputs(pixels, facts).items():
        if name == "features" or with_mistakes:
            progress(f"{name} by MindSpore")
            rows[name] = unit_rows(features_of(backbone, images)).astype(np.float32)
    embeddings = rows.pop("features")
    weights_sha256 = weights_digest(checkpoint.weights)
    about = {
        "recorded_from": "checkpoint",
        "checkpoint_sha256": checkpoint.sha256,
        "fingerprint": fingerprint_of(facts, weights_sha256),
        "weights": weights_kind(facts, checkpoint.sha256, weights_sha256),
        "precision": "float32",
        "tools": {"mindspore": ms.__version__},
    }
    files = tuple(picture.read_bytes() for picture in pictures)
    write_golden(output, GoldenSet(tuple(safe_names(pictures)), files, embeddings, pixels, rows, about))


def network_inputs(pixels: npt.NDArray[np.uint8], facts: ModelFacts) -> dict[str, Images]:
    """float32 [N, 3, H, W] as training normalised ("features"), and as each mistake would, by its name."""
    raw = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    shape = (1, 3, 1, 1)
    mean = np.array(facts.mean, np.float32).reshape(shape)
    deviation = np.array(facts.std, np.float32).reshape(shape)
    scaled = raw * np.float32(1 / 255)
    return {
        "features": (scaled - mean) / deviation,
        "missing_normalisation": scaled,
        "deviation_missing": scaled - mean,
        "raw_pixels": raw,
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


def _pixels(pictures: list[Path]) -> npt.NDArray[np.uint8]:
    """uint8 [N, 224, 224, 3], BGR, by metric_learn_client.verification in the engine's environment."""
    own = REPOSITORY / ".venv" / "engine" / "bin" / "python"
    python = Path(os.environ.get("METRIC_LEARN_BACKEND__ENGINE_PYTHON", own))
    if not python.exists():
        raise ExportError(f"{python} does not exist: golden needs the engine's environment; run `make engine-env`")
    with tempfile.TemporaryDirectory(prefix="metric-learn-golden-") as scratch:
        made = Path(scratch, "pixels.npy")
        command = [str(python), "-m", "metric_learn_client.verification", str(made), *map(str, pictures)]
        done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            message = (done.stderr.strip().splitlines() or ["no message"])[-1]
            unusable = done.returncode == 2
            raise UnusableInputError(message) if unusable else ExportError(f"preparing the pictures failed: {message}")
        pixels: npt.NDArray[np.uint8] = np.load(made)
        return pixels
