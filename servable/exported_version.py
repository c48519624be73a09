"""Exported versions on disk: which there are, and one of them opened, with every file's digest compared.

Reads only. What a folder must hold is decided by export/manifest.py.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt
import yaml

from metric_learn_client import wire
from metric_learn_client.contract.digests import file_sha256, fingerprint
from servable.config import ConfigError
from servable.config.sections import REPOSITORY

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
MODEL_FACTS = REPOSITORY / "configs" / "model.yaml"


Entry = Mapping[str, Any]  # of the manifest: "file" and its "sha256"


@dataclass(frozen=True)
class OfflineModels:
    """Compiled ahead for one kind of chip (export/offline.py). precision_mode: CANN's name; files: by batch size."""

    soc_version: str
    precision_mode: str
    aipp: bool
    files: Mapping[int, Entry]


@dataclass(frozen=True)
class AippModels:
    """The network without normalisation, and CANN's file that has the chip do it (export/aipp.py)."""

    config: Entry
    files: Mapping[int, Entry]


@dataclass(frozen=True)
class ExportedVersion:
    """One version, checked. golden_embedding: float32 [embedding_dim], unit norm; what golden_image must give.

    preprocessing: what this server does, part of the fingerprint; exported_for: what it was called at the export.
    """

    number: int
    folder: Path
    fingerprint: str
    weights: str  # "published", "custom" or "stand-in"
    preprocessing: str
    embedding_dim: int
    batch_sizes: tuple[int, ...]
    mindir_bytes: int
    golden_image: bytes
    golden_embedding: npt.NDArray[np.float32]
    exported_for: str = wire.PREPROCESSING_ID
    golden_spread: float = 1.0  # to the embedding of the golden picture's negative; 1 where the export did not keep it
    models: Mapping[int, str] = field(default_factory=dict)  # batch size -> the file in `folder` that is loaded
    offline: tuple[OfflineModels, ...] = ()
    aipp: Optional[AippModels] = None
    compiled_ahead: frozenset[int] = frozenset()  # batch sizes whose `models` are offline models
    aipp_config: Optional[Path] = None  # for the others, where `models` need it

    @property
    def device_models(self) -> dict[int, int]:
        """How many models of each batch size a device's worker loads: two of the largest, so that one's pictures are
        copied while the other runs."""
        return {size: 2 if size == max(self.batch_sizes) > 1 else 1 for size in self.batch_sizes}

    def with_batch_sizes(self, sizes: Sequence[int]) -> ExportedVersion:
        """The same with fewer MindIRs, which are about equally large."""
        share = len(sizes) / len(self.batch_sizes)
        return replace(self, batch_sizes=tuple(sorted(sizes)), mindir_bytes=int(self.mindir_bytes * share))


def exported_versions(root: Path) -> dict[int, Path]:
    """Number -> folder of every complete version: a plain positive number that holds a manifest."""
    found = {}
    for manifest in root.glob(f"*/{MANIFEST}"):
        name = manifest.parent.name
        if name.isascii() and name.isdigit() and str(int(name)) == name and int(name) > 0:
            found[int(name)] = manifest.parent
    return found


def find_version(root: Path, wanted: int, origin: str) -> Path:
    """The folder of `wanted`, or of the highest version for 0. Raises ConfigError; `origin` says who wanted it."""
    found = exported_versions(root)
    number = wanted or max(found, default=0)
    if number in found:
        return found[number]
    has = ", ".join(map(str, sorted(found))) or "none"
    if not root.is_dir():
        raise ConfigError(f"{origin}: model.directory = {root}: no such directory; run `make export CKPT=file`")
    odd = [path.parent.name for path in root.glob(f"*/{MANIFEST}") if path.parent.name not in map(str, found)]
    if odd and (not wanted or wanted in [int(name) for name in odd if name.isascii() and name.isdigit()]):
        raise ConfigError(
            f"{origin}: model.directory = {root}: {odd[0]} is not a version's name; rename it to a number above 0 "
            f"without leading zeros"
        )
    if wanted and (root / str(wanted)).is_dir():
        raise ConfigError(
            f"{origin}: model.version = {wanted}: {root / str(wanted)} holds no {MANIFEST}, so its export did not "
            f"finish; run `make export CKPT=file VERSION={wanted}`"
        )
    what = f"version {wanted} is not exported" if wanted else "no version is exported"
    raise ConfigError(
        f"{origin}: model.version = {wanted}: {what} in {root} (there: {has}); choose one of them or run "
        f"`make export CKPT=file`"
    )


