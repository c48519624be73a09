"""Images -> request, reply -> rows and failures. Pure: no sockets, no clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

import numpy as np
import numpy.typing as npt

from metric_learn_client import wire
from metric_learn_client.errors import ImageFailure, OverloadedError, RejectedError, ReplyError, UnreachableError

Row = npt.NDArray[np.float32]
# MindSpore Serving puts its own words before a stage's error; the code and what follows are the servable's.
_IMAGE_ERROR = re.compile(r"\b(E_[A-Z_]+): (.*)", re.DOTALL)


def encode_request(images: Sequence[bytes]) -> wire.PredictRequest:
    """Encoded image files -> one Predict request for method `embed`, filled in place."""
    request = wire.PredictRequest()
    request.servable_spec.name = wire.SERVABLE_NAME
    request.servable_spec.method_name = wire.METHOD_EMBED
    for image in images:
        tensor = request.instances.add().items[wire.ITEM_IMAGE]
        tensor.dtype = wire.DataType.MS_BYTES
        tensor.shape.dims.append(1)
        tensor.bytes_val.append(image)
    return request


def decode_reply(
    reply: wire.PredictReply, count: int, first_index: int
) -> list[tuple[Optional[Row], Optional[ImageFailure]]]:
    """One (row, failure) per image, in order; exactly one of the two is None.

    Raises ReplyError where the reply does not fit, OverloadedError, UnreachableError or RejectedError where its
    one error stands for the whole call.
    """
    errors = list(reply.error_msg)
    if len(errors) == 1 and not reply.instances:
        return [(None, _failure(errors[0], first_index + index)) for index in range(count)]
    if len(reply.instances) != count or len(errors) not in (0, count):
        raise ReplyError(f"the reply has {len(reply.instances)} instances and {len(errors)} errors for {count} images")
    decoded: list[tuple[Optional[Row], Optional[ImageFailure]]] = []
    for index, instance in enumerate(reply.instances):
        if errors and errors[index].error_code:
            decoded.append((None, _failure(errors[index], first_index + index)))
            continue
        data = instance.items[wire.ITEM_EMBEDDING].data if wire.ITEM_EMBEDDING in instance.items else b""
        if len(data) != 4 * wire.EMBEDDING_DIM:
            raise ReplyError(f"image {first_index + index}: the embedding has {len(data)} bytes")
        decoded.append((np.frombuffer(data, "<f4"), None))
    return decoded


def _failure(error: wire.ErrorMsg, index: int) -> ImageFailure:
    text = error.error_msg.decode("utf-8", "replace")
    found = _IMAGE_ERROR.search(text)
    if found:
        return ImageFailure(index, found.group(1), found.group(2).strip())
    if error.error_code == wire.ServingCode.FAILED and "exceeds the limit" in text:
        raise OverloadedError(text, "RESOURCE_EXHAUSTED")
    if error.error_code in (wire.ServingCode.WORKER_UNAVAILABLE, wire.ServingCode.SERVABLE_UNAVAILABLE):
        raise UnreachableError(text, "UNAVAILABLE")
    if error.error_code == wire.ServingCode.INVALID_INPUTS:
        raise RejectedError(text, "INVALID_ARGUMENT")
    return ImageFailure(index, "E_INTERNAL", text)
