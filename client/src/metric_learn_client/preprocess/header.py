"""What an encoded image says of itself: format, size and where its EXIF data is, read without decoding a pixel.

Pure bytes in, facts out: the guard that runs before a decoder does. It allocates nothing in proportion to what a file
claims and looks at no more parts than DecodeLimits allows.
"""

from __future__ import annotations

from typing import NamedTuple, Union

import numpy as np
import numpy.typing as npt

from metric_learn_client.preprocess.limits import DecodeLimits, ImageError, damaged, too_large

Buffer = Union[bytes, memoryview]
Pixels = npt.NDArray[np.uint8]  # [height, width, 3], BGR

SIDE_PX = 224  # src/utility.py of the model zoo: resize_short(img, 224); src/dataset.py: Resize((224, 224))


class Span(NamedTuple):
    """Bytes start to stop of a file."""

    start: int
    stop: int


class ImageHeader(NamedTuple):
    """format: "jpeg", "png", "webp" or "bmp"; width_px and height_px as stored, before EXIF rotation.

    exif: where the TIFF block of the EXIF data is; empty without one.
    """

    format: str
    width_px: int
    height_px: int
    exif: Span = Span(0, 0)


def check_size(name: str, width: int, height: int, limits: DecodeLimits) -> None:
    """Raises ImageError where the header's size is no size, or over a limit."""
    if width < 1 or height < 1:
        raise damaged(f"the {name} header says {width} x {height} pixels")
    if width * height > limits.max_image_px:
        raise too_large(f"{width} x {height} is {width * height} pixels; the limit is {limits.max_image_px}")
    short_width, short_height = short_side_size(width, height)
    if short_width * short_height > limits.max_resized_px:
        raise too_large(
            f"{width} x {height} is too thin: with its short side at {SIDE_PX} px it has "
            f"{short_width * short_height} pixels; the limit is {limits.max_resized_px}"
        )
    limits.announce(width * height)


def short_side_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) after the first resize.

    The factor is rounded to a double before the product is, as in the zoo's resize_short: with 192 x 213 pixels
    that gives 249, where round(213 * 224 / 192) gives 248.
    """
    factor = float(SIDE_PX) / min(width, height)
    return round(width * factor), round(height * factor)


def without_exif_prefix(data: Buffer, block: Span) -> Span:
    """A block of EXIF data from its TIFF header on; some writers put JPEG's "Exif\\0\\0" before it in other formats."""
    return Span(block.start + 6, block.stop) if data[block.start : block.start + 5] == b"Exif\0" else block


def too_many(file: str, parts: str, limit: int) -> ImageError:
    return too_large(f"{file} has more {parts} than the limit of {limit}")
