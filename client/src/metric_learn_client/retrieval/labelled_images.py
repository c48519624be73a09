"""Images with their classes, and their embeddings by an endpoint: an evaluation without a job before it.

For sets that fit into one sitting; a large one is embedded by `metric-learn embed --output-dir`, which resumes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metric_learn_client.errors import EndpointError
from metric_learn_client.printable import escaped
from metric_learn_client.retrieval.embedding_set import EmbeddingSet, Identity
from metric_learn_client.retrieval.protocol import ProtocolError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
IMAGES_AT_ONCE = 256  # encoded images in memory

Labelled = tuple[bytes, str]  # path as the file system has it, label


def read_labelled(source: Path) -> list[Labelled]:
    """(path, label) of each image: of a folder of class folders, or of lines `path label`, relative to their file.

    Raises ProtocolError where there are none or a line has no label.
    """
    if source.is_dir():
        return _of_folder(source)
    if not source.is_file():
        raise ProtocolError(f"{source}: no such file or directory")
    rows: list[Labelled] = []
    for number, line in enumerate(source.read_bytes().splitlines(), start=1):
        parts = line.strip().rsplit(None, 1)
        if not parts or (number == 1 and line.split() == [b"image_id", b"class_id", b"super_class_id", b"path"]):
            continue
        if len(parts) != 2:
            raise ProtocolError(f"{source}: line {number} is not `path label`")
        if len(line.split()) == 4 and all(part.isdigit() for part in line.split()[:3]):  # a row of Ebay_test.txt
            parts = [line.split()[3], line.split()[1]]
        rows.append((os.path.join(os.fsencode(source.parent), parts[0]), parts[1].decode("utf-8", "backslashreplace")))
    if not rows:
        raise ProtocolError(f"{source} names no image")
    return rows


def _of_folder(source: Path) -> list[Labelled]:
    rows: list[Labelled] = []
    for folder, folders, names in os.walk(os.fsencode(source)):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].decode("ascii", "replace").lower() in SUFFIXES:
                label = os.path.basename(folder).decode("utf-8", "backslashreplace")
                rows.append((os.path.join(folder, name), label))
    if not rows:
        raise ProtocolError(f"{source} has no image ({', '.join(sorted(SUFFIXES))}) in it")
    return rows


def embed_labelled(client: Any, rows: list[Labelled], source: str) -> tuple[EmbeddingSet, list[str]]:
    """Embeds the images in order; those that fail are left out and counted. client: EmbeddingClient.

    Raises EndpointError, and ProtocolError where every image failed.
    """
    embeddings, kept, fingerprint, version = [], [], None, None
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        part = rows[start : start + IMAGES_AT_ONCE]
        result = client.embed([os.fsdecode(path) for path, _ in part], on_error="return")
        fingerprint, version = result.fingerprint or fingerprint, result.version or version
        embeddings.append(result.embeddings[result.ok])
        kept += (start + np.flatnonzero(result.ok)).tolist()
    if not kept:
        raise ProtocolError(f"none of the {len(rows):,} images of {source} could be embedded")
    paths = [escaped(rows[n][0]) for n in kept]
    identity = _identity(client, fingerprint, version)
    made = EmbeddingSet(
        source, np.concatenate(embeddings), pa.table({"image_path": paths}), identity, len(rows) - len(kept)
    )
    return made, [rows[n][1] for n in kept]


def _identity(client: Any, fingerprint: Any, version: Any) -> Identity:
    try:
        info = client.model()
    except EndpointError:
        return Identity(fingerprint, None, version, None)
    return Identity(fingerprint or info.fingerprint, info.weights, info.version, info.name)
