"""resize="server-exact": the servable's own preprocessing, run here, so that 150 kB of pixels travel, not a photo.

One implementation for both sides (`preprocess`, which needs the extra [preprocess]), hence the same embedding.
"""

from __future__ import annotations

from typing import Optional

from metric_learn_client import wire
from metric_learn_client.core.batching import Batch
from metric_learn_client.core.identity import ModelInfo, ModelLimits
from metric_learn_client.errors import IdentityError, ImageFailure
from metric_learn_client.wire.instances import INSTANCE_OVERHEAD_BYTES

PIXELS_BYTES = wire.PIXELS_SHAPE[0] * wire.PIXELS_SHAPE[1] * wire.PIXELS_SHAPE[2]


def max_count(limits: ModelLimits) -> int:
    """Pictures of pixels that fit one call."""
    return max(1, limits.max_request_bytes // (PIXELS_BYTES + INSTANCE_OVERHEAD_BYTES) - 1)


def check_possible(model: Optional[ModelInfo]) -> None:
    """Raises ImportError without the extra [preprocess], IdentityError where the server preprocesses in another way."""
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


def to_pixels(batch: Batch, limits: ModelLimits) -> Batch:
    """The batch with each encoded image replaced by its pixels; one that does not decode becomes a failure."""
    from metric_learn_client.preprocess import DecodeLimits, ImageError, preprocess

    decode_limits = DecodeLimits(max_image_bytes=limits.max_image_bytes, max_image_px=limits.max_image_px)
    positions: list[int] = []
    pixels: list[bytes] = []
    failures = list(batch.failures)
    for position, image in zip(batch.positions, batch.images):
        try:
            pixels.append(preprocess(image, decode_limits).tobytes())
            positions.append(position)
        except ImageError as error:
            failures.append(ImageFailure(position, error.code, error.message))
    return Batch(batch.start, batch.count, tuple(positions), tuple(pixels), tuple(failures))
