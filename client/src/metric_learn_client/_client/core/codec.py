"""Reply body -> message, rows and failures. Pure: no sockets, no clock."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Optional, Union

import numpy as np

from metric_learn_client import wire
from metric_learn_client._client.core.steps import Failure
from metric_learn_client.errors import ImageFailure, ReplyError
from metric_learn_client.wire.rows import Embeddings, unpack_rows

# MindSpore Serving puts its own words before a stage's error; the code and what follows are the servable's.
_IMAGE_ERROR = re.compile(r"\b(E_[A-Z_]+): (.*)", re.DOTALL)
# Errors of the whole call inside a reply, as the status that they amount to. MindSpore Serving 2.0.2: status.h gives
# the numbers, dispacther.cc and model_thread.cc the texts. Code 3, and 1 otherwise, are of the images concerned.
_QUEUE_FULL = "exceeds the limit"
_NO_SERVABLE = "servable is not available"


def decode_reply(body: bytes, out: Embeddings) -> Union[list[ImageFailure], Failure]:
    """Writes the rows of a reply to `out`, float32 [count, 2048]; NaN where an image failed. Returns those.

    Returns Failure where the reply's error stands for the whole call; `out` is undefined then. Raises ReplyError where
    the reply does not fit a request of so many images.
    """
    if unpack_rows(body, out):
        return []
    return _decode(parse(wire.PredictReply, body), out)


def parse(kind: Any, body: bytes) -> Any:
    """The message of this kind. Raises ReplyError where the bytes are none."""
    try:
        return kind.FromString(body)
    except Exception as error:  # protobuf's DecodeError; its module differs between generations
        raise ReplyError(f"the reply of {len(body)} bytes is no {kind.DESCRIPTOR.name}: {error}") from error


def _decode(reply: wire.PredictReply, out: Embeddings) -> Union[list[ImageFailure], Failure]:
    count = len(out)
    errors = list(reply.error_msg)
    if len(errors) == 1 and not reply.instances:
        found = _failure(errors[0], 0)
        if isinstance(found, Failure):
            return found
        out[:] = np.nan
        return [replace(found, index=index) for index in range(count)]
    if len(reply.instances) != count or len(errors) not in (0, count):
        raise ReplyError(f"the reply has {len(reply.instances)} instances and {len(errors)} errors for {count} images")
    failures: list[ImageFailure] = []
    for index, instance in enumerate(reply.instances):
        if errors and errors[index].error_code:
            found = _failure(errors[index], index)
            if isinstance(found, Failure):
                return found  # the rest of the batch has rows, but a repetition has them too
            failures.append(found)
            out[index] = np.nan
            continue
        data = instance.items[wire.ITEM_EMBEDDING].data if wire.ITEM_EMBEDDING in instance.items else b""
        if len(data) != 4 * wire.EMBEDDING_DIM:
            raise ReplyError(f"image {index} of the call: its embedding has {len(data)} bytes, not 8192")
        out[index] = np.frombuffer(data, "<f4")
    return failures


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
