"""The protocol's REST form: JSON, with tensors inside it or, by the binary tensor extension, as bytes behind it. Pure.

Extension: https://github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md. A picture inside
JSON, for which the protocol has no rule, is base64.
"""

from __future__ import annotations

import base64
import binascii
import gc
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Optional, TypeVar

import numpy as np

from metric_learn_client import __version__
from metric_learn_client.wire import PIXELS_SHAPE, SERVABLE_NAME
from servable.config.sections import LimitsSection
from servable.gateway.call.calls import Embedded
from servable.gateway.call.methods import Method
from servable.gateway.call.reply import FailedImage
from servable.gateway.call.request import Payload
from servable.gateway.errors import invalid
from servable.gateway.inference.tensors import (
    EXTENSIONS,
    INPUTS,
    ON_ERROR,
    OUTPUT,
    PLATFORM,
    SERVER_NAME,
    InferRequest,
    Tensor,
    check_id,
    check_input,
    check_output,
    errors_of,
    read_on_error,
    refuse_failed,
    rows_of,
    split_raw,
    unknown_parameter,
)

HEADER_LENGTH = "inference-header-content-length"  # how many bytes of the body are JSON, where tensors follow it
BINARY_SIZE, BINARY_OUTPUT, BINARY_DATA = "binary_data_size", "binary_data_output", "binary_data"
# Pixels as JSON numbers: two pictures, nested. Python needs 8 bytes a number and 40 ms, in which nothing else runs.
MAX_JSON_VALUES = 500_000
_FLOAT_CHARACTERS = "S24"  # "-9999999000000000.0" has 19
_T = TypeVar("_T")


def read_request(body: Payload, header_length: Optional[str], version: int, limits: LimitsSection) -> InferRequest:
    """header_length: the header's value, None where it is not there; version: the URL's. Raises CallError."""
    document, tensors = _split(body, header_length)
    _only(document, "request", ("id", "model_name", "parameters", "inputs", "outputs"))
    name = _optional(document, "model_name", str, "request")
    if name not in (None, SERVABLE_NAME):
        raise invalid("model_name", f"{name!r:.64}; the URL says {SERVABLE_NAME!r}")
    null_failed, binary = False, False
    for key, value in (_optional(document, "parameters", dict, "request") or {}).items():
        if key == ON_ERROR:
            null_failed = read_on_error(value)
        elif key == BINARY_OUTPUT:
            binary = _typed(value, bool, f"parameters.{key}")
        else:
            raise unknown_parameter("parameters", key, (BINARY_OUTPUT, ON_ERROR))
    inputs = _optional(document, "inputs", list, "request")
    if not inputs or len(inputs) != 1:
        raise invalid("inputs", f"{len(inputs or ())} of them; a call carries one, image or pixels")
    method, payloads = _read_input(_typed(inputs[0], dict, "inputs[0]"), tensors, limits)
    outputs = _optional(document, "outputs", list, "request") or []
    if len(outputs) > 1:
        raise invalid("outputs", f"{len(outputs)} of them; there is {OUTPUT.name!r} alone")
    for output in outputs:
        binary = _read_output(_typed(output, dict, "outputs[0]"), binary)
    id = check_id(_optional(document, "id", str, "request") or "")
    return InferRequest(method, version, payloads, id=id, null_failed=null_failed, binary=binary)


def encode_response(request: InferRequest, embedded: Embedded) -> tuple[bytes, Optional[int]]:
    """(body, how many bytes of it are JSON; None: all). Raises CallError where an image failed and no row was asked."""
    outcomes = embedded.outcomes
    if not request.null_failed:
        refuse_failed(outcomes)
    rows = rows_of(outcomes)
    parameters: dict[str, Any] = errors_of(outcomes)
    if request.binary:
        parameters[BINARY_SIZE] = sum(map(len, rows))
    output: dict[str, Any] = {"name": OUTPUT.name, "datatype": OUTPUT.datatype, "shape": [len(rows), *OUTPUT.shape]}
    if parameters:
        output["parameters"] = parameters
    reply: dict[str, Any] = {"model_name": SERVABLE_NAME, "model_version": str(embedded.version)}
    if request.id:
        reply["id"] = request.id
    reply["outputs"] = [output]
    head = json.dumps(reply).encode()
    if request.binary:
        return b"".join([head, *rows]), len(head)
    numbers = [_NULL_ROW if isinstance(outcome, FailedImage) else _numbers(row) for outcome, row in zip(outcomes, rows)]
    return b"".join([head[: -len(b"}]}")], b', "data": [', b",".join(numbers), b"]}]}"]), None


def describe_server() -> dict[str, Any]:
    return {"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def describe_model(versions: Sequence[int]) -> dict[str, Any]:
    def described(tensor: Tensor) -> dict[str, Any]:
        return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.described_shape}

    return {
        "name": SERVABLE_NAME,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [described(tensor) for tensor in INPUTS.values()],
        "outputs": [described(OUTPUT)],
    }


