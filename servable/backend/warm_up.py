"""A fresh MindSpore Serving proves itself before any caller meets it: the golden picture, then every batch size.

The golden picture must come back with the embedding that the trained network gave at export; one full run of every
batch size follows, because the Lite backend initialises lazily, at the first.
"""

from __future__ import annotations

import asyncio
from contextlib import closing

import numpy as np
import numpy.typing as npt

from metric_learn_client import wire
from servable.exported_version import ExportedVersion
from servable.gateway.backends import Golden, WrongEmbedding
from servable.gateway.call.reply import FailedImage, Fault, read_reply
from servable.gateway.channel import BackendError, Channel
from servable.gateway.queue.backend_request import LANES, batch_pieces

GREY = bytes([128]) * int(np.prod(wire.PIXELS_SHAPE))


class Unanswered(Exception):
    """It does not answer, or with an error. Exit code 4."""


async def prove(
    target: str, version: ExportedVersion, golden: Golden, *, deadline_s: float, max_relative_distance: float
) -> None:
    """Returns when everything came back right. Raises WrongEmbedding, Unanswered; `deadline_s` is for each call."""
    with closing(Channel(target)) as channel:
        await channel.opened()
        rows = await embed_batch(channel, wire.METHOD_EMBED, [golden.image], version.embedding_dim, deadline_s)
        distance = golden.distance(rows[0])
        if distance > max_relative_distance:
            raise WrongEmbedding(
                f"version {version.number}: the golden picture came back {distance:.3g} away from its embedding "
                f"(limit {max_relative_distance:g}): this is not the exported network"
            )
        for size in version.batch_sizes:
            rows = await embed_batch(
                channel, wire.METHOD_EMBED_PIXELS, [GREY] * size, version.embedding_dim, deadline_s
            )
            if not np.isfinite(rows).all():
                raise WrongEmbedding(f"version {version.number}: batch size {size} gave values that are not finite")


async def occupy(target: str, batches: int, size: int, dim: int, *, deadline_s: float) -> None:
    """So many batches at one time, so that every worker has something to do. Raises Unanswered."""
    with closing(Channel(target)) as channel:
        work = [embed_batch(channel, wire.METHOD_EMBED_PIXELS, [GREY] * size, dim, deadline_s) for _ in range(batches)]
        await asyncio.gather(*work)


async def embed_in_batches(
    channel: Channel, pixels: npt.NDArray[np.uint8], size: int, dim: int, deadline_s: float
) -> npt.NDArray[np.float32]:
    """uint8 [N, 224, 224, 3] -> float32 [N, dim], all of them in full batches of `size`. Raises Unanswered."""
    rows = []
    for start in range(0, len(pixels), size):
        batch = [pixels[place % len(pixels)].tobytes() for place in range(start, start + size)]
        rows.append(await embed_batch(channel, wire.METHOD_EMBED_PIXELS, batch, dim, deadline_s))
    return np.concatenate(rows)[: len(pixels)]


async def embed_batch(
    channel: Channel, method: str, images: list[bytes], dim: int, deadline_s: float
) -> npt.NDArray[np.float32]:
    """float32 [images, dim]. Raises Unanswered."""
    try:
        reply = await channel.predict(batch_pieces(method, LANES[0], images), deadline_s)
    except BackendError as error:
        raise Unanswered(f"MindSpore Serving does not answer: {error}") from error
    rows = []
    for outcome in read_reply(reply, len(images), dim):
        if isinstance(outcome, (FailedImage, Fault)):
            why = outcome.text if isinstance(outcome, FailedImage) else outcome.reason
            raise Unanswered(f"MindSpore Serving answers with an error: {why}")
        rows.append(np.frombuffer(outcome, "<f4"))
    return np.stack(rows)
