"""A fresh MindSpore Serving proves itself before any caller meets it: the golden image, then every batch size.

The golden image must come back with the embedding that the trained network gave at export; one full run of every
batch size follows, because the Lite backend initialises lazily, at the first.
"""

from __future__ import annotations

from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt

from metric_learn_client import wire
from servable.backend.direct_calls import OPTIONS, image_request, pixels_request, predict_call, rows_of
from servable.exported_version import ExportedVersion
from servable.gateway.backends import Golden, WrongEmbedding


class Unanswered(Exception):
    """It does not answer, or with an error. Exit code 4."""


async def prove(
    target: str, version: ExportedVersion, golden: Golden, *, deadline_s: float, max_relative_distance: float
) -> None:
    """Returns when everything came back right. Raises WrongEmbedding, Unanswered; `deadline_s` is for each call."""
    name = wire.SERVABLE_NAME
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        call = predict_call(channel)
        await channel.channel_ready()
        request = image_request(golden.image, servable=name, method=wire.METHOD_EMBED)
        distance = golden.distance((await _rows(call, request, deadline_s))[0])
        if distance > max_relative_distance:
            raise WrongEmbedding(
                f"version {version.number}: the golden image came back {distance:.3g} away from its embedding "
                f"(limit {max_relative_distance:g}): this is not the exported network"
            )
        grey = np.full(wire.PIXELS_SHAPE, 128, np.uint8)
        for size in version.batch_sizes:
            request = pixels_request([grey] * size, servable=name, method=wire.METHOD_EMBED_PIXELS)
            rows = await _rows(call, request, deadline_s)
            if rows.shape != (size, version.embedding_dim) or not np.isfinite(rows).all():
                raise WrongEmbedding(f"version {version.number}: batch size {size} gave {rows.shape}")


async def occupy(target: str, count: int, *, deadline_s: float) -> None:
    """Pixels for `count` images in one call, so that every worker has something to do. Raises Unanswered."""
    grey = np.full(wire.PIXELS_SHAPE, 128, np.uint8)
    request = pixels_request([grey] * count, servable=wire.SERVABLE_NAME, method=wire.METHOD_EMBED_PIXELS)
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        await _rows(predict_call(channel), request, deadline_s)


async def _rows(call: Any, request: wire.PredictRequest, deadline_s: float) -> npt.NDArray[np.float32]:
    try:
        return rows_of(await call(request, timeout=deadline_s, wait_for_ready=True), wire.ITEM_EMBEDDING)
    except grpc.aio.AioRpcError as error:
        raise Unanswered(f"MindSpore Serving does not answer: {error.code().name}") from error
    except (RuntimeError, ValueError) as error:
        raise Unanswered(f"MindSpore Serving answers with an error: {error}") from error