def _split(body: Payload, header_length: Optional[str]) -> tuple[dict[str, Any], Payload]:
    """(the JSON document, the bytes behind it)."""
    size = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 20):
            raise invalid("Inference-Header-Content-Length", f"{header_length!r:.64} is not a number of bytes")
        size = int(header_length)
        if not 0 < size <= len(body):
            raise invalid("Inference-Header-Content-Length", f"{size}; the body has {len(body)} bytes")
    text = bytes(body[:size])
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_JSON_VALUES:
        raise invalid("request", f"more than {MAX_JSON_VALUES} values in JSON; send pixels as a binary tensor")
    gc.disable()  # it would walk the lists made so far again and again: 100 ms for what takes 15
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid("request", f"not JSON: {error!s:.200}") from None
    finally:
        gc.enable()
    return _typed(document, dict, "request"), body[size:]


def _read_input(tensor: Mapping[str, Any], behind: Payload, limits: LimitsSection) -> tuple[Method, list[Payload]]:
    place = "inputs[0]"
    _only(tensor, place, ("name", "shape", "datatype", "parameters", "data"))
    shape = _required(tensor, "shape", list, place)
    for each in shape:
        _typed(each, int, f"{place}.shape")
    method, images = check_input(
        _required(tensor, "name", str, place), _required(tensor, "datatype", str, place), shape, limits
    )
    size: Optional[int] = None
    for key, value in (_optional(tensor, "parameters", dict, place) or {}).items():
        if key != BINARY_SIZE:
            raise unknown_parameter(f"{place}.parameters", key, (BINARY_SIZE,))
        size = _typed(value, int, f"{place}.parameters.{key}")
    data = _optional(tensor, "data", list, place)
    if (data is None) == (size is None):
        raise invalid(place, f"it needs either data or parameters.{BINARY_SIZE}")
    if len(behind) != (size or 0):
        raise invalid(f"{place}.parameters.{BINARY_SIZE}", f"{size or 0}; {len(behind)} bytes follow the JSON")
    if data is None:
        return method, split_raw(method, behind, images)
    if method.size_bytes:
        return method, split_raw(method, _read_pixels(data), images)
    return method, _read_base64(data, images)


def _read_output(output: Mapping[str, Any], binary: bool) -> bool:
    """Whether the output is wanted in binary form."""
    place = "outputs[0]"
    _only(output, place, ("name", "parameters"))
    check_output(_required(output, "name", str, place))
    for key, value in (_optional(output, "parameters", dict, place) or {}).items():
        if key != BINARY_DATA:
            raise unknown_parameter(f"{place}.parameters", key, (BINARY_DATA,))
        binary = _typed(value, bool, f"{place}.parameters.{key}")
    return binary


def _read_pixels(data: list[Any]) -> Payload:
    """Numbers 0 to 255, in one list or nested as the shape says."""
    place = "inputs[0].data"
    if data and isinstance(data[0], list):
        for width in PIXELS_SHAPE:
            if any(not isinstance(each, list) or len(each) != width for each in data):
                raise invalid(place, f"neither one list nor lists nested as [n, {', '.join(map(str, PIXELS_SHAPE))}]")
            data = list(chain.from_iterable(data))
    try:
        return bytes(data)
    except (TypeError, ValueError):
        raise invalid(place, "pixels are whole numbers from 0 to 255") from None


def _read_base64(data: list[Any], images: int) -> list[Payload]:
    if len(data) != images:
        raise invalid("inputs[0].data", f"{len(data)} elements; its shape says {images}")
    payloads: list[Payload] = []
    for index, each in enumerate(data):
        place = f"inputs[0].data[{index}]"
        text = _typed(each[0] if isinstance(each, list) and len(each) == 1 else each, str, place)
        try:
            payloads.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise invalid(place, "is not base64; a picture inside JSON is the base64 of its file") from None
    return payloads


def _numbers(row: bytes) -> bytes:
    """The shortest decimals that give the same float32 again."""
    return b",".join(np.frombuffer(row, "<f4").astype(_FLOAT_CHARACTERS).tolist())


_NULL_ROW = b",".join([b"null"] * OUTPUT.shape[0])


def _only(document: Mapping[str, Any], place: str, known: Sequence[str]) -> None:
    for key in document:
        if key not in known:
            raise invalid(f"{place}.{key[:64]}", f"is unknown; known: {', '.join(known)}")


def _required(document: Mapping[str, Any], key: str, kind: type[_T], place: str) -> _T:
    if key not in document:
        raise invalid(f"{place}.{key}", "is missing")
    return _typed(document[key], kind, f"{place}.{key}")


def _optional(document: Mapping[str, Any], key: str, kind: type[_T], place: str) -> Optional[_T]:
    """None: not there, or null."""
    value = document.get(key)
    return None if value is None else _typed(value, kind, f"{place}.{key}")


def _typed(value: object, kind: type[_T], place: str) -> _T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise invalid(place, f"must be {_NAMES[kind]}")
    return value


_NAMES: Mapping[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
    dict: "an object",
}
