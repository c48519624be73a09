"""Images with their classes, and their embeddings by an endpoint: an evaluation without a job before it.

For sets that fit into one sitting; a large one is embedded by `metric-learn embed --output-dir`, which resumes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metric_learn_client.errors import EndpointError
from metric_learn_client.evaluation.embedding_set import EmbeddingSet, Identity
from metric_learn_client.evaluation.protocol import LABEL_COLUMNS, ProtocolError
from metric_learn_client.image_names import IMAGE_SUFFIXES, is_image_name
from metric_learn_client.jobs.errors import InputError
from metric_learn_client.jobs.inputs.lists import ListInput
from metric_learn_client.jobs.inputs.skipped import HIDDEN, hidden
from metric_learn_client.jobs.options import InputSpec
from metric_learn_client.printable import escaped

_IMAGES_AT_ONCE = 256  # encoded images in memory

_SOP_ROW = re.compile(r"\d+\s+\d+\s+\d+\s+\S.*")

Labelled = tuple[bytes, str]  # path as the file system has it, label


def read_labelled(source: Path) -> list[Labelled]:
    """(path, label) of each image: of a folder of class folders, or of a list as jobs read it, with a label in it:
    lines `path label`, Ebay_test.txt, or a CSV with a column of labels; paths relative to the list.

    Raises ProtocolError where there are none or a line has no label.
    """
    if source.is_dir():
        return _of_folder(source)
    if not source.is_file():
        raise ProtocolError(f"{source}: no such file or directory")
    try:
        listed = _list(source, "list")
        if not listed.columns.names:  # no label that is plain to see: rows of Ebay_test.txt without its first line, or
            listed = _list(source, "sop" if _is_sop(listed) else "labels")  # names without a suffix
        column = next((name for name in LABEL_COLUMNS if name in listed.columns.names), None)
        if column is None:
            raise ProtocolError(f"{source} has no column of labels ({', '.join(LABEL_COLUMNS)})")
        wanted = ("image_path", "plan:raw", column)
        rows = [
            (os.path.join(os.fsencode(source.parent), path.encode() if raw is None else raw), str(label))
            for batch in listed.batches()
            for path, raw, label in zip(*(batch.column(name).to_pylist() for name in wanted))
        ]
    except InputError as error:
        raise ProtocolError(str(error)) from error
    if not rows:
        raise ProtocolError(f"{source} names no image")
    return rows


def _list(source: Path, form: str) -> ListInput:
    return ListInput([str(source)], InputSpec((str(source),)), form)


def _is_sop(listed: ListInput) -> bool:
    lines: list[str] = next((batch.column(0).to_pylist() for batch in listed.batches()), [])
    return bool(lines) and all(_SOP_ROW.fullmatch(line) for line in lines)


def _of_folder(source: Path) -> list[Labelled]:
    rows: list[Labelled] = []
    for folder, folders, names in os.walk(os.fsencode(source)):
        folders[:] = sorted(name for name in folders if hidden(name, HIDDEN) is None)
        for name in sorted(names):
            if is_image_name(name) and hidden(name, HIDDEN) is None:
                rows.append((os.path.join(folder, name), escaped(os.path.basename(folder))))
    if not rows:
        raise ProtocolError(f"{source} has no image ({', '.join(IMAGE_SUFFIXES)}) in it")
    return rows


def embed_labelled(client: Any, rows: list[Labelled], source: str) -> tuple[EmbeddingSet, list[str]]:
    """Embeds the images in order; those that fail are left out and counted. client: EmbeddingClient.

    Raises EndpointError, and ProtocolError where every image failed.
    """
    embeddings, kept, fingerprint, version = [], [], None, None
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        part = rows[start : start + _IMAGES_AT_ONCE]
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
