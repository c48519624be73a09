"""resize="server-exact": the servable's own preprocessing, run here, so that 150 kB of pixels travel, not a photo.

One implementation for both sides (`preprocess`, which needs the extra [preprocess]), hence the same embedding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Callable, Optional

from metric_learn_client import wire
from metric_learn_client._client.core.batches import Batch
from metric_learn_client._client.core.identity import ModelInfo, ModelLimits
from metric_learn_client.errors import IdentityError, ImageFailure
from metric_learn_client.wire.instances import INSTANCE_OVERHEAD_BYTES

if TYPE_CHECKING:  # OpenCV is an extra
    from metric_learn_client.preprocess.header import Pixels

PIXELS_BYTES = wire.PIXELS_SHAPE[0] * wire.PIXELS_SHAPE[1] * wire.PIXELS_SHAPE[2]


def max_count(limits: ModelLimits) -> int:
    """Pictures of pixels that fit one call."""
    return max(1, limits.max_request_bytes // (PIXELS_BYTES + INSTANCE_OVERHEAD_BYTES) - 1)


def check_possible(model: Optional[ModelInfo], sandbox: bool) -> None:
    """Raises ImportError without the extra [preprocess], IdentityError where the server preprocesses in another way,
    ValueError for a sandbox on a system that has none."""
    if sandbox and not sys.platform.startswith("linux"):
        raise ValueError("sandbox=True needs Linux; without it pictures are decoded in this process")
    try:
        from metric_learn_client.preprocess import PREPROCESSING_ID
    except ImportError as error:
        raise ImportError(
            "resize='server-exact' needs OpenCV and simplejpeg: pip install 'metric-learn-client[preprocess]'"
        ) from error
    if model is not None and model.preprocessing != PREPROCESSING_ID:
        raise IdentityError(
            f"the server preprocesses by {model.preprocessing!r}, this client by {PREPROCESSING_ID!r}:"
            " leave resize=None, or use the client of the server's release"
        )


def preprocessor(
    max_image_bytes: int, max_image_px: int, sandbox: bool
) -> Callable[[Sequence[bytes]], Iterable[Callable[[], Pixels]]]:
    """A function: encoded images -> for each, in order, a function that gives its pixels or raises ImageError.

    sandbox: in decoder processes, all images of a call at one time; else here, one after the other.
    """
    from metric_learn_client.preprocess import DecodeLimits, preprocess

    limits = DecodeLimits(max_image_bytes=max_image_bytes, max_image_px=max_image_px)
    if not sandbox:
        return lambda images: (partial(preprocess, image, limits) for image in images)
    from metric_learn_client.preprocess.sandbox.shared_pool import shared_pool

    return lambda images: [shared_pool(limits).submit(image).result for image in images]


def to_pixels(batch: Batch, limits: ModelLimits, sandbox: bool) -> Batch:
    """The batch with each encoded image replaced by its pixels; one that does not decode becomes a failure."""
    from metric_learn_client.preprocess import ImageError

    decode = preprocessor(limits.max_image_bytes, limits.max_image_px, sandbox)
    positions: list[int] = []
    pixels: list[bytes] = []
    failures = list(batch.failures)
    for position, result in zip(batch.positions, decode(batch.images)):
        try:
            pixels.append(result().tobytes())
            positions.append(position)
        except ImageError as error:
            failures.append(ImageFailure(position, error.code, error.message))
    return Batch(batch.start, batch.count, tuple(positions), tuple(pixels), tuple(failures))
