"""Proof that the exported MindIR files are the checkpoint's network, in the runtime that serves them.

Sends probe pixels through every MindIR, served on MindSpore Lite (servable.runtime.parity_probe, in the server
environment), and compares with what MindSpore computed from the checkpoint at export. No MindSpore import.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Callable

import numpy as np
import numpy.typing as npt

from export.errors import ExportError, UnusableInputError
from export.facts import REPOSITORY
from metric_learn_client.contract.distance import relative_distance
from metric_learn_client.contract.version_manifest import (
    MANIFEST_FILE,
    Manifest,
    first_damaged,
    listed_files,
    read_manifest,
    write_manifest,
)
from metric_learn_client.verification.parity import unit_rows

TOLERANCE = 1e-4  # worst relative distance of a row, float32; golden data: one pixel level already gives 2e-3
GOLDEN = REPOSITORY / "tests" / "golden" / "reference.npz"
Embeddings = npt.NDArray[np.float32]


def whole_manifest(folder: Path) -> Manifest:
    """The manifest of a version whose files all have the digests it names. Raises UnusableInputError."""
    try:
        manifest: Manifest = read_manifest(folder)
    except FileNotFoundError as error:
        raise UnusableInputError(
            f"{folder} holds no exported version; run `python -m export convert --version {folder.name}`"
        ) from error
    except ValueError as error:
        raise _broken(folder, str(error)) from error
    try:
        damaged = first_damaged(folder, listed_files(manifest))
    except (KeyError, TypeError, AttributeError) as error:
        lacking = f"it has no {error}" if isinstance(error, KeyError) else "it is not as `convert` writes it"
        raise _broken(folder, lacking) from error
    except ValueError as error:
        raise _broken(folder, str(error)) from error
    except FileNotFoundError as error:
        raise UnusableInputError(f"{error.filename} is missing; convert the version again with --force") from error
    if damaged:
        raise UnusableInputError(f"{damaged[0]}: {damaged[1]}; convert the version again with --force")
    return manifest


def _broken(folder: Path, what: str) -> UnusableInputError:
    return UnusableInputError(f"{folder / MANIFEST_FILE}: {what}; convert the version again with --force")


def verify(folder: Path, progress: Callable[[str], None]) -> dict[str, float]:
    """Worst relative distance per batch size, also recorded in the manifest. Raises UnusableInputError, ExportError."""
    manifest = whole_manifest(folder)
    with np.load(folder / manifest["probe"]["file"]) as probe:
        pixels, expected = probe["pixels"], probe["features"]
    if manifest.get("weights") == "stand-in" and GOLDEN.is_file():
        with np.load(GOLDEN) as golden:
            pixels = np.concatenate([pixels, golden["pixels_bgr_u8"]])
            expected = np.concatenate([expected, golden["features_f32"]])
    worst = {}
    for batch, embeddings in _run_lite(folder, pixels, progress).items():
        worst[batch] = float(relative_distance(embeddings, unit_rows(expected)).max())
    manifest["parity"] = {
        "worst_relative_distance": worst,
        "tolerance": TOLERANCE,
        "images": len(pixels),
        "runtime": "mindspore-lite 2.0.0, cpu, float32",
    }
    write_manifest(folder, manifest)
    return worst


def _run_lite(folder: Path, pixels: npt.NDArray[np.uint8], progress: Callable[[str], None]) -> dict[str, Embeddings]:
    python = Path(os.environ.get("METRIC_LEARN_SERVER_PYTHON", REPOSITORY / ".venv" / "server" / "bin" / "python"))
    if not python.exists():
        raise ExportError(f"{python} does not exist: verify needs the server environment; run `make server-env`")
    with tempfile.TemporaryDirectory(prefix="metric-learn-verify-") as scratch:
        given, made = Path(scratch, "pixels.npy"), Path(scratch, "embeddings.npz")
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
        with np.load(made) as embeddings:
            return {batch: embeddings[batch] for batch in embeddings.files}
