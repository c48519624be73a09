"""Checked weights -> one MindIR per batch size, with the manifest written last."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
from PIL import Image

from export.aipp import FILE_NAME as AIPP_FILE
from export.aipp import aipp_config
from export.checkpoint import Checkpoint, weights_digest
from export.errors import ExportError, UnusableInputError
from export.facts import ModelFacts, fingerprint_of, weights_kind
from export.network import PixelsToFeatures, backbone_of
from metric_learn_client.contract.digests import file_sha256
from metric_learn_client.contract.version_manifest import (
    SCHEMA_VERSION,
    ListedFile,
    ListedModel,
    Manifest,
    write_manifest,
)
from metric_learn_client.contract.whole_file import whole_folder
from metric_learn_client.verification.parity import unit_rows

MINDIR_MB = 95  # of one batch size, measured; for the check of free space
PROBE_FILE = "probe.npz"  # pixels and the checkpoint's own features of them, computed by MindSpore at export
PROBE_COUNT = 4
GOLDEN_IMAGE_FILE = "golden.jpg"  # what a server's readiness sends ...
GOLDEN_EMBEDDING_FILE = "golden.npy"  # ... and must get back: float32 [2048], unit norm
# The same of the picture's negative. How far apart the two are tells which distance is a small one for these weights.
GOLDEN_NEGATIVE_FILE = "golden_negative.npy"
Progress = Callable[[str], None]  # told what begins


def build_graph(checkpoint: Checkpoint, facts: ModelFacts, *, folded: bool = False) -> PixelsToFeatures:
    """The graph of the checkpoint as it was trained; folded: as it is exported, with no BatchNorm left."""
    graph = PixelsToFeatures(backbone_of(checkpoint.weights, folded=folded), facts.mean, facts.std)
    graph.set_train(False)
    return graph


def convert(
    checkpoint: Checkpoint,
    source: Path,
    folder: Path,
    facts: ModelFacts,
    *,
    force: bool,
    progress: Progress,
    aipp: bool = False,
) -> Manifest:
    """Writes `folder` (a version directory) whole or not at all and returns its manifest.

    aipp: also the network without normalisation, and AIPP's configuration that has an Ascend chip do it.
    Raises UnusableInputError where the version exists and `force` is not given, ExportError without space.
    """
    if folder.exists() and not force:
        raise UnusableInputError(
            f"version {folder.name} exists in {folder.parent}; choose another, or replace it with --force"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed_mb = MINDIR_MB * len(facts.batch_sizes) * (2 if aipp else 1)
    free_mb = shutil.disk_usage(folder.parent).free // 10**6
    if free_mb < needed_mb:
        raise ExportError(f"{folder.parent} has {free_mb} MB free; the export needs {needed_mb} MB")
    with _write_errors(folder), whole_folder(folder) as aside:
        return _write(checkpoint, source, aside, int(folder.name), facts, progress, aipp)


def _write(
    checkpoint: Checkpoint,
    source: Path,
    folder: Path,
    version: int,
    facts: ModelFacts,
    progress: Progress,
    aipp: bool,
) -> Manifest:
    exported = build_graph(checkpoint, facts, folded=True)
    side = facts.input_side_px
    files = _write_mindirs(exported, (side, side, 3), np.uint8, "", folder, facts, progress)
    progress("reference features")
    graph = build_graph(checkpoint, facts)
    pixels = np.random.default_rng(0).integers(0, 256, (PROBE_COUNT, side, side, 3), dtype=np.uint8)
    features = graph(ms.Tensor(pixels)).asnumpy()
    np.savez(folder / PROBE_FILE, pixels=pixels, features=features)
    golden = _write_golden(graph, folder, facts)
    weights_sha256 = weights_digest(checkpoint.weights)
    manifest: Manifest = {
        "schema_version": SCHEMA_VERSION,
        "model": facts.name,
        "version": version,
        "checkpoint": {"file": source.name, "sha256": checkpoint.sha256, "skipped": list(checkpoint.skipped)},
        "weights": weights_kind(facts, checkpoint.sha256, weights_sha256),
        "weights_sha256": weights_sha256,
        "fingerprint": fingerprint_of(facts, weights_sha256),
        "network": facts.network,
        "normalisation": {"mean": facts.mean, "std": facts.std},
        "preprocessing": facts.preprocessing,
        "embedding_dim": facts.embedding_dim,
        "input": {"name": "pixels", "dtype": "uint8", "shape": ["N", side, side, 3], "channels": "BGR"},
        "output": {"name": "features", "dtype": "float32", "shape": ["N", facts.embedding_dim]},
        "mindir": files,
        "probe": {"file": PROBE_FILE, "sha256": file_sha256(folder / PROBE_FILE)},
        "golden": golden,
        "tools": {"mindspore": ms.__version__, "numpy": np.__version__},
        "parity": None,
    }
    if aipp:
        inside = exported.backbone
        mindirs = _write_mindirs(inside, (3, side, side), np.float32, ".aipp", folder, facts, progress)
        config = folder / AIPP_FILE
        config.write_text(aipp_config(facts))
        manifest["aipp"] = {"config": {"file": config.name, "sha256": file_sha256(config)}, "mindir": mindirs}
    write_manifest(folder, manifest)
    return manifest


def _write_mindirs(
    network: ms.nn.Cell,
    shape: tuple[int, ...],
    dtype: type[np.generic],
    suffix: str,
    folder: Path,
    facts: ModelFacts,
    progress: Progress,
) -> list[ListedModel]:
    """One for each batch size, of inputs [batch, *shape]; their entries of the manifest."""
    entries: list[ListedModel] = []
    for step, batch in enumerate(facts.batch_sizes, start=1):
        path = folder / f"{facts.name}_b{batch}{suffix}.mindir"
        progress(f"{path.name} ({step} of {len(facts.batch_sizes)})")
        example = ms.Tensor(np.zeros((batch, *shape), dtype))
        ms.export(network, example, file_name=str(path.with_suffix("")), file_format="MINDIR")
        path.chmod(0o644)
        entries.append({"file": path.name, "batch_size": batch, "sha256": file_sha256(path)})
    return entries


def _write_golden(graph: PixelsToFeatures, folder: Path, facts: ModelFacts) -> dict[str, ListedFile]:
    """The golden picture, and the embeddings that the checkpoint's network gives for its pixels and their negative."""
    shutil.copyfile(facts.golden_image, folder / GOLDEN_IMAGE_FILE)
    with Image.open(facts.golden_pixels) as image:
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    for name, picture in ((GOLDEN_EMBEDDING_FILE, pixels), (GOLDEN_NEGATIVE_FILE, 255 - pixels)):
        np.save(folder / name, unit_rows(graph(ms.Tensor(picture[None])).asnumpy())[0].astype(np.float32))
    return {
        part: {"file": name, "sha256": file_sha256(folder / name)}
        for part, name in (
            ("image", GOLDEN_IMAGE_FILE),
            ("embedding", GOLDEN_EMBEDDING_FILE),
            ("negative", GOLDEN_NEGATIVE_FILE),
        )
    }


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """MindSpore reports a full disk in words of its own, or not at all."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
        raise ExportError(f"cannot write {folder}: {why}; free space or choose another --directory") from error
