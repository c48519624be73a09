"""The protocol's gRPC form: a ModelInferRequest's body -> what it asks for, and the messages that answer. Pure.

The body is read field by field, in place, as that of Predict is (call/fields.py says why).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Optional

import numpy as np

from metric_learn_client import __version__
from metric_learn_client.wire import SERVABLE_NAME
from metric_learn_client.wire.messages import ModelInferResponse, ModelMetadataResponse, ServerMetadataResponse
from servable.config.sections import LimitsSection
from servable.gateway.call.calls import Embedded
from servable.gateway.call.fields import (
    FIXED64,
    LENGTH,
    VARINT,
    Field,
    Malformed,
    add_dimensions,
    read_fields,
    unexpected,
)
from servable.gateway.call.methods import Method
from servable.gateway.call.request import Payload, not_a
from servable.gateway.errors import invalid
from servable.gateway.http.outcomes import null_wanted
from servable.gateway.inference.tensors import (
    EXTENSIONS,
    INPUTS,
    ON_ERROR,
    OUTPUT,
    PLATFORM,
    SERVER_NAME,
    InferRequest,
    check_id,
    check_input,
    check_model,
    check_output,
    rows_of,
    split_raw,
    unknown_parameter,
)

# Of the messages in client/proto/inference.proto.
_NAME, _VERSION, _ID, _PARAMETERS, _INPUTS, _OUTPUTS, _RAW = range(1, 8)
_TENSOR_NAME, _TENSOR_DATATYPE, _TENSOR_SHAPE, _TENSOR_PARAMETERS, _TENSOR_CONTENTS = range(1, 6)
_UINT_CONTENTS, _BYTES_CONTENTS = 4, 8
_BINARY_SIZE = "binary_data_size"  # of an input, as the kserve package sends it


def read_request(body: bytes, limits: LimitsSection) -> InferRequest:
    """Raises CallError: NOT_FOUND for another model, else INVALID_ARGUMENT that names the field."""
    try:
        return _read(body, limits)
    except Malformed as error:
        raise not_a("ModelInferRequest", error) from None


def encode_response(request: InferRequest, embedded: Embedded) -> bytes:
    """Raises CallError where an image failed and no row was asked for it."""
    rows, errors = rows_of(request, embedded.outcomes)
    reply = ModelInferResponse(model_name=SERVABLE_NAME, model_version=str(embedded.version), id=request.id)
    output = reply.outputs.add(
        name=OUTPUT.name, datatype=OUTPUT.datatype, shape=[len(embedded.outcomes), *OUTPUT.shape]
    )
    for index, text in errors.items():
        output.parameters[index].string_param = text
    reply.raw_output_contents.append(rows)
    return reply.SerializeToString()


def describe_server() -> bytes:
    return ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS).SerializeToString()


def describe_model(versions: Sequence[int]) -> bytes:
    reply = ModelMetadataResponse(name=SERVABLE_NAME, versions=[str(each) for each in versions], platform=PLATFORM)
    for tensor in INPUTS.values():
        reply.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.described_shape)
    reply.outputs.add(name=OUTPUT.name, datatype=OUTPUT.datatype, shape=OUTPUT.described_shape)
    return reply.SerializeToString()


def _read(body: bytes, limits: LimitsSection) -> InferRequest:
    texts: dict[int, str] = {}
    tensor: Optional[Field] = None
    raw: Optional[Field] = None
    null_failed, outputs = False, 0
    for field in read_fields(body, 0, len(body)):
        if field.kind != LENGTH:
            raise unexpected("request", field)
        if field.number in (_NAME, _VERSION, _ID) and field.number not in texts:
            texts[field.number] = _text(body, field)
        elif field.number == _PARAMETERS:
            name, value = _read_parameter(body, field, "parameters")
            if name != ON_ERROR:
                raise unknown_parameter("parameters", name, (ON_ERROR,))
            null_failed = null_wanted(value, f"parameters.{name}")
        elif field.number == _INPUTS and tensor is None:
            tensor = field
        elif field.number == _INPUTS:
            raise invalid("inputs", "more than one; a call carries one, image or pixels")
        elif field.number == _OUTPUTS and not outputs:
            outputs += 1
            _read_output(body, field)
        elif field.number == _OUTPUTS:
            raise invalid("outputs", f"more than one; there is {OUTPUT.name!r} alone")
        elif field.number == _RAW and raw is None:
            raw = field
        elif field.number == _RAW:
            raise invalid("raw_input_contents", "more than one; there is one input")
        else:
            raise unexpected("request", field)
    version = check_model(texts.get(_NAME, ""), texts.get(_VERSION, ""))
    if tensor is None:
        raise invalid("inputs", "there are none; a call carries one, image or pixels")
    method, payloads = _read_input(body, tensor, raw, limits)
    return InferRequest(method, version, payloads, id=check_id(texts.get(_ID, "")), null_failed=null_failed)


def _read_input(
    body: bytes, tensor: Field, raw: Optional[Field], limits: LimitsSection
) -> tuple[Method, list[Payload]]:
    place = "inputs[0]"
    texts: dict[int, str] = {}
    shape: list[int] = []
    contents: Optional[Field] = None
    size: Optional[object] = None
    for field in read_fields(body, tensor.start, tensor.stop):
        if field.number in (_TENSOR_NAME, _TENSOR_DATATYPE) and field.kind == LENGTH and field.number not in texts:
            texts[field.number] = _text(body, field)
        elif field.number == _TENSOR_SHAPE and field.kind in (VARINT, LENGTH):
            add_dimensions(body, field, shape, "inputs[0].shape")
        elif field.number == _TENSOR_PARAMETERS and field.kind == LENGTH:
            name, size = _read_parameter(body, field, f"{place}.parameters")
            if name != _BINARY_SIZE:
                raise unknown_parameter(f"{place}.parameters", name, ())
        elif field.number == _TENSOR_CONTENTS and field.kind == LENGTH and contents is None:
            contents = field
        else:
            raise unexpected(place, field)
    method, images = check_input(texts.get(_TENSOR_NAME, ""), texts.get(_TENSOR_DATATYPE, ""), shape, limits)
    if (raw is None) == (contents is None):
        raise invalid(place, "its data belong either into raw_input_contents or into its contents")
    if raw is not None:
        if size is not None and size != raw.stop - raw.start:
            raise invalid(f"{place}.parameters.{_BINARY_SIZE}", f"{size!r:.64}; {raw.stop - raw.start} bytes are there")
        return method, split_raw(method, memoryview(body)[raw.start : raw.stop], images)
    assert contents is not None
    if method.size_bytes:
        return method, split_raw(method, _read_uints(body, contents), images)
    return method, _read_elements(body, contents, images)


def _read_elements(body: bytes, contents: Field, images: int) -> list[Payload]:
    """contents.bytes_contents, one an image."""
    payloads: list[Payload] = []
    for field in read_fields(body, contents.start, contents.stop):
        if field.number != _BYTES_CONTENTS or field.kind != LENGTH:
            raise invalid("inputs[0].contents", f"field {field.number}; image is read from bytes_contents")
        payloads.append(memoryview(body)[field.start : field.stop])
        if len(payloads) > images:
            break
    if len(payloads) != images:
        more = "more" if len(payloads) > images else str(len(payloads))
        raise invalid("inputs[0].contents.bytes_contents", f"{more} elements; its shape says {images}")
    return payloads


def _read_uints(body: bytes, contents: Field) -> Payload:
    """contents.uint_contents, a packed list of varints, one a channel of a pixel."""
    place = "inputs[0].contents"
    packed: Optional[Field] = None
    for field in read_fields(body, contents.start, contents.stop):
        if field.number != _UINT_CONTENTS or field.kind != LENGTH or packed is not None:
            raise invalid(place, f"field {field.number}; pixels are read from raw_input_contents or one uint_contents")
        packed = field
    if packed is None:
        raise invalid(place, "has no uint_contents")
    stored = np.frombuffer(body, np.uint8, packed.stop - packed.start, packed.start)
    # 0 to 127 is one byte; 128 to 255 two, of which the first is the number itself and the second 1.
    first = stored >= 0x80
    second = np.zeros_like(first)
    second[1:] = first[:-1]
    if (stored[second] != 1).any() or first[-1:].any():
        raise invalid(f"{place}.uint_contents", "pixels are whole numbers from 0 to 255")
    return memoryview(stored[~second].tobytes())


def _read_output(body: bytes, output: Field) -> None:
    name: Optional[str] = None
    for field in read_fields(body, output.start, output.stop):
        if field.number == 1 and field.kind == LENGTH and name is None:
            name = _text(body, field)
        elif field.number == 2 and field.kind == LENGTH:
            key, _ = _read_parameter(body, field, "outputs[0].parameters")
            raise unknown_parameter("outputs[0].parameters", key, ())
        else:
            raise unexpected("outputs[0]", field)
    check_output(name or "")


def _read_parameter(body: bytes, entry: Field, place: str) -> tuple[str, object]:
    """One entry of a map of InferParameter: its key, and its bool, int, str or float; None where it has no value."""
    key: Optional[str] = None
    value: Optional[Field] = None
    for field in read_fields(body, entry.start, entry.stop):
        if field.number == 1 and field.kind == LENGTH and key is None:
            key = _text(body, field)
        elif field.number == 2 and field.kind == LENGTH and value is None:
            value = field
        else:
            raise unexpected(place, field)
    choice: object = None
    for field in read_fields(body, value.start, value.stop) if value else ():
        if field.number == 1 and field.kind == VARINT:
            choice = bool(field.value)
        elif field.number in (2, 5) and field.kind == VARINT:
            choice = field.value
        elif field.number == 3 and field.kind == LENGTH:
            choice = _text(body, field)
        elif field.number == 4 and field.kind == FIXED64:
            choice = struct.unpack_from("<d", body, field.start)[0]
        else:
            raise unexpected(place, field)
    return key or "", choice


def _text(body: bytes, field: Field) -> str:
    return body[field.start : field.stop].decode("utf-8", "replace")
