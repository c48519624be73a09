"""What is a query, what is in the gallery, and what is the same class: the protocol, named with every number.

Stanford Online Products (Oh Song et al., CVPR 2016) is tested with query = gallery and self excluded. The model zoo
makes three lists of Ebay_test.txt: all rows, the first 30,003, and the first 1,048 (research/cv/metric_learn, README).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client.errors import MetricLearnError
from metric_learn_client.evaluation.embedding_set import EmbeddingSet
from metric_learn_client.image_names import SOP_HEADER

SOP_LISTS = {"sop-full": (60_502, 11_316), "sop-half": (30_003, 5_184), "sop-tiny": (1_048, 160)}  # images, classes
LABEL_COLUMNS = ("label", "class_id", "class")
_MOST_CHARACTERS = 4096  # of a line; /dev/zero has no end
PUBLISHED_RECALL_AT_1 = 0.739  # Ascend 910, list sop-half; equals configs/model.yaml
# The published figure has three digits, was taken over a shuffled 30,000 of the 30,003 images (incomplete batches were
# dropped), and on another device: half a point covers these, and a wrong channel order or resize costs more.
PUBLISHED_TOLERANCE = 0.005


class ProtocolError(MetricLearnError):
    """The set does not fit the protocol; the message says what is missing."""


@dataclass(frozen=True)
class Protocol:
    """name: for machines; sentence: for people."""

    name: str
    sentence: str


SELF = Protocol("self-excluded", "query = gallery, each query left out of its own ranking")
SPLIT = Protocol("query-gallery", "queries ranked against a gallery of other images")


def sop_protocol(name: str) -> Protocol:
    images, classes = SOP_LISTS[name]
    which = {"sop-full": "the full test list", "sop-half": "the model zoo's half list", "sop-tiny": "its tiny list"}
    return Protocol(
        name,
        f"Stanford Online Products, {which[name]}: {images:,} images of {classes:,} classes, query = gallery, "
        "each query left out of its own ranking",
    )


def read_sop_list(path: Path, name: str) -> list[tuple[str, int]]:
    """(path, class_id) of each row of the list `name`, made from Ebay_test.txt. Raises ProtocolError."""
    images, classes = SOP_LISTS[name]
    rows: list[tuple[str, int]] = []
    with path.open(encoding="utf-8") as file:
        header = file.readline(_MOST_CHARACTERS).split()
        if header != list(SOP_HEADER):
            raise ProtocolError(f"{path} does not begin with the header of Ebay_test.txt: {' '.join(header)[:80]!r}")
        while line := file.readline(_MOST_CHARACTERS):
            parts = line.split()
            if not parts:
                continue
            if len(parts) != 4 or not parts[1].isdigit():
                raise ProtocolError(f"{path}: row {len(rows) + 1} is not of four columns: {line.strip()[:80]!r}")
            rows.append((parts[3], int(parts[1])))
            if len(rows) == images and name != "sop-full":
                break
    found = len({label for _, label in rows})
    if (len(rows), found) != (images, classes):
        raise ProtocolError(
            f"{path} gives {len(rows):,} images of {found:,} classes; {name} is {images:,} of {classes:,}. "
            "Is it the Ebay_test.txt of the data set?"
        )
    return rows


def select_sop(embeddings: EmbeddingSet, rows: Sequence[tuple[str, int]]) -> tuple[npt.NDArray[np.int64], list[int]]:
    """(rows of the set, labels) in the list's order; images are matched by folder and file name.

    Raises ProtocolError where an image has no embedding: the number would not be the protocol's.
    """
    place = {_key(path): row for row, path in enumerate(embeddings.paths)}
    missing = [path for path, _ in rows if _key(path) not in place]
    if missing:
        raise ProtocolError(
            f"{len(missing):,} of the list's {len(rows):,} images have no embedding; first {missing[0]}"
        )
    return np.array([place[_key(path)] for path, _ in rows], np.int64), [label for _, label in rows]


def _key(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])


def labels_of(embeddings: EmbeddingSet, column: Optional[str], from_folder: bool) -> list[Any]:
    """One label per row: of a column, or the name of the image's folder. Raises ProtocolError."""
    names = [name for name in embeddings.table.column_names if name != "image_path"]
    if from_folder:
        folders = [path.replace("\\", "/").split("/")[-2:-1] for path in embeddings.paths]
        return [folder[0] if folder else "" for folder in folders]
    chosen = column or next((name for name in LABEL_COLUMNS if name in names), None)
    if chosen is None or chosen not in names:
        wanted = f"column {column!r}" if column else f"column of labels ({', '.join(LABEL_COLUMNS)})"
        raise ProtocolError(
            f"{embeddings.source} has no {wanted}; it has {', '.join(names) or 'none'}: "
            "choose one with --label-column, or --label-from-folder"
        )
    labels: list[Any] = embeddings.table.column(chosen).to_pylist()
    empty = sum(label is None for label in labels)
    if empty:
        raise ProtocolError(f"{embeddings.source}: {empty:,} rows have no value in {chosen!r}")
    return labels
