"""Whatever counts as an image -> encoded bytes. Reads files; nothing else here touches the world.

- str or os.PathLike: the path of a regular file; its bytes are sent as they are. A named pipe or a device is not
  opened for reading: who wants its bytes passes them, or a file object.
- bytes, bytearray, memoryview: an encoded file.
- a binary file object: what it reads from where it stands to its end.
- NumPy uint8 [height, width, 3]: pixels with channels in **BGR** order, as OpenCV has them (of RGB pixels pass
  `array[..., ::-1]`); [height, width] and [height, width, 1] are grey, a fourth channel (alpha) is dropped.
- PIL image: EXIF rotation applied, converted to RGB by Pillow, alpha dropped.
Pixels are sent losslessly (module `lossless`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, BinaryIO, Protocol, Union

import numpy as np
import numpy.typing as npt

from metric_learn_client import wire
from metric_learn_client._client.lossless import encode_lossless


class PillowImage(Protocol):
    """PIL.Image.Image, as far as it is needed here; Pillow itself is no dependency."""

    @property
    def mode(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def convert(self, mode: str) -> Any: ...


ImageInput = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryIO, npt.NDArray[np.uint8], PillowImage]
_DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class UnreadableError(Exception):
    """The image failed before it was sent; becomes an ImageFailure with this code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def check_images(images: Any) -> list[Any]:
    """The images of one call, in order. Raises TypeError or ValueError for what cannot be one, before any is sent."""
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(images, "read"):
        raise TypeError("embed takes a list of images; for one image write embed_one(image) or embed([image])")
    if isinstance(images, np.ndarray):
        raise TypeError("an array could be one image or many: write embed([array]) or embed(list(array))")
    if isinstance(images, (Set, Mapping)):
        raise TypeError(f"a {type(images).__name__} has no order that rows could follow: pass a list of images")
    if not isinstance(images, Iterable):
        raise TypeError(f"embed takes a list of images, not {type(images).__name__}")
    checked = list(images)
    for index, image in enumerate(checked):
        if type(image) is not bytes:  # the common case, and there is nothing to check
            check_image(image, index)
    return checked


def check_image(image: Any, index: int) -> None:
    """Raises TypeError or ValueError, with the index, for what is no image."""
    if isinstance(image, (bytes, str, bytearray, memoryview, os.PathLike)) or _is_pillow(image):
        if _is_pillow(image) and image.mode in _DEEP_MODES:
            raise ValueError(f"image {index}: PIL mode {image.mode} has more than 8 bits; convert it to RGB or L first")
        return
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"image {index}: an array of {image.dtype}; pixels are uint8, 0 to 255")
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or image.size == 0:
            raise ValueError(f"image {index}: an array of shape {image.shape}; pixels are [height, width, 3], BGR")
        return
    if not hasattr(image, "read"):
        raise TypeError(
            f"image {index} is {type(image).__name__}; an image is a path, bytes, a binary file object, a uint8 array"
            " or a PIL image"
        )


def check_pixels(pixels: Any) -> None:
    """For embed_pixels: uint8 [N, 224, 224, 3], or so many of [224, 224, 3]. Raises TypeError or ValueError."""
    if isinstance(pixels, np.ndarray) and (pixels.ndim != 4 or pixels.shape[1:] != wire.PIXELS_SHAPE):
        raise ValueError(f"pixels of shape {pixels.shape}; embed_pixels takes uint8 [N, 224, 224, 3] in BGR order")
    if not isinstance(pixels, (np.ndarray, Sequence)) or isinstance(pixels, (str, bytes)):
        raise TypeError(f"embed_pixels takes uint8 [N, 224, 224, 3] or a list of arrays, not {type(pixels).__name__}")
    for index, picture in enumerate(pixels):
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
            kind = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
            raise TypeError(f"pixels {index}: {kind}; embed_pixels takes uint8 arrays")
        if picture.shape != wire.PIXELS_SHAPE:
            raise ValueError(f"pixels {index}: shape {picture.shape}; embed_pixels takes [224, 224, 3] in BGR order")


def read_image(image: Any, max_bytes: int) -> bytes:
    """The bytes to send for a checked image. Raises UnreadableError; TypeError for a file object in text mode.

    Of a file no more than max_bytes + 1 are read: one that is longer, or endless, is E_TOO_LARGE.
    """
    if isinstance(image, bytes):
        content = image
    elif isinstance(image, (bytearray, memoryview)):
        content = bytes(image)
    elif isinstance(image, np.ndarray):
        content = encode_lossless(_as_bgr(image))
    elif isinstance(image, (str, os.PathLike)):
        content = _read_path(image, max_bytes)
    elif _is_pillow(image):
        content = encode_lossless(_pillow_pixels(image))
    else:
        content = _read_file(image, max_bytes)
    if len(content) > max_bytes:
        more = "more than " if len(content) == max_bytes + 1 else ""
        raise UnreadableError("E_TOO_LARGE", f"{more}{len(content) - bool(more)} bytes; the limit is {max_bytes}")
    return content


def _read_path(path: Union[str, os.PathLike[str]], max_bytes: int) -> bytes:
    try:
        # Non-blocking, because opening a named pipe for reading waits for a writer. Regular files do not care.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableError("E_READ", f"{os.fspath(path)}: it is not a regular file")
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableError("E_READ", f"{os.fspath(path)}: {reason or 'cannot be read'}") from error


def _read_file(file: Any, max_bytes: int) -> bytes:
    content = bytearray()
    while len(content) <= max_bytes:  # without a buffer a read gives what is there, not what was asked for
        try:
            piece = file.read(max_bytes + 1 - len(content))
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise UnreadableError("E_READ", str(error)) from error
        if piece is None:
            raise UnreadableError("E_READ", "the file object: it is non-blocking, and nothing is there now")
        if not isinstance(piece, bytes):
            raise TypeError(f"a file object must be opened in binary mode; this one gives {type(piece).__name__}")
        if not piece:
            break
        content += piece
    return bytes(content)


def _as_bgr(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[:, :, :3]


def _is_pillow(image: Any) -> bool:
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(image).__mro__)


def _pillow_pixels(image: Any) -> npt.NDArray[np.uint8]:
    from PIL import ImageOps

    try:
        upright = ImageOps.exif_transpose(image) or image
        return np.asarray(upright.convert("RGB"), np.uint8)[:, :, ::-1]
    except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes when asked for pixels
        raise UnreadableError("E_DECODE", f"Pillow: {error}") from error
