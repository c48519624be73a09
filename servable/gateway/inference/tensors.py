"""The protocol's tensors: what a call may carry, and a tensor's bytes -> one payload an image. Pure.

Protocol: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; BYTES in binary
form, which it leaves open, as in its binary tensor extension: every element after its length, 4 bytes little-endian.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from metric_learn_client.wire import (
    EMBEDDING_DIM,
    ITEM_EMBEDDING,
    ITEM_IMAGE,
    ITEM_PIXELS,
    METHOD_EMBED,
    METHOD_EMBED_PIXELS,
    PIXELS_SHAPE,
    SERVABLE_NAME,
)
from servable.config.sections import LimitsSection
from servable.gateway.call.methods import METHODS, VERSION, Method
from servable.gateway.call.reply import FailedImage
from servable.gateway.call.request import Payload, PredictWork
from servable.gateway.errors import CallError, invalid
from servable.gateway.http.outcomes import Outcome, refuse_failed

SERVER_NAME = "metric_learn_serving"
PLATFORM = "mindspore_mindir"
EXTENSIONS = ("binary_tensor_data",)
ANY = -1  # in a shape: any number of images
LENGTH_BYTES = 4
MAX_ID_CHARACTERS = 256
ON_ERROR = "on_error"  # the one parameter of a request that is our own: see null_wanted
_SHOWN = 64  # characters of a caller's value that an error repeats


@dataclass(frozen=True)
class Tensor:
    """As metadata names it. shape: without the number of images."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def described_shape(self) -> list[int]:
        return [ANY, *self.shape]


INPUTS = {
    METHOD_EMBED: Tensor(ITEM_IMAGE, "BYTES", ()),
    METHOD_EMBED_PIXELS: Tensor(ITEM_PIXELS, "UINT8", PIXELS_SHAPE),
}
OUTPUT = Tensor(ITEM_EMBEDDING, "FP32", (EMBEDDING_DIM,))
_METHOD_OF = {tensor.name: METHODS[method] for method, tensor in INPUTS.items()}


@dataclass(frozen=True)
class InferRequest(PredictWork):
    """One call. null_failed: a failed image is a row of NaN, not the call's error. binary: the rows behind the JSON."""

    id: str = ""
    null_failed: bool = False
    binary: bool = False


def check_model(name: str, version: str) -> int:
    """The version's number, 0 for "". Raises CallError (NOT_FOUND)."""
    if name != SERVABLE_NAME:
        raise CallError(
            grpc.StatusCode.NOT_FOUND, f"model {name[:_SHOWN]!r}: is not served; this server serves {SERVABLE_NAME!r}"
        )
    if version and not re.fullmatch(VERSION, version):
        raise CallError(grpc.StatusCode.NOT_FOUND, f"version {version[:_SHOWN]!r}: is not a number from 1 on")
    return int(version or 0)


def check_input(name: str, datatype: str, shape: Sequence[int], limits: LimitsSection) -> tuple[Method, int]:
    """The method that takes such a tensor, and its number of images, at least 1. Raises CallError."""
    method = _METHOD_OF.get(name)
    if method is None:
        known = " or ".join(_METHOD_OF)
        raise invalid("inputs[0].name", f"{name[:_SHOWN]!r}; {SERVABLE_NAME} takes {known}")
    tensor = INPUTS[method.name]
    if datatype != tensor.datatype:
        raise invalid("inputs[0].datatype", f"{datatype[:_SHOWN]!r}; {name} is {tensor.datatype}")
    images = shape[0] if shape else 0
    rest = tuple(shape[1:])
    if not shape or (rest != tensor.shape and not (tensor.shape == () and rest == (1,))):
        wanted = "[n] or [n, 1]" if tensor.shape == () else f"[n, {', '.join(map(str, tensor.shape))}]"
        raise invalid("inputs[0].shape", f"{list(shape)[:8]}; {name} is {wanted}")
    if images < 1:
        raise invalid("inputs[0].shape", f"{images} images; a call carries at least one")
    if images > limits.max_instances:
        raise invalid("inputs[0].shape", f"more than {limits.max_instances} images; split them over several calls")
    return method, images


def split_raw(method: Method, raw: Payload, images: int) -> list[Payload]:
    """The images of a tensor in binary form, nothing copied. Raises CallError where its size is not theirs."""
    if method.size_bytes:
        if len(raw) != images * method.size_bytes:
            raise invalid("inputs[0]", f"{len(raw)} bytes; its shape needs {images * method.size_bytes}")
        return [raw[at : at + method.size_bytes] for at in range(0, len(raw), method.size_bytes)]
    payloads: list[Payload] = []
    at = 0
    for index in range(images):
        start = at + LENGTH_BYTES
        if start > len(raw):
            raise invalid("inputs[0]", f"its {len(raw)} bytes end before element {index} of {images}")
        length = int.from_bytes(raw[at:start], "little")
        at = start + length
        if at > len(raw):
            raise invalid(
                "inputs[0]", f"element {index} has {length} bytes by its length, and {len(raw) - start} are left"
            )
        payloads.append(raw[start:at])
    if at != len(raw):
        raise invalid("inputs[0]", f"{len(raw) - at} bytes are left after its {images} elements")
    return payloads


def check_output(name: str) -> None:
    if name != OUTPUT.name:
        raise invalid("outputs", f"{name[:_SHOWN]!r}; {SERVABLE_NAME} gives {OUTPUT.name!r}")


def check_id(value: str) -> str:
    if len(value) > MAX_ID_CHARACTERS:
        raise invalid("id", f"{len(value)} characters; the most is {MAX_ID_CHARACTERS}")
    return value


def unknown_parameter(place: str, name: str, known: Sequence[str]) -> CallError:
    words = f"known: {', '.join(known)}" if known else "none is known"
    return invalid(f"{place}.{name[:_SHOWN]}", f"is not a parameter of this server; {words}")


def rows_of(request: InferRequest, outcomes: Sequence[Outcome]) -> tuple[bytes, dict[str, str]]:
    """(FP32 little-endian, a row an image; the output's parameters: the number of each failed image -> its error).

    A failed image is a row of NaN. Raises CallError (INVALID_ARGUMENT) for it where the call did not ask for that.
    """
    if not request.null_failed:
        return b"".join(refuse_failed(outcomes, request.method.item)), {}
    rows = [_NAN_ROW if isinstance(each, FailedImage) else each for each in outcomes]
    errors = {str(index): each.text for index, each in enumerate(outcomes) if isinstance(each, FailedImage)}
    return b"".join(rows), errors


_NAN_ROW = np.full(EMBEDDING_DIM, np.nan, "<f4").tobytes()
ROW_BYTES = len(_NAN_ROW)
