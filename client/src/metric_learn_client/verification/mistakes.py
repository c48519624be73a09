"""The known ways to get the pixels wrong, each as a function from an encoded image to wrong pixels. Pure.

Each is one decision that differs from `preprocess`: channel order, EXIF rotation, or the resize. A wrong servable
often makes several at once (a Pillow pipeline: RGB, no rotation, antialiased filter), so they can be put together.
Needs OpenCV (extra [preprocess]) and, for Pillow's filters, Pillow (extra [search]).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Callable

import cv2
import numpy as np

from metric_learn_client.preprocess import SIDE_PX, decode
from metric_learn_client.preprocess import resize as right_resize
from metric_learn_client.preprocess.header import Pixels

Resize = Callable[[Pixels], Pixels]
_SQUARE = (SIDE_PX, SIDE_PX)


@dataclass(frozen=True)
class Mistake:
    """name: for machines; sentence: for people."""

    name: str
    sentence: str
    pixels: Callable[[bytes], Pixels]


def _short_side(image: Pixels, side: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    factor = side / min(height, width)
    return max(side, round(width * factor)), max(side, round(height * factor))


def _direct(interpolation: int) -> Resize:
    return lambda image: np.asarray(cv2.resize(image, _SQUARE, interpolation=interpolation), np.uint8)


def _two_steps(interpolation: int) -> Resize:
    def resize(image: Pixels) -> Pixels:
        short = cv2.resize(image, _short_side(image, SIDE_PX), interpolation=interpolation)
        return np.asarray(cv2.resize(short, _SQUARE, interpolation=cv2.INTER_LINEAR), np.uint8)

    return resize


def _centre_crop(side: int, interpolation: int) -> Resize:
    def resize(image: Pixels) -> Pixels:
        short = np.asarray(cv2.resize(image, _short_side(image, side), interpolation=interpolation), np.uint8)
        top, left = (short.shape[0] - SIDE_PX) // 2, (short.shape[1] - SIDE_PX) // 2
        return short[top : top + SIDE_PX, left : left + SIDE_PX]

    return resize


def _pillow(filter_name: str, first_step_only: bool) -> Resize:
    def resize(image: Pixels) -> Pixels:
        from PIL import Image

        filtered = getattr(Image.Resampling, filter_name)
        size = _short_side(image, SIDE_PX) if first_step_only else _SQUARE
        made = np.asarray(Image.fromarray(image).resize(size, filtered), np.uint8)
        return np.asarray(cv2.resize(made, _SQUARE, interpolation=cv2.INTER_LINEAR), np.uint8)

    return resize


_RESIZES: dict[str, tuple[str, Resize]] = {
    "pillow-lanczos": ("Pillow's LANCZOS, which antialiases, in place of OpenCV's", _pillow("LANCZOS", True)),
    "pillow-bicubic": ("Pillow's BICUBIC in place of OpenCV's LANCZOS4", _pillow("BICUBIC", True)),
    "pillow-bilinear": ("Pillow's BILINEAR in place of OpenCV's LANCZOS4", _pillow("BILINEAR", True)),
    "pillow-direct-lanczos": ("one direct resize to 224 x 224 by Pillow's LANCZOS", _pillow("LANCZOS", False)),
    "pillow-direct-bicubic": ("one direct resize to 224 x 224 by Pillow's BICUBIC", _pillow("BICUBIC", False)),
    "pillow-direct-bilinear": ("one direct resize to 224 x 224 by Pillow's BILINEAR", _pillow("BILINEAR", False)),
    "one-bilinear-resize": ("one direct bilinear resize to 224 x 224", _direct(cv2.INTER_LINEAR)),
    "one-area-resize": ("one direct INTER_AREA resize to 224 x 224", _direct(cv2.INTER_AREA)),
    "one-lanczos4-resize": ("one direct LANCZOS4 resize to 224 x 224", _direct(cv2.INTER_LANCZOS4)),
    "bilinear-short-side": ("a bilinear first resize in place of LANCZOS4", _two_steps(cv2.INTER_LINEAR)),
    "cubic-short-side": ("a bicubic first resize in place of LANCZOS4", _two_steps(cv2.INTER_CUBIC)),
    "area-short-side": ("an INTER_AREA first resize in place of LANCZOS4", _two_steps(cv2.INTER_AREA)),
    "centre-crop": ("a centre crop in place of the second resize", _centre_crop(SIDE_PX, cv2.INTER_LANCZOS4)),
    "centre-crop-256": ("short side 256 and a centre crop of 224", _centre_crop(256, cv2.INTER_LINEAR)),
}
_RGB = ("rgb", "channels in RGB order; the model takes BGR")
_EXIF = ("exif-ignored", "EXIF rotation not applied")


def mistakes() -> list[Mistake]:
    """All of them: one alone first, then two and three at once."""
    found: list[tuple[int, Mistake]] = []
    for rgb, exif, name in itertools.product((False, True), (False, True), (None, *_RESIZES)):
        parts = [_RGB] if rgb else []
        parts += [_EXIF] if exif else []
        resize: Resize = right_resize
        if name is not None:
            sentence, resize = _RESIZES[name]
            parts.append((name, sentence))
        if parts:
            names, sentences = zip(*parts)
            mistake = Mistake("+".join(names), ", and ".join(sentences), _maker(rgb, exif, resize))
            found.append((len(parts), mistake))
    return [mistake for _, mistake in sorted(found, key=lambda each: each[0])]


def _maker(rgb: bool, exif: bool, resize: Resize) -> Callable[[bytes], Pixels]:
    def make(image: bytes) -> Pixels:
        pixels = resize(_as_stored(image) if exif else decode(image))
        return np.ascontiguousarray(pixels[:, :, ::-1] if rgb else pixels)

    return make


def _as_stored(image: bytes) -> Pixels:
    """Decoded without EXIF rotation."""
    decode(image)  # the same refusals
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(pixels, np.uint8)
