"""Small pictures as data URIs, so that a page needs nothing but itself. A picture that cannot be read has none."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Optional

from metric_learn_client.contract import DEFAULT_MAX_IMAGE_BYTES, DEFAULT_MAX_IMAGE_PX
from metric_learn_client.inputs import read_image
from metric_learn_client.printable import printable, unescaped

SIDE_PX = 160


class Pictures:
    """Finds images by the path that a set has for them, and remembers those that it did not find.

    root: where relative paths begin; without it, the working directory. Where a path begins with the root's own name,
    it is looked for beside the root, too: `embed photos` writes photos/a.jpg, and people then say --image-root photos.
    """

    def __init__(self, root: Optional[Path] = None) -> None:
        self._root = root
        self._shown: set[str] = set()
        self._missing: dict[str, str] = {}  # path -> why

    def thumbnail(self, path: str) -> Optional[str]:
        """A JPEG data URI, upright as its EXIF data says, at most 160 px a side; None where there is no picture."""
        from PIL import Image, ImageOps

        try:
            data = self._read(path)
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > DEFAULT_MAX_IMAGE_PX:
                    raise ValueError("more pixels than are shown")
                image.draft("RGB", (2 * SIDE_PX, 2 * SIDE_PX))
                upright = ImageOps.exif_transpose(image).convert("RGB")
                upright.thumbnail((SIDE_PX, SIDE_PX))
                made = io.BytesIO()
                upright.save(made, "JPEG", quality=80)
        except Exception as error:  # a picture of any kind can be broken in any way, and the page is not about that
            self._missing[path] = str(error)
            return None
        self._shown.add(path)
        return "data:image/jpeg;base64," + base64.b64encode(made.getvalue()).decode()

    def missing(self) -> Optional[str]:
        """How many pictures a page lacks, with one example and what to do; None where it has all."""
        if not self._missing:
            return None
        path, reason = next(iter(self._missing.items()))
        count, asked = len(self._missing), len(self._missing) + len(self._shown)
        return (
            f"{count} of {asked} pictures could not be shown, as {printable(path)} ({printable(reason)}): "
            "--image-root says where relative paths begin"
        )

    def _read(self, path: str) -> bytes:
        name = Path(os.fsdecode(unescaped(path)))
        places = [name if self._root is None else self._root / name]
        if self._root is not None and name.parts[:1] == (self._root.resolve().name,):
            places.append(self._root.resolve().parent / name)
        there = next((place for place in places if place.is_file()), places[0])
        return read_image(there, DEFAULT_MAX_IMAGE_BYTES)
