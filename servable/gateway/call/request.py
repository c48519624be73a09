"""A Predict body -> what it asks for, or the one field that is wrong. Pure.

Only the payloads are kept, whatever the caller's bytes could mean to another parser: MindSpore Serving gets them in the
one form of gateway.queue.backend_request. A body in the form of this product's clients (`wire.instances`) is read
fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Union

import grpc

from metric_learn_client.wire import SERVABLE_NAME
from metric_learn_client.wire import instances as plain_form
from servable.config.sections import LimitsSection
from servable.gateway.call.fields import LENGTH, VARINT, Field, Malformed, add_dimensions, read_fields, unexpected
from servable.gateway.call.methods import METHODS, Method
from servable.gateway.errors import CallError, invalid

Payload = Union[bytes, memoryview]  # into the body where it can be: nothing is copied before a batch is sent
_SHOWN = 64  # characters of a caller's value that an error repeats


@dataclass(frozen=True)
class PredictWork:
    """One call. version 0: the default. payloads: one an instance, an encoded image or 150,528 bytes of pixels.

    failed: index -> "E_DECODE: ...": payloads that are none, for example because their base64 text is broken.
    """

    method: Method
    version: int
    payloads: Sequence[Payload]
    failed: Optional[Mapping[int, str]] = None


def read_request(body: bytes, limits: LimitsSection) -> PredictWork:
    """Raises CallError (INVALID_ARGUMENT) that names the field."""
    plain = plain_form.read_request(body, limits.max_instances)
    if plain is not None:
        name, payloads = plain
        method = METHODS[name]
        if not method.size_bytes or all(len(payload) == method.size_bytes for payload in payloads):
            return PredictWork(method, 0, payloads)
    try:
        return _read(body, limits)
    except Malformed as error:
        raise not_a("PredictRequest", error) from None


def not_a(message: str, error: Malformed) -> CallError:
    """The body cannot be read as that message of the protocol."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, f"the body is not a {message}: {error}", field="request")


def _read(body: bytes, limits: LimitsSection) -> PredictWork:
    spec: Optional[Field] = None
    instances: list[Field] = []
    for field in read_fields(body, 0, len(body)):
        if field.number == 1 and field.kind == LENGTH and spec is None:
            spec = field
        elif field.number == 2 and field.kind == LENGTH:
            instances.append(field)
            if len(instances) > limits.max_instances:
                raise invalid("instances", f"more than {limits.max_instances}; split the images over several calls")
        else:
            raise unexpected("request", field)
    method, version = _read_spec(body, spec)
    if not instances:
        raise invalid("instances", "there are none; a call carries at least one image")
    payloads = [_read_instance(body, field, method, index) for index, field in enumerate(instances)]
    return PredictWork(method, version, payloads)


def _read_spec(body: bytes, spec: Optional[Field]) -> tuple[Method, int]:
    values: dict[int, bytes] = {}
    version: Optional[int] = None
    for field in read_fields(body, spec.start, spec.stop) if spec else ():
        if field.number in (1, 2) and field.kind == LENGTH and field.number not in values:
            values[field.number] = body[field.start : field.stop]
        elif field.number == 3 and field.kind == VARINT and version is None:
            version = field.value
        else:
            raise unexpected("servable_spec", field)
    name, method = _text(values.get(1, b"")), _text(values.get(2, b""))
    if name != SERVABLE_NAME:
        raise invalid("servable_spec.name", f"{name[:_SHOWN]!r}; this server serves {SERVABLE_NAME!r}")
    if method not in METHODS:
        raise invalid(
            "servable_spec.method_name", f"{method[:_SHOWN]!r}; {SERVABLE_NAME} has {', '.join(sorted(METHODS))}"
        )
    return METHODS[method], version or 0


