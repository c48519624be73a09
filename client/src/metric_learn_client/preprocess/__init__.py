"""Encoded image -> model input. Pure: no I/O, no state, no import of MindSpore.

Source of every step and number: MindSpore model zoo, research/cv/metric_learn (branch r1.5), src/utility.py and
src/dataset.py. The steps, in this order:

1. decode as OpenCV's imread does: 8-bit BGR, upright, alpha dropped;
2. resize so that the short side is 224 px, OpenCV INTER_LANCZOS4 (eight taps, no antialiasing);
3. resize to 224 x 224, OpenCV INTER_LINEAR (aspect not kept, no crop).

An image is untrusted. Its header is read here (header, jpeg, png, webp, bmp), within limits, and a decoder gets what
was checked and nothing else: the still picture, without animation and metadata. The same bytes give the same pixels,
under every OpenCV; what is damaged is refused, also where a decoder would return what it could read.

Scaling to 0..1, mean and deviation are inside the exported graph (export/network.py). Training applied them, given
in RGB order, to channels in BGR order; so does the graph. Swapping channels here would change every embedding.
"""

from __future__ import annotations

from typing import Union

import cv2
import numpy as np

from metric_learn_client.contract import PREPROCESSING_ID
from metric_learn_client.image_names import IMAGE_FORMATS, image_formats
from metric_learn_client.preprocess import bmp, jpeg, png, webp
from metric_learn_client.preprocess.header import SIDE_PX, Buffer, ImageHeader, Pixels, short_side_size
from metric_learn_client.preprocess.kinds import format_of, name_of
from metric_learn_client.preprocess.limits import DecodeLimits, ImageError, damaged, too_large
from metric_learn_client.preprocess.orientation import orientation, upright
from metric_learn_client.preprocess.resize_kernel import load_kernel

__all__ = ["KERNEL", "PREPROCESSING_ID", "SIDE_PX", "DecodeLimits", "ImageError", "decode", "preprocess", "resize"]


def preprocess(image: Union[bytes, Pixels], limits: DecodeLimits = DecodeLimits()) -> Pixels:
    """One encoded image -> uint8 [224, 224, 3], channels in BGR order, C-contiguous.

    image: the file's bytes, or the same as a 1-d uint8 array (never copied as a whole). Raises ImageError.
    """
    try:
        return resize(decode(image, limits))
    except MemoryError:
        raise too_large("not enough memory for it") from None


def decode(image: Union[bytes, Pixels], limits: DecodeLimits = DecodeLimits()) -> Pixels:
    """One encoded image -> uint8 [height, width, 3] in BGR order, upright, C-contiguous. Raises ImageError."""
    encoded = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else np.ascontiguousarray(image)
    if encoded.size == 0:
        raise ImageError("E_EMPTY", "the image has no bytes")
    if encoded.size > limits.max_image_bytes:
        raise too_large(f"{encoded.size} bytes; the limit is {limits.max_image_bytes}")
    data = encoded.data
    kind = format_of(data)
    if kind is None:
        raise ImageError("E_UNSUPPORTED", f"{name_of(data)}; {image_formats('and')} are read")
    try:
        header, pixels = _decoded(kind, data, limits)
        return upright(pixels, orientation(data, header))
    except MemoryError:
        raise too_large("not enough memory for it") from None


def _decoded(kind: str, data: Buffer, limits: DecodeLimits) -> tuple[ImageHeader, Pixels]:
    """The header, and the pixels as stored."""
    if kind == "jpeg":
        header, scans = jpeg.read_header(data, limits)
        return header, jpeg.decode(data, scans)
    if kind == "png":
        header, chunks = png.read_header(data, limits)
        return header, _decode_with_opencv(png.still(data, chunks), header)
    if kind == "webp":
        header, picture = webp.read_header(data, limits)
        return header, _decode_with_opencv(webp.still(data, picture), header)
    header = bmp.read_header(data, limits)
    return header, _decode_with_opencv(data, header)


def _decode_with_opencv(still: Buffer, header: ImageHeader) -> Pixels:
    """The pixels as stored: whatever the file says of orientation, OpenCV leaves it alone."""
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(still, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        pixels = None
    if pixels is None or pixels.shape != (header.height_px, header.width_px, 3):
        raise damaged(f"the {IMAGE_FORMATS[header.format]} is damaged or cut off")
    return np.asarray(pixels, np.uint8)


def resize(pixels: Pixels) -> Pixels:
    """uint8 [height, width, 3] -> uint8 [224, 224, 3] by the two resizes above. The caller bounds the size."""
    height, width = pixels.shape[:2]
    if (height, width) == (SIDE_PX, SIDE_PX):
        return np.ascontiguousarray(pixels)
    return _resize(pixels, short_side_size(width, height))


def _resize_with_opencv(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    short = cv2.resize(pixels, size, interpolation=cv2.INTER_LANCZOS4)
    return np.ascontiguousarray(cv2.resize(short, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR), np.uint8)


_kernel = load_kernel(_resize_with_opencv)
_resize = _kernel or _resize_with_opencv

# Which of the two resizes: "compiled" (_resize.c) or "opencv", slower with the same pixels.
KERNEL = "compiled" if _kernel else "opencv"
