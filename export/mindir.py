"""Checked weights -> one MindIR per batch size, with the manifest written last."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
from PIL import Image

from export.checkpoint import Checkpoint, file_sha256, weights_digest
from export.errors import ExportError, UnusableInputError
from export.facts import ModelFacts
from export.manifest import SCHEMA_VERSION, fingerprint, weights_kind, write_manifest
from export.network import PixelsToFeatures, ResNet50, fold_batch_norms

MINDIR_MB = 95  # of one batch size, measured; for the check of free space
PROBE_FILE = "probe.npz"  # pixels and the checkpoint's own features of them, computed by MindSpore at export
PROBE_COUNT = 4
GOLDEN_IMAGE_FILE = "golden.jpg"  # what a server's readiness sends ...
GOLDEN_EMBEDDING_FILE = "golden.npy"  # ... and must get back: float32 [2048], unit norm
Progress = Callable[[str], None]  # told what begins


def build_graph(checkpoint: Checkpoint, facts: ModelFacts, *, folded: bool = False) -> PixelsToFeatures:
    """The graph of the checkpoint as it was trained; folded: as it is exported, with no BatchNorm left."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    backbone = ResNet50(folded=folded)
    weights = fold_batch_norms(checkpoint.weights) if folded else checkpoint.weights
    for parameter in backbone.get_parameters():
        parameter.set_data(ms.Tensor(weights[parameter.name]))
    graph = PixelsToFeatures(backbone, facts.mean, facts.std)
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
) -> dict[str, object]:
    """Writes `folder` (a version directory) whole or not at all and returns its manifest.

    Raises UnusableInputError where the version exists and `force` is not given, ExportError without space.
    """
    if folder.exists() and not force:
        raise UnusableInputError(
            f"version {folder.name} exists in {folder.parent}; choose another, or replace it with --force"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed_mb = MINDIR_MB * len(facts.batch_sizes)
    free_mb = shutil.disk_usage(folder.parent).free // 10**6
    if free_mb < needed_mb:
        raise ExportError(f"{folder.parent} has {free_mb} MB free; the export needs {needed_mb} MB")
    aside = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        with _write_errors(folder):
            manifest = _write(checkpoint, source, aside, int(folder.name), facts, progress)
        if folder.exists():
            replaced = folder.parent / f".{folder.name}.replaced"
            shutil.rmtree(replaced, ignore_errors=True)
            folder.replace(replaced)
            aside.replace(folder)
            shutil.rmtree(replaced)
        else:
            aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _write(
    checkpoint: Checkpoint,
    source: Path,
    folder: Path,
    version: int,
    facts: ModelFacts,
    progress: Progress,
) -> dict[str, object]:
    exported = build_graph(checkpoint, facts, folded=True)
    side = facts.input_side_px
    files = []
    for step, batch in enumerate(facts.batch_sizes, start=1):
        progress(f"MindIR for batch size {batch} ({step} of {len(facts.batch_sizes)})")
        path = folder / f"{facts.name}_b{batch}.mindir"
        example = ms.Tensor(np.zeros((batch, side, side, 3), np.uint8))
        ms.export(exported, example, file_name=str(path.with_suffix("")), file_format="MINDIR")
        path.chmod(0o644)
        files.append({"file": path.name, "batch_size": batch, "sha256": file_sha256(path)})
    progress("reference features")
    graph = build_graph(checkpoint, facts)
    pixels = np.random.default_rng(0).integers(0, 256, (PROBE_COUNT, side, side, 3), dtype=np.uint8)
    features = graph(ms.Tensor(pixels)).asnumpy()
    np.savez(folder / PROBE_FILE, pixels=pixels, features=features)
    golden = _write_golden(graph, folder, facts)
    weights_sha256 = weights_digest(checkpoint.weights)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "model": facts.name,
        "version": version,
        "checkpoint": {"file": source.name, "sha256": checkpoint.sha256, "skipped": list(checkpoint.skipped)},
        "weights": weights_kind(facts, checkpoint.sha256, weights_sha256),
        "weights_sha256": weights_sha256,
        "fingerprint": fingerprint(facts, weights_sha256),
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
    write_manifest(folder, manifest)
    return manifest


def _write_golden(graph: PixelsToFeatures, folder: Path, facts: ModelFacts) -> dict[str, dict[str, str]]:
    """The golden picture and the embedding that the checkpoint's network gives for its pixels."""
    shutil.copyfile(facts.golden_image, folder / GOLDEN_IMAGE_FILE)
    with Image.open(facts.golden_pixels) as picture:
        pixels = np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])
    features = graph(ms.Tensor(pixels[None])).asnumpy()[0].astype(np.float64)
    np.save(folder / GOLDEN_EMBEDDING_FILE, (features / np.linalg.norm(features)).astype(np.float32))
    return {
        part: {"file": name, "sha256": file_sha256(folder / name)}
        for part, name in (("image", GOLDEN_IMAGE_FILE), ("embedding", GOLDEN_EMBEDDING_FILE))
    }


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """MindSpore reports a full disk in words of its own, or not at all."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
        raise ExportError(f"cannot write {folder}: {why}; free space or choose another --directory") from error
