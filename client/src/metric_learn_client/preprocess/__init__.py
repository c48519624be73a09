"""Encoded image -> model input. Pure: no I/O, no state, no import of MindSpore.

Source of every step and number: MindSpore model zoo, research/cv/metric_learn (branch r1.5), src/utility.py and
src/dataset.py. The steps, in this order:

1. decode as OpenCV's imread does: 8-bit BGR, EXIF rotation applied, alpha dropped;
2. resize so that the short side is 224 px, OpenCV INTER_LANCZOS4 (eight taps, no antialiasing);
3. resize to 224 x 224, OpenCV INTER_LINEAR (aspect not kept, no crop).

Scaling to 0..1, mean and deviation are inside the exported graph (export/network.py). Training applied them, given
in RGB order, to channels in BGR order; so does the graph. Swapping channels here would change every embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import cv2
import numpy as np
import numpy.typing as npt

from metric_learn_client.preprocess.header import jpeg_is_whole, read_header
from metric_learn_client.preprocess.resize_kernel import load_kernel

__all__ = ["KERNEL", "PREPROCESSING_ID", "SIDE_PX", "DecodeLimits", "ImageError", "decode", "preprocess", "resize"]

SIDE_PX = 224  # src/utility.py: resize_short(img, 224); src/dataset.py: Resize((224, 224))

# Names this module's arithmetic. Part of the fingerprint: any change to the pixels takes a new id.
PREPROCESSING_ID = "bgr-exif/short224-lanczos4/224x224-linear/opencv-1"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DecodeLimits:
    """What one encoded image may cost. All are checked before a pixel is decoded."""

    max_image_bytes: int = 32 * 1024 * 1024
    max_image_px: int = 50_000_000  # width x height that the header claims
    # The first resize enlarges thin pictures: 65535 x 1 would become 14.7 million x 224. This bounds its output;
    # 16 million pixels are 48 MB and an aspect of 318 to 1.
    max_resized_px: int = 16_000_000


class ImageError(ValueError):
    """One image cannot be embedded. `str()` is "CODE: sentence" and holds nothing of the host it ran on.

    code: E_EMPTY (no bytes), E_TOO_LARGE (bytes or pixels over a limit), E_UNSUPPORTED (not JPEG, PNG, WebP or
    BMP), E_DECODE (broken or cut off).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def preprocess(image: Union[bytes, Pixels], limits: DecodeLimits = DecodeLimits()) -> Pixels:
    """One encoded image -> uint8 [224, 224, 3], channels in BGR order, C-contiguous.

    image: the file's bytes, or the same as a 1-d uint8 array (never copied as a whole). Raises ImageError.
    """
    return resize(decode(image, limits))


def decode(image: Union[bytes, Pixels], limits: DecodeLimits = DecodeLimits()) -> Pixels:
    """One encoded image -> uint8 [height, width, 3] in BGR order, upright as its EXIF data says.

    A cut-off file is refused (E_DECODE) also where OpenCV would return what it could read, because the missing
    part comes back grey and the embedding would be wrong without a sign of it. Raises ImageError.
    """
    encoded = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else np.ascontiguousarray(image)
    if encoded.size == 0:
        raise ImageError("E_EMPTY", "the image has no bytes")
    if encoded.size > limits.max_image_bytes:
        raise ImageError("E_TOO_LARGE", f"{encoded.size} bytes; the limit is {limits.max_image_bytes}")
    data = encoded.data
    try:
        header = read_header(data)
    except ValueError as error:
        raise ImageError("E_DECODE", str(error)) from None
    if header is None:
        raise ImageError("E_UNSUPPORTED", "not a JPEG, PNG, WebP or BMP file")
    _check_size(header.width_px, header.height_px, limits)
    if header.format == "jpeg" and not jpeg_is_whole(data):
        raise ImageError("E_DECODE", "the JPEG is cut off: it has no end-of-image marker")
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError("E_DECODE", f"the {header.format.upper()} is broken or cut off")
    return np.asarray(pixels, np.uint8)


def resize(pixels: Pixels) -> Pixels:
    """uint8 [height, width, 3] -> uint8 [224, 224, 3] by the two resizes above. The caller bounds the size."""
    height, width = pixels.shape[:2]
    if (height, width) == (SIDE_PX, SIDE_PX):
        return np.ascontiguousarray(pixels)
    return _resize(pixels, _short_side_size(width, height))


def _resize_with_opencv(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    short = cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)
    return np.ascontiguousarray(cv2.resize(short, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR), np.uint8)


def _short_side_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) after the first resize.

    The factor is rounded to a double before the product is, as in the zoo's resize_short: with 192 x 213 pixels
    that gives 249, where round(213 * 224 / 192) gives 248.
    """
    factor = float(SIDE_PX) / min(width, height)
    return int(round(width * factor)), int(round(height * factor))


def _check_size(width: int, height: int, limits: DecodeLimits) -> None:
    if width * height > limits.max_image_px:
        raise ImageError(
            "E_TOO_LARGE", f"{width} x {height} is {width * height} pixels; the limit is {limits.max_image_px}"
        )
    short_width, short_height = _short_side_size(width, height)
    if short_width * short_height > limits.max_resized_px:
        raise ImageError(
            "E_TOO_LARGE",
            f"{width} x {height} is too thin: with its short side at {SIDE_PX} px it has "
            f"{short_width * short_height} pixels; the limit is {limits.max_resized_px}",
        )


_kernel = load_kernel(_resize_with_opencv, _short_side_size)
_resize = _kernel or _resize_with_opencv

# Which of the two resizes: "compiled" (_resize.c) or "opencv", slower with the same pixels.
KERNEL = "compiled" if _kernel else "opencv"
