"""Golden sets: pictures with reference embeddings, in one directory.

DIR/images/<name>     the encoded pictures
DIR/reference.npz     names [n]; embeddings_f32 [n, 2048], unit norm; optional: pixels_bgr_u8 [n, 224, 224, 3],
                      features_f32 [n, 2048], and wrong_<mistake>_f32 [n, 2048]: the answer under that mistake
DIR/golden.json       optional: schema_version, recorded_from, fingerprint, weights, precision, sha256 of each picture
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client.contract.whole_file import whole_folder
from metric_learn_client.errors import MetricLearnError

SCHEMA_VERSION = 1
MANIFEST, REFERENCE, IMAGES = "golden.json", "reference.npz", "images"
_WRONG = re.compile(r"wrong_(.+)_f32")


class GoldenError(MetricLearnError):
    """A golden set that cannot be read or written; the message names the file and the remedy."""


@dataclass(frozen=True)
class GoldenSet:
    """images: encoded, in the order of names; embeddings float32 [n, 2048], unit norm; pixels uint8 [n, 224, 224, 3]
    BGR or None; wrong: mistake in the network -> float32 [n, 2048] unit norm; facts: what golden.json says."""

    names: tuple[str, ...]
    images: tuple[bytes, ...]
    embeddings: npt.NDArray[np.float32]
    pixels: Optional[npt.NDArray[np.uint8]] = None
    wrong: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> Optional[str]:
        return self.facts.get("fingerprint") or None


def read_golden(path: Path) -> GoldenSet:
    """Reads a golden set from its directory, or from its golden.json or reference.npz. Raises GoldenError."""
    folder = path.parent if path.name in (MANIFEST, REFERENCE) else path
    if not (folder / REFERENCE).is_file():
        raise GoldenError(
            f"{folder} is not a golden set: it has no {REFERENCE}; `metric-learn golden record` makes one"
        )
    facts = _read_facts(folder / MANIFEST)
    try:
        # NumPy leaves a file that it opened itself open where it is no archive.
        with (folder / REFERENCE).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except Exception as error:  # OSError, ValueError, zipfile.BadZipFile, zlib.error: nothing common
        raise GoldenError(f"{folder / REFERENCE} is damaged ({error}); record the set again") from error
    names = tuple(str(name) for name in arrays.get("names", ()))
    embeddings = arrays.get("embeddings_f32", np.empty(0))
    pixels = arrays.get("pixels_bgr_u8")
    if not names or embeddings.ndim != 2 or len(embeddings) != len(names):
        raise GoldenError(f"{folder / REFERENCE}: {len(names)} names and embeddings of shape {embeddings.shape}")
    if not np.isfinite(embeddings).all():
        raise GoldenError(f"{folder / REFERENCE}: a reference embedding is not finite; record the set again")
    if pixels is not None and (pixels.dtype != np.uint8 or pixels.shape != (len(names), 224, 224, 3)):
        raise GoldenError(f"{folder / REFERENCE}: pixels are {pixels.dtype} {pixels.shape}, not uint8 [n, 224, 224, 3]")
    wrong = {}
    for name, values in arrays.items():
        found = _WRONG.fullmatch(name)
        if found and values.shape == embeddings.shape:
            wrong[found.group(1)] = values.astype(np.float32)
    images = tuple(_read_image(folder, name, facts.get("sha256", {})) for name in names)
    return GoldenSet(names, images, embeddings.astype(np.float32), pixels, wrong, facts)


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise GoldenError(f"{path} is not JSON ({error}); record the set again") from error
    if not isinstance(facts, dict) or facts.get("schema_version") != SCHEMA_VERSION:
        raise GoldenError(f"{path} is not a golden manifest of schema_version {SCHEMA_VERSION}")
    return facts


def _read_image(folder: Path, name: str, digests: dict[str, str]) -> bytes:
    if not name or Path(name).name != name or "\0" in name:
        raise GoldenError(f"{folder / REFERENCE}: {name!r} is not a file name inside {IMAGES}/")
    try:
        image = (folder / IMAGES / name).read_bytes()
    except OSError as error:
        raise GoldenError(f"{folder / IMAGES / name}: {error.strerror}; the golden set is not complete") from error
    if name in digests and hashlib.sha256(image).hexdigest() != digests[name]:
        raise GoldenError(f"{folder / IMAGES / name} is not the picture that was recorded: its sha256 differs")
    return image


def safe_names(paths: Sequence[Path]) -> list[str]:
    """A plain file name for each picture, unique by its number: 0003-coffee.jpg."""
    names = []
    for number, path in enumerate(paths):
        ascii_only = path.name.encode("ascii", "replace").decode()
        names.append(f"{number:04d}-{re.sub(r'[^A-Za-z0-9._-]', '_', ascii_only)[-80:]}")
    return names


def pixels_of(images: Sequence[bytes]) -> Optional[npt.NDArray[np.uint8]]:
    """What this package's preprocessing makes of them, by which the gate tells preprocessing from network. None without
    OpenCV, or for a picture that an endpoint takes and this client does not."""
    try:
        from metric_learn_client.preprocess import ImageError, preprocess
    except ModuleNotFoundError:
        return None
    try:
        return np.stack([preprocess(image) for image in images])
    except ImageError:
        return None


def write_golden(folder: Path, golden: GoldenSet) -> None:
    """Writes a new golden set, whole or not at all. Raises GoldenError where the folder exists."""
    if folder.exists():
        raise GoldenError(f"{folder} exists; record into a new directory, references are never overwritten")
    with whole_folder(folder) as aside:
        (aside / IMAGES).mkdir()
        for name, image in zip(golden.names, golden.images):
            (aside / IMAGES / name).write_bytes(image)
        arrays: dict[str, Any] = {"names": np.array(golden.names), "embeddings_f32": golden.embeddings}
        if golden.pixels is not None:
            arrays["pixels_bgr_u8"] = golden.pixels
        for mistake, values in golden.wrong.items():
            arrays[f"wrong_{mistake}_f32"] = values
        np.savez(aside / REFERENCE, **arrays)
        facts = {
            "schema_version": SCHEMA_VERSION,
            **golden.facts,
            "sha256": {n: hashlib.sha256(image).hexdigest() for n, image in zip(golden.names, golden.images)},
        }
        (aside / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n")
