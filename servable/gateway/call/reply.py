"""MindSpore Serving's reply -> one outcome an image; outcomes -> the reply of the call. Pure.

MindSpore Serving 2.0.2 answers every failure inside an OK reply, with its own words, stage names and whatever an
exception said. What may leave is decided here: a stable code and a short sentence, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

from google.protobuf.message import DecodeError

from metric_learn_client.image_names import image_formats
from metric_learn_client.wire import (
    EMBEDDING_DIM,
    ITEM_EMBEDDING,
    SERVABLE_NAME,
    DataType,
    ImageErrorCode,
    PredictReply,
    ServingCode,
)
from metric_learn_client.wire.rows import join_rows
from servable.engine.packed_batch import OF_THE_WORKER, MalformedBatch, unpack_rows

EMBEDDING_ITEM_BYTES = 4


@dataclass(frozen=True)
class FailedImage:
    """One image failed, for good. text: "E_DECODE: the JPEG is cut off"."""

    code: int  # ServingCode, as MindSpore Serving numbers it
    text: str

    @property
    def name(self) -> str:
        return self.text.partition(":")[0]


@dataclass(frozen=True)
class Fault:
    """The backend gave no answer to the image; another try may succeed. reason: for the log."""

    reason: str
    overload: bool = False  # the backend lives and has too much to do
    lives: bool = False  # the backend lives, and its reply is none, or says that no image is to blame


Row = Union[bytes, memoryview]  # an embedding, float32 little-endian
Outcome = Union[Row, FailedImage, Fault]

INTERNAL = "E_INTERNAL: the image could not be embedded; see the server's log"
_SENTENCES = {
    ImageErrorCode.DECODE: "the image is broken or cut off",
    ImageErrorCode.TOO_LARGE: "the image is larger than the limits allow",
    ImageErrorCode.EMPTY: "the image has no bytes",
    ImageErrorCode.UNSUPPORTED: f"not a {image_formats('or')} file",
    ImageErrorCode.SHAPE: "the pixels have the wrong shape",
    ImageErrorCode.NON_FINITE: "the network gave no usable embedding for this image",
    ImageErrorCode.CRASH: "the image ended or held up the process that worked on it",
}
_CODE = re.compile(r"\b(E_[A-Z_]+): ([^\r\n]*)")
# A sentence of ours: plain words and numbers. Anything with a path, quotes or brackets is replaced by the code's own.
_SAFE = re.compile(r"[A-Za-z0-9 ,.;:_\-]{1,160}")
_TRANSIENT = (ServingCode.INVALID_INPUTS, ServingCode.WORKER_UNAVAILABLE, ServingCode.SERVABLE_UNAVAILABLE)


def read_reply(body: Row, count: int, dim: int) -> list[Outcome]:
    """One outcome for each of the `count` images of a batch, in order. A reply that does not fit is a Fault."""
    try:
        reply = PredictReply.FromString(body)  # type: ignore[arg-type]  # a view will do
    except DecodeError:
        return [Fault("the reply is no PredictReply", lives=True)] * count
    if len(reply.error_msg) == 1 and not reply.instances:
        return [
            _failure(reply.error_msg[0].error_code, reply.error_msg[0].error_msg.decode("utf-8", "replace"))
        ] * count
    if len(reply.instances) != 1 or reply.error_msg:
        reason = f"{len(reply.instances)} instances and {len(reply.error_msg)} errors for one batch"
        return [Fault(reason, lives=True)] * count
    try:
        rows, errors = unpack_rows(reply.instances[0].items[ITEM_EMBEDDING].data)
    except MalformedBatch as error:
        return [Fault(f"the reply holds {error}", lives=True)] * count
    if rows.shape != (count, dim):
        return [Fault(f"embeddings of shape {rows.shape} for {count} images", lives=True)] * count
    data = rows.data.cast("B")
    size = dim * EMBEDDING_ITEM_BYTES
    return [
        data[index * size : (index + 1) * size] if error is None else _failure(ServingCode.SYSTEM_ERROR, error)
        for index, error in enumerate(errors)
    ]


def encode_reply(method: str, version: int, outcomes: Sequence[Union[Row, FailedImage]], dim: int) -> bytes:
    """The call's reply, in the forms that MindSpore Serving's own clients know.

    No error: no error_msg. All failed alike: one error_msg and no instances. Otherwise one error_msg an instance,
    code 0 for a good one, and an empty instance for a failed one. servable_spec names the version that answered.
    """
    failures = [outcome for outcome in outcomes if isinstance(outcome, FailedImage)]
    if not failures and dim == EMBEDDING_DIM:
        return join_rows(
            _spec(method, version), [outcome for outcome in outcomes if not isinstance(outcome, FailedImage)]
        )
    reply = PredictReply.FromString(_spec(method, version))
    if len(failures) == len(outcomes) and len(set(failures)) == 1:
        _add_error(reply, failures[0])
        return reply.SerializeToString()
    for outcome in outcomes:
        instance = reply.instances.add()
        if isinstance(outcome, FailedImage):
            _add_error(reply, outcome)
            continue
        tensor = instance.items[ITEM_EMBEDDING]
        tensor.shape.dims.append(dim)
        tensor.dtype = DataType.MS_FLOAT32
        tensor.data = bytes(outcome)
        if failures:
            reply.error_msg.add()
    return reply.SerializeToString()


@lru_cache(maxsize=64)
def _spec(method: str, version: int) -> bytes:
    """A reply that holds its servable_spec alone."""
    reply = PredictReply()
    spec = reply.servable_spec
    spec.name, spec.method_name, spec.version_number = SERVABLE_NAME, method, version
    return bytes(reply.SerializeToString())


def _add_error(reply: PredictReply, error: FailedImage) -> None:
    reply.error_msg.add(error_code=error.code, error_msg=error.text.encode())


def _failure(code: int, text: str) -> Outcome:
    found = _CODE.search(text)
    if found and found[1] in ImageErrorCode.__members__.values():
        return FailedImage(code, image_error_text(ImageErrorCode(found[1]), found[2].strip()))
    # Codes 2, 4 and 5 without a code of ours speak of the worker: the request itself was checked before it was sent.
    if "exceeds the limit" in text:
        return Fault(f"code {code}: {text[:200]}", overload=True)
    if OF_THE_WORKER in text:
        return Fault(f"code {code}: {text[:200]}", lives=True)
    if code in _TRANSIENT or "worker" in text.lower():
        return Fault(f"code {code}: {text[:200]}")
    return FailedImage(code, INTERNAL)


def crashed() -> FailedImage:
    """The outcome of an image that was alone in a backend when it ended."""
    return FailedImage(ServingCode.SYSTEM_ERROR, image_error_text(ImageErrorCode.CRASH, ""))


def image_error_text(code: ImageErrorCode, sentence: str) -> str:
    """ "E_DECODE: the JPEG is cut off". A sentence that could hold more than plain words is replaced."""
    return f"{code.value}: {sentence if _SAFE.fullmatch(sentence) else _SENTENCES[code]}"
