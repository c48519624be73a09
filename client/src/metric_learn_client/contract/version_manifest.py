"""manifest.json: what an exported version is made of. Written last; its presence means that the version is complete.

The export writes it, the server and the parity probe read it. Which values a reader takes is its own question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional, TypedDict

from metric_learn_client.contract.digests import file_sha256
from metric_learn_client.contract.whole_file import write_whole

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1


class ListedFile(TypedDict):
    """A file beside the manifest, named without a folder."""

    file: str
    sha256: str


class ListedModel(ListedFile):
    """A MindIR: it takes this many images in one run."""

    batch_size: int


class OfflineModel(ListedModel):
    """made_from: the digest of the MindIR that it was compiled from."""

    made_from: str


class AippSection(TypedDict):
    """The network without normalisation, and CANN's file that has the chip do it (export/aipp.py)."""

    config: ListedFile
    mindir: list[ListedModel]


class OfflineSection(TypedDict):
    """Compiled ahead for one kind of chip (export/offline.py). precision_mode: CANN's name."""

    soc_version: str
    precision_mode: str
    aipp: bool
    models: list[OfflineModel]
    tools: dict[str, Optional[str]]


class _Added(TypedDict, total=False):
    aipp: AippSection
    offline: list[OfflineSection]


class Manifest(_Added):
    """weights: "published", "custom" or "stand-in". golden: the picture ("image"), its "embedding" and that of its
    "negative". parity: measured by `export verify`; until then None. Versions exported before lack normalisation and
    the negative."""

    schema_version: int
    model: str
    version: int
    checkpoint: dict[str, Any]
    weights: str
    weights_sha256: str
    fingerprint: str
    network: str
    normalisation: dict[str, Any]
    preprocessing: str
    embedding_dim: int
    input: dict[str, Any]
    output: dict[str, Any]
    mindir: list[ListedModel]
    probe: ListedFile
    golden: dict[str, ListedFile]
    tools: dict[str, str]
    parity: Optional[dict[str, Any]]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Whole or not at all."""
    write_whole(folder / MANIFEST_FILE, (json.dumps(manifest, indent=2) + "\n").encode())


def read_manifest(folder: Path) -> Any:
    """A Manifest whose values nobody has checked yet. Raises OSError, and ValueError for what is no JSON object."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise ValueError("not a manifest")
    return manifest


def listed_files(manifest: Manifest) -> Iterator[ListedFile]:
    """Every file of the version, with its digest."""
    yield from (*manifest["mindir"], manifest["probe"], *manifest["golden"].values())
    if manifest.get("aipp"):
        yield from (manifest["aipp"]["config"], *manifest["aipp"]["mindir"])
    for section in manifest.get("offline", ()):
        yield from section["models"]


def first_damaged(folder: Path, files: Iterable[ListedFile]) -> Optional[tuple[Path, str]]:
    """(path, what is wrong) of the first file whose digest is another one. Raises OSError for one that cannot be read,
    and ValueError for a name that leads elsewhere."""
    files = list(files)
    for entry in files:
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"file {entry['file']!r} is not beside it")
    with ThreadPoolExecutor(2) as pool:  # hashing releases the GIL
        digests = list(pool.map(lambda entry: file_sha256(folder / entry["file"]), files))
    for entry, digest in zip(files, digests):
        if digest != entry["sha256"]:
            return folder / entry["file"], f"damaged: sha256 is {digest}, the manifest says {entry['sha256']}"
    return None
