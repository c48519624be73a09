"""What one encoded image may cost, and what is raised where it cannot be embedded."""

from __future__ import annotations

from dataclasses import dataclass

from metric_learn_client.contract import DEFAULT_MAX_IMAGE_BYTES, DEFAULT_MAX_IMAGE_PX


@dataclass(frozen=True)
class DecodeLimits:
    """What one encoded image may cost. All are checked before a pixel is decoded.

    Every part of a file is counted, and the walk ends at its limit: that is what bounds the time it takes.
    """

    max_image_bytes: int = DEFAULT_MAX_IMAGE_BYTES
    max_image_px: int = DEFAULT_MAX_IMAGE_PX  # width x height that the header claims
    # The first resize enlarges thin pictures: 65535 x 1 would become 14.7 million x 224. This bounds its output;
    # 16 million pixels are 48 MB and an aspect of 318 to 1.
    max_resized_px: int = 16_000_000
    # Each scan of a progressive JPEG goes over the whole picture. libjpeg writes 6 for grey, 10 for colour and 18 for
    # CMYK, MozJPEG about as many.
    max_jpeg_scans: int = 64
    # 32 MB of segments of the largest size are 512: an ICC profile has at most 255, XMP and depth maps have many.
    max_jpeg_segments: int = 1024
    # 32 MB in libpng's pieces of 8 KB are 4096.
    max_png_chunks: int = 8192
    # A still has at most 7; an animation one for each frame.
    max_webp_chunks: int = 4096

    def announce(self, pixels: int) -> None:
        """Told how many pixels an image has that is within the limits, before they are decoded. A decoder process
        (decoder_process) bounds its time by that."""


class ImageError(ValueError):
    """One image cannot be embedded. `str()` is "CODE: sentence" and holds nothing of the host it ran on.

    code: E_EMPTY (no bytes), E_TOO_LARGE (over a limit, which the sentence names), E_UNSUPPORTED (sound, as far as was
    read, but of a kind that is not read, which the sentence names), E_DECODE (damaged or cut off). message: letters,
    digits and ` ,.;:_-` only, at most 160, so that every wire can carry it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def damaged(message: str) -> ImageError:
    return ImageError("E_DECODE", message)


def unsupported(kind: str) -> ImageError:
    """kind: what it is, with its article: "a 12-bit JPEG"."""
    return ImageError("E_UNSUPPORTED", f"{kind}, which is not read")


def too_large(message: str) -> ImageError:
    return ImageError("E_TOO_LARGE", message)