def _read_instance(body: bytes, instance: Field, method: Method, index: int) -> Payload:
    place = f"instances[{index}]"
    tensor: Optional[Field] = None
    for field in read_fields(body, instance.start, instance.stop):
        if field.number == 2:
            raise invalid(f"{place}.output_buffers", "shared memory is not accepted; leave the field out")
        if field.number != 1 or field.kind != LENGTH:
            raise unexpected(place, field)
        tensor = _read_item(body, field, method, place, tensor)
    if tensor is None:
        raise invalid(f"{place}.items", f"{method.item!r} is missing; {method.name} takes it and nothing else")
    return _read_tensor(body, tensor, method, f"{place}.items[{method.item!r}]")


def _read_item(body: bytes, entry: Field, method: Method, place: str, earlier: Optional[Field]) -> Field:
    key: Optional[bytes] = None
    value: Optional[Field] = None
    for field in read_fields(body, entry.start, entry.stop):
        if field.number == 1 and field.kind == LENGTH and key is None:
            key = body[field.start : field.stop]
        elif field.number == 2 and field.kind == LENGTH and value is None:
            value = field
        else:
            raise unexpected(f"{place}.items", field)
    name = _text(key or b"")
    if name != method.item:
        raise invalid(f"{place}.items", f"{name[:_SHOWN]!r} is not an input; {method.name} takes {method.item!r}")
    if earlier is not None:
        raise invalid(f"{place}.items", f"{name!r} is there more than once")
    return value or Field(2, LENGTH, entry.stop, entry.stop, 0)


def _read_tensor(body: bytes, tensor: Field, method: Method, place: str) -> Payload:
    shape: Optional[tuple[int, ...]] = None
    dtype: Optional[int] = None
    data: Optional[Field] = None
    bytes_val: Optional[Field] = None
    for field in read_fields(body, tensor.start, tensor.stop):
        if field.number == 1 and field.kind == LENGTH and shape is None:
            shape = _read_dims(body, field, f"{place}.shape")
        elif field.number == 2 and field.kind == VARINT and dtype is None:
            dtype = field.value
        elif field.number == 3 and field.kind == LENGTH and data is None:
            data = field
        elif field.number == 4 and field.kind == LENGTH:
            if bytes_val is not None:
                raise invalid(f"{place}.bytes_val", "more than one; put each image into an instance of its own")
            bytes_val = field
        elif field.number == 5:
            raise invalid(f"{place}.shm_data", "shared memory is not accepted; send the bytes themselves")
        else:
            raise unexpected(place, field)
    if (dtype or 0) != method.dtype:
        raise invalid(f"{place}.dtype", f"{dtype or 0}; it must be {int(method.dtype)} ({method.dtype.name})")
    if (shape or ()) not in method.shapes:
        allowed = " or ".join(str(list(each)) for each in method.shapes)
        raise invalid(f"{place}.shape", f"{list(shape or ())}; it must be {allowed}")
    if method.size_bytes:
        content, other, wanted, unwanted = data, bytes_val, "data", "bytes_val"
    else:
        content, other, wanted, unwanted = bytes_val, data, "bytes_val", "data"
    if other is not None and (other.stop > other.start or unwanted == "bytes_val"):
        raise invalid(f"{place}.{unwanted}", f"must be empty; {method.name} reads {wanted}")
    if content is None:
        raise invalid(f"{place}.{wanted}", "is missing")
    size = content.stop - content.start
    if method.size_bytes and size != method.size_bytes:
        raise invalid(f"{place}.{wanted}", f"{size} bytes; its shape and dtype need {method.size_bytes}")
    return memoryview(body)[content.start : content.stop]


def _read_dims(body: bytes, shape: Field, place: str) -> tuple[int, ...]:
    dims: list[int] = []
    for field in read_fields(body, shape.start, shape.stop):
        if field.number != 1 or field.kind not in (VARINT, LENGTH):
            raise unexpected(place, field)
        add_dimensions(body, field, dims, place)
    return tuple(dims)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
