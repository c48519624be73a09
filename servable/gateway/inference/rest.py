"""The protocol's REST form: JSON, with tensors inside it or, by the binary tensor extension, as bytes behind it. Pure.

Extension: https://github.com/triton-inference-server/server, docs/protocol/extension_binary_data.md. A picture inside
JSON, for which the protocol has no rule, is base64 or a data URI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Optional, TypeVar, Union

import orjson

from metric_learn_client import __version__
from metric_learn_client.wire import PIXELS_SHAPE, SERVABLE_NAME
from servable.config.sections import LimitsSection
from servable.gateway.call.calls import Embedded
from servable.gateway.call.methods import Method
from servable.gateway.call.request import Payload, PredictWork
from servable.gateway.errors import invalid
from servable.gateway.http.aside import TURN_BYTES
from servable.gateway.http.images import read_base64, read_data_uri
from servable.gateway.http.json_text import LONG, read_json, shown
from servable.gateway.http.outcomes import json_numbers, null_wanted, read_work
from servable.gateway.http.requests import Response, json_response
from servable.gateway.inference.tensors import (
    EXTENSIONS,
    INPUTS,
    MAX_ID_CHARACTERS,
    ON_ERROR,
    OUTPUT,
    PLATFORM,
    ROW_BYTES,
    SERVER_NAME,
    InferRequest,
    Tensor,
    check_id,
    check_input,
    check_output,
    rows_of,
    split_raw,
    unknown_parameter,
)

HEADER_LENGTH = "Inference-Header-Content-Length"  # how many bytes of the body are JSON, where tensors follow it
BINARY_SIZE, BINARY_OUTPUT, BINARY_DATA = "binary_data_size", "binary_data_output", "binary_data"
# Pixels as JSON numbers: one picture, flat or nested (150,527 commas, 50,401 lists), some 20 ms in which nothing else
# runs.
MOST_NUMBERS_BYTES = 1024 * 1024
MOST_VALUES = 202_000
MOST_OBJECTS = 32  # Python needs 0.5 s for a MiB of them
_T = TypeVar("_T")


def read_request(body: bytes, header_length: Optional[str], version: int, limits: LimitsSection) -> InferRequest:
    """header_length: the header's value, None where it is not there; version: the URL's. Raises CallError."""
    document, tensors = _split(body, header_length)
    _only(document, "request", ("id", "model_name", "parameters", "inputs", "outputs"))
    name = _optional(document, "model_name", str, "request")
    if name not in (None, SERVABLE_NAME):
        raise invalid("model_name", f"{name!r:.64}; the URL says {SERVABLE_NAME!r}")
    null_failed, binary = False, False
    for key, value in (_optional(document, "parameters", dict, "request") or {}).items():
        if key == ON_ERROR:
            null_failed = null_wanted(value, f"parameters.{key}")
        elif key == BINARY_OUTPUT:
            binary = _typed(value, bool, f"parameters.{key}")
        else:
            raise unknown_parameter("parameters", key, (BINARY_OUTPUT, ON_ERROR))
    inputs = _optional(document, "inputs", list, "request")
    if not inputs or len(inputs) != 1:
        raise invalid("inputs", f"{len(inputs or ())} of them; a call carries one, image or pixels")
    outputs = _optional(document, "outputs", list, "request") or []
    if len(outputs) > 1:
        raise invalid("outputs", f"{len(outputs)} of them; there is {OUTPUT.name!r} alone")
    for output in outputs:
        binary = _read_output(_typed(output, dict, "outputs[0]"), binary)
    if isinstance(document.get("id"), memoryview):
        raise invalid("id", f"more than {LONG} characters; the most is {MAX_ID_CHARACTERS}")
    id = check_id(_optional(document, "id", str, "request") or "")
    work = _read_input(_typed(inputs[0], dict, "inputs[0]"), tensors, version, limits)
    return InferRequest(
        work.method, version, work.payloads, failed=work.failed, id=id, null_failed=null_failed, binary=binary
    )


def encode_response(request: InferRequest, embedded: Embedded) -> Response:
    """Raises CallError where an image failed and the call did not ask for a row without numbers."""
    rows, errors = rows_of(request, embedded.outcomes)
    parameters: dict[str, Any] = {**errors, BINARY_SIZE: len(rows)} if request.binary else {**errors}
    output: dict[str, Any] = {
        "name": OUTPUT.name,
        "datatype": OUTPUT.datatype,
        "shape": [len(embedded.outcomes), *OUTPUT.shape],
    }
    if parameters:
        output["parameters"] = parameters
    if not request.binary:
        output["data"] = _numbers(rows)
    reply: dict[str, Any] = {"model_name": SERVABLE_NAME, "model_version": str(embedded.version)}
    if request.id:
        reply["id"] = request.id
    reply["outputs"] = [output]
    response = json_response(reply)
    if not request.binary:
        return response
    length = str(len(response.body))
    return Response(response.body + rows, "application/octet-stream", headers={HEADER_LENGTH: length})


def _numbers(rows: bytes) -> orjson.Fragment:
    """All rows as one list; NaN becomes null."""
    lists = (json_numbers(rows[at : at + ROW_BYTES]) for at in range(0, len(rows), ROW_BYTES))
    return orjson.Fragment(b"[" + b",".join(each[1:-1] for each in lists) + b"]")


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


def _split(body: bytes, header_length: Optional[str]) -> tuple[dict[str, Any], Payload]:
    """(the JSON document, the bytes behind it)."""
    size = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 20):
            raise invalid(HEADER_LENGTH, f"{header_length!r:.64} is not a number of bytes")
        size = int(header_length)
        if not 0 < size <= len(body):
            raise invalid(HEADER_LENGTH, f"{size}; the body has {len(body)} bytes")
    if sum(body.count(b"{", at, min(at + TURN_BYTES, size)) for at in range(0, size, TURN_BYTES)) > MOST_OBJECTS:
        raise invalid("request", f"more than {MOST_OBJECTS} objects in its JSON; a call needs six")
    document = read_json(body[:size], most_rest=MOST_NUMBERS_BYTES, most_values=MOST_VALUES)
    return _typed(document, dict, "request"), memoryview(body)[size:]


def _read_input(tensor: Mapping[str, Any], behind: Payload, version: int, limits: LimitsSection) -> PredictWork:
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
        return PredictWork(method, version, split_raw(method, behind, images))
    if method.size_bytes:
        return PredictWork(method, version, split_raw(method, _read_pixels(data), images))
    return _read_images(method, version, data, images)


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


def _read_images(method: Method, version: int, data: list[Any], images: int) -> PredictWork:
    if len(data) != images:
        raise invalid("inputs[0].data", f"{len(data)} elements; its shape says {images}")
    return read_work(method, version, data, _read_image, "inputs[0].data", images)


def _read_image(element: Any, index: int) -> Payload:
    """Of [n], or of [n, 1] as lists of one."""
    text = element[0] if isinstance(element, list) and len(element) == 1 else element
    place = f"inputs[0].data[{index}]"
    if not isinstance(text, (str, memoryview)):
        raise invalid(place, "must be a string: the base64 of a picture's file")
    return read_data_uri(text, place) if _has_scheme(text) else read_base64(text)


def _has_scheme(text: Union[str, memoryview]) -> bool:
    """data:, or that of a URL, whose refusal says why; there is no colon in base64."""
    begin = text[:16]
    return ":" in begin if isinstance(begin, str) else b":" in bytes(begin)


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
        raise invalid(place, f"{shown(value)}; it must be {_NAMES[kind]}")
    return value


_NAMES: Mapping[type, str] = {
    str: f"a string of at most {LONG} characters",
    bool: "true or false",
    int: "a whole number",
    list: "a list",
    dict: "an object",
}
