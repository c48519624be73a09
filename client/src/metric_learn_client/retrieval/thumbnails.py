"""Small pictures as data URIs, so that a page needs nothing but itself. A picture that cannot be read has none."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

SIDE_PX = 160
MOST_BYTES = 32 * 1024 * 1024
MOST_PX = 50_000_000


@dataclass(frozen=True)
class Pictures:
    """Finds images by the path that a set has for them; root: where relative paths begin."""

    root: Optional[Path] = None

    def thumbnail(self, path: str) -> Optional[str]:
        """A JPEG data URI, upright as its EXIF data says, at most 160 px a side; None where there is no picture."""
        from PIL import Image, ImageOps

        try:
            data = self._read(path)
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MOST_PX:
                    return None
                image.draft("RGB", (2 * SIDE_PX, 2 * SIDE_PX))
                upright = ImageOps.exif_transpose(image).convert("RGB")
                upright.thumbnail((SIDE_PX, SIDE_PX))
                made = io.BytesIO()
                upright.save(made, "JPEG", quality=80)
        except Exception:  # a picture of any kind can be broken in any way, and the page is not about that
            return None
        return "data:image/jpeg;base64," + base64.b64encode(made.getvalue()).decode()

    def _read(self, path: str) -> bytes:
        file = Path(path) if self.root is None else self.root / path
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError("too large")
        return data