def open_version(folder: Path) -> ExportedVersion:
    """Reads the manifest and compares every digest. Raises ConfigError naming the file and the remedy."""
    manifest = _read_manifest(folder)
    try:
        entries = [dict(entry) for entry in manifest["mindir"]]
        golden = {part: dict(entry) for part, entry in manifest["golden"].items()}
        embedding = _embedding((folder / golden["embedding"]["file"]).read_bytes())
        compare_digests(folder, [*entries, *golden.values()])
        version = ExportedVersion(
            number=int(manifest["version"]),
            folder=folder,
            fingerprint=_fingerprint(folder, manifest),
            weights=_text(manifest, "weights"),
            preprocessing=wire.PREPROCESSING_ID if _is_former(manifest) else _text(manifest, "preprocessing"),
            embedding_dim=int(manifest["embedding_dim"]),
            batch_sizes=tuple(sorted(int(entry["batch_size"]) for entry in entries)),
            mindir_bytes=sum((folder / entry["file"]).stat().st_size for entry in entries),
            golden_image=(folder / golden["image"]["file"]).read_bytes(),
            golden_embedding=embedding,
            golden_spread=_spread(folder, golden, embedding),
            exported_for=_text(manifest, "preprocessing"),
            models={int(entry["batch_size"]): str(entry["file"]) for entry in entries},
            offline=tuple(map(_offline, manifest.get("offline", ()))),
            aipp=_aipp(manifest["aipp"]) if manifest.get("aipp") else None,
        )
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; {_again(folder)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is not a manifest ({error})"
        raise ConfigError(f"{folder / MANIFEST}: {what}; {_again(folder)}") from error
    for key, value, expected in (
        ("schema_version", manifest.get("schema_version"), SCHEMA_VERSION),
        ("model", manifest.get("model"), wire.SERVABLE_NAME),
        ("version", version.number, int(folder.name)),
        ("embedding_dim", version.embedding_dim, wire.EMBEDDING_DIM),
        ("preprocessing", version.preprocessing, wire.PREPROCESSING_ID),
        ("batch_sizes without 1", 1 in version.batch_sizes, True),
        ("batch_sizes given twice", len(set(version.batch_sizes)) == len(entries), True),
        ("golden embedding's length", len(version.golden_embedding), version.embedding_dim),
    ):
        if value != expected:
            raise ConfigError(
                f"{folder / MANIFEST}: {key} = {value!r}: this server takes {expected!r}; {_again(folder)}"
            )
    return version


def _offline(section: Mapping[str, Any]) -> OfflineModels:
    models = _by_size(section["models"])
    return OfflineModels(_text(section, "soc_version"), _text(section, "precision_mode"), section["aipp"], models)


def _aipp(section: Mapping[str, Any]) -> AippModels:
    return AippModels(dict(section["config"]), _by_size(section["mindir"]))


def _by_size(entries: Sequence[Entry]) -> dict[int, Entry]:
    return {int(entry["batch_size"]): dict(entry) for entry in entries}


def _is_former(manifest: Mapping[str, Any]) -> bool:
    return _text(manifest, "preprocessing") in wire.FORMER_PREPROCESSING_IDS


def _fingerprint(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The manifest's; of a version exported for a former preprocessing that of the same parts with the present one.

    Pixels of some pictures changed, so its embeddings must be told apart from those made before; a new export of the
    same weights gets the same. What the parts are is proved by the fingerprint of the export. Raises ConfigError.
    """
    stored = _text(manifest, "fingerprint")
    if not _is_former(manifest):
        return stored
    normalisation = manifest.get("normalisation") or yaml.safe_load(MODEL_FACTS.read_text())["normalisation"]
    made_of = {
        "weights_sha256": str(manifest.get("weights_sha256")),
        "network": str(manifest.get("network")),
        "mean": normalisation["mean"],
        "std": normalisation["std"],
    }
    if fingerprint(**made_of, preprocessing=manifest["preprocessing"]) != stored:
        raise ConfigError(
            f"{folder / MANIFEST}: preprocessing = {manifest['preprocessing']!r}: this server preprocesses by "
            f"{wire.PREPROCESSING_ID!r}, and what the version is made of cannot be proved; {_again(folder)}"
        )
    return fingerprint(**made_of, preprocessing=wire.PREPROCESSING_ID)


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {_again(folder)}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); {_again(folder)}") from error
    if not isinstance(manifest, dict):
        raise ConfigError(f"{path}: not a manifest; {_again(folder)}")
    return manifest


def compare_digests(folder: Path, entries: Sequence[Entry]) -> None:
    """Raises ConfigError for a file that is not what the manifest says, OSError, ValueError."""
    for entry in entries:
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"file {entry['file']!r} is not beside it")
    with ThreadPoolExecutor(2) as pool:  # hashing releases the GIL
        digests = list(pool.map(lambda entry: file_sha256(folder / entry["file"]), entries))
    for entry, digest in zip(entries, digests):
        if digest != entry["sha256"]:
            raise ConfigError(
                f"{folder / entry['file']}: damaged: sha256 is {digest}, the manifest says {entry['sha256']}; "
                f"{_again(folder)}"
            )


def _embedding(data: bytes) -> npt.NDArray[np.float32]:
    embedding = np.load(io.BytesIO(data), allow_pickle=False)
    if embedding.dtype != np.float32 or embedding.ndim != 1 or not np.isfinite(embedding).all():
        raise ValueError(f"the golden embedding is {embedding.dtype} {embedding.shape}")
    result: npt.NDArray[np.float32] = embedding
    return result


def _spread(folder: Path, golden: Mapping[str, Entry], embedding: npt.NDArray[np.float32]) -> float:
    if "negative" not in golden:  # of an export before it was kept
        return 1.0
    negative = _embedding((folder / golden["negative"]["file"]).read_bytes())
    spread = float(np.linalg.norm(negative.astype(np.float64) - embedding))
    if not spread > 0:
        raise ValueError("the golden picture and its negative have the same embedding")
    return spread


def _text(manifest: Mapping[str, Any], key: str) -> str:
    if not isinstance(manifest[key], str) or not manifest[key]:
        raise ValueError(f"{key} is {manifest[key]!r}")
    return str(manifest[key])


def _again(folder: Path) -> str:
    return f"export version {folder.name} again with --force"
