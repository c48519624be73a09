"""Which formats and names mean a picture, and which columns name one: for jobs, evaluation and search alike. Pure."""

from __future__ import annotations

import re
from typing import Optional

from metric_learn_client.printable import escaped

# What the servable decodes: each format with the name that people read, and the suffixes of its files.
IMAGE_FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP", "bmp": "BMP"}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# The column of paths of a table, CSV or parquet, is the first of these that it has.
PATH_COLUMNS = (
    "image_path",
    "path",
    "filepath",
    "file_path",
    "filename",
    "file_name",
    "file",
    "image",
    "url",
    "key",
)

# Stanford Online Products: Ebay_train.txt, Ebay_test.txt and Ebay_info.txt begin with this line.
SOP_HEADER = ("image_id", "class_id", "super_class_id", "path")

_SUFFIX = re.compile(rb"\.(?:" + b"|".join(suffix[1:].encode() for suffix in IMAGE_SUFFIXES) + rb")\Z", re.IGNORECASE)


def image_formats(word: str) -> str:
    """All of them, as a sentence has them: with "or", "JPEG, PNG, WebP or BMP"."""
    *first, last = IMAGE_FORMATS.values()
    return f"{', '.join(first)} {word} {last}"


def is_image_name(name: bytes) -> bool:
    return _SUFFIX.search(name) is not None


def path_column(names: list[str]) -> Optional[str]:
    """The column of paths among `names`, None where none has a name that says so."""
    return next((name for name in PATH_COLUMNS if name in names), None)


def as_text(name: bytes) -> tuple[str, Optional[bytes]]:
    """A file's name as text, and the name itself where text cannot hold it."""
    try:
        if b"\\" not in name:  # most names, in a third of the time
            return name.decode(), None
    except UnicodeDecodeError:
        pass
    text = escaped(name)
    return text, None if text.encode() == name else name
