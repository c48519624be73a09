"""The benchmark's pictures: real photos at three sizes, as JPEG. The same bytes on every run of one OpenCV."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np

IMAGES = Path(__file__).resolve().parents[1] / "golden" / "images"
PHOTOS = ("astronaut_420_q90.jpg", "coffee_444_q95.jpg", "cat_progressive.jpg", "coffee_rgb.png")
# name -> (width, height); about what catalogue photos, web photos and cameras give
SIZES_PX = {"0.2 Mpx": (500, 400), "1 Mpx": (1154, 866), "12 Mpx": (4000, 3000)}
QUALITY = 90  # 4:2:0, OpenCV's default
PORTRAIT_EVERY = 3  # of three pictures one is upright


@cache
def pictures(size: str, count: int) -> tuple[bytes, ...]:
    """`count` different JPEGs of about `size`: the photos, shifted so that no two are equal."""
    width, height = SIZES_PX[size]
    sources = [cv2.imread(str(IMAGES / name), cv2.IMREAD_COLOR) for name in PHOTOS]
    made = []
    for index in range(count):
        photo = cv2.resize(sources[index % len(sources)], (width, height), interpolation=cv2.INTER_CUBIC)
        photo = np.roll(photo, index * 7, axis=1)
        if index % PORTRAIT_EVERY == 0:
            photo = np.ascontiguousarray(np.rot90(photo))
        made.append(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return tuple(made)


def digest(images: tuple[bytes, ...]) -> str:
    return hashlib.sha256(b"".join(images)).hexdigest()[:16]
