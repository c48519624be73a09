"""Images -> request body, reply body -> rows and failures. Pure: no sockets, no clock."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional, Union

import numpy as np

from metric_learn_client import wire
from metric_learn_client.errors import ImageFailure, ReplyError
from metric_learn_client.rows import Embeddings, unpack_rows
from metric_learn_client.steps import Failure

# Bytes of a request besides the images: at most so many for each, and for the rest.
INSTANCE_OVERHEAD_BYTES = 64
REQUEST_OVERHEAD_BYTES = 64

# MindSpore Serving puts its own words before a stage's error; the code and what follows are the servable's.
_IMAGE_ERROR = re.compile(r"\b(E_[A-Z_]+): (.*)", re.DOTALL)
# Errors of the whole call inside a reply, as the status that they amount to. MindSpore Serving 2.0.2: status.h gives
# the numbers, dispacther.cc and model_thread.cc the texts. Code 3, and 1 otherwise, are of the images concerned.
_QUEUE_FULL = "exceeds the limit"
_NO_SERVABLE = "servable is not available"


@dataclass(frozen=True)
class Decoded:
    """rows: float32 [count, 2048], NaN where failed; failures: index counts within the call."""

    rows: Embeddings
    failures: tuple[ImageFailure, ...]


def encode_request(method: str, images: Sequence[bytes]) -> bytes:
    """A serialised Predict request. images: encoded files for `embed`, 150,528 bytes of pixels for `embed_pixels`."""
    request = wire.PredictRequest()
    request.servable_spec.name = wire.SERVABLE_NAME
    request.servable_spec.method_name = method
    add = request.instances.add
    if method == wire.METHOD_EMBED:
        for image in images:
            tensor = add().items[wire.ITEM_IMAGE]
            tensor.dtype = wire.DataType.MS_BYTES
            tensor.shape.dims.append(1)
            tensor.bytes_val.append(image)
    else:
        for image in images:
            tensor = add().items[wire.ITEM_PIXELS]
            tensor.dtype = wire.DataType.MS_UINT8
            tensor.shape.dims.extend(wire.PIXELS_SHAPE)
            tensor.data = image
    return request.SerializeToString()


def decode_reply(body: bytes, count: int) -> Union[Decoded, Failure]:
    """What a reply to `count` images holds; Failure where its error stands for the whole call.

    Raises ReplyError where the reply does not fit the request.
    """
    rows = unpack_rows(body, count)
    if rows is not None:
        return Decoded(rows, ())
    try:
        reply = wire.PredictReply.FromString(body)
    except Exception as error:  # protobuf's DecodeError; its module differs between generations
        raise ReplyError(f"the reply of {len(body)} bytes is no PredictReply: {error}") from error
    return _decode(reply, count)


def _decode(reply: wire.PredictReply, count: int) -> Union[Decoded, Failure]:
    errors = list(reply.error_msg)
    rows = np.full((count, wire.EMBEDDING_DIM), np.nan, np.float32)
    if len(errors) == 1 and not reply.instances:
        found = _failure(errors[0], 0)
        if isinstance(found, Failure):
            return found
        return Decoded(rows, tuple(replace(found, index=index) for index in range(count)))
    if len(reply.instances) != count or len(errors) not in (0, count):
        raise ReplyError(f"the reply has {len(reply.instances)} instances and {len(errors)} errors for {count} images")
    failures: list[ImageFailure] = []
    for index, instance in enumerate(reply.instances):
        if errors and errors[index].error_code:
            found = _failure(errors[index], index)
            if isinstance(found, Failure):
                return found  # the rest of the batch has rows, but a repetition has them too
            failures.append(found)
            continue
        data = instance.items[wire.ITEM_EMBEDDING].data if wire.ITEM_EMBEDDING in instance.items else b""
        if len(data) != 4 * wire.EMBEDDING_DIM:
            raise ReplyError(f"image {index} of the call: its embedding has {len(data)} bytes, not 8192")
        rows[index] = np.frombuffer(data, "<f4")
    return Decoded(rows, tuple(failures))


def _failure(error: wire.ErrorMsg, index: int) -> Union[ImageFailure, Failure]:
    text = error.error_msg.decode("utf-8", "replace")
    found = _IMAGE_ERROR.search(text)
    if found:
        return ImageFailure(index, found.group(1), found.group(2).strip())
    status = _status_of(error.error_code, text)
    return ImageFailure(index, "E_INTERNAL", text) if status is None else Failure(status, text, {})


def _status_of(code: int, text: str) -> Optional[str]:
    if code == wire.ServingCode.FAILED and _QUEUE_FULL in text:
        return "RESOURCE_EXHAUSTED"
    if code in (wire.ServingCode.WORKER_UNAVAILABLE, wire.ServingCode.SERVABLE_UNAVAILABLE):
        return "UNAVAILABLE"
    if code == wire.ServingCode.INVALID_INPUTS:
        return "UNAVAILABLE" if _NO_SERVABLE in text else "INVALID_ARGUMENT"
    return None
