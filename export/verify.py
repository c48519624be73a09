"""Proof that the exported MindIR files are the checkpoint's network, in the runtime that serves them.

Sends probe pixels through every MindIR on MindSpore Lite (servable.runtime.parity_probe, in the server environment) and
compares with the features that MindSpore computed from the checkpoint at export. No MindSpore import.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

from export.errors import ExportError, UnusableInputError
from export.facts import REPOSITORY
from export.manifest import FILE_NAME, write_manifest
from metric_learn_client.contract.digests import file_sha256
from metric_learn_client.contract.distance import relative_distance

TOLERANCE = 1e-4  # worst relative distance of a row, float32; golden data: one pixel level already gives 2e-3
GOLDEN = REPOSITORY / "tests" / "golden" / "reference.npz"
Features = npt.NDArray[np.float32]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a version whose files all have the digests it names. Raises UnusableInputError."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise UnusableInputError(
            f"{folder} holds no exported version; run `python -m export convert --version {folder.name}`"
        )
    manifest: dict[str, Any] = json.loads(path.read_text())
    for entry in _entries(manifest):
        file = folder / entry["file"]
        if not file.is_file():
            raise UnusableInputError(f"{file} is missing; convert the version again with --force")
        digest = file_sha256(file)
        if digest != entry["sha256"]:
            raise UnusableInputError(
                f"{file.name} is damaged: its sha256 is {digest}, the manifest says {entry['sha256']}"
            )
    return manifest


def _entries(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every file of the version, with its digest."""
    yield from (*manifest["mindir"], manifest["probe"], *manifest["golden"].values())
    if manifest.get("aipp"):
        yield from (manifest["aipp"]["config"], *manifest["aipp"]["mindir"])
    for section in manifest.get("offline", ()):
        yield from section["models"]


def verify(folder: Path, progress: Callable[[str], None]) -> dict[str, float]:
    """Worst relative distance per batch size, also recorded in the manifest. Raises UnusableInputError, ExportError."""
    manifest = read_manifest(folder)
    with np.load(folder / manifest["probe"]["file"]) as probe:
        pixels, expected = probe["pixels"], probe["features"]
    if manifest["weights"] == "stand-in" and GOLDEN.is_file():
        with np.load(GOLDEN) as golden:
            pixels = np.concatenate([pixels, golden["pixels_bgr_u8"]])
            expected = np.concatenate([expected, golden["features_f32"]])
    worst = {}
    for batch, features in _run_lite(folder, pixels, progress).items():
        worst[batch] = float(relative_distance(features, expected).max())
    manifest["parity"] = {
        "worst_relative_distance": worst,
        "tolerance": TOLERANCE,
        "images": len(pixels),
        "runtime": "mindspore-lite 2.0.0, cpu, float32",
    }
    write_manifest(folder, manifest)
    return worst


def _run_lite(folder: Path, pixels: npt.NDArray[np.uint8], progress: Callable[[str], None]) -> dict[str, Features]:
    python = Path(os.environ.get("METRIC_LEARN_SERVER_PYTHON", REPOSITORY / ".venv" / "server" / "bin" / "python"))
    if not python.exists():
        raise ExportError(f"{python} does not exist: verify needs the server environment; run `make server-env`")
    with tempfile.TemporaryDirectory(prefix="metric-learn-verify-") as scratch:
        given, made = Path(scratch, "pixels.npy"), Path(scratch, "features.npz")
        np.save(given, pixels)
        command = [str(python), "-m", "servable.runtime.parity_probe", str(folder.resolve()), str(given), str(made)]
        with Path(scratch, "errors").open("w+") as errors:
            run = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=errors, text=True)
            assert run.stdout is not None
            for line in run.stdout:  # the probe names each step as it begins
                progress(line.strip())
            if run.wait():
                errors.seek(0)
                said = errors.read().strip().splitlines() or ["no message"]
                raise ExportError(f"the Lite runtime failed: {said[-1]}")
        with np.load(made) as features:
            return {batch: features[batch] for batch in features.files}
