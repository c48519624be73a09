"""Protobuf's wire format, read field by field without building anything.

A general parser turns 2 bytes of a hostile body into a message object of 40 and more: 64 MB become gigabytes, and
seconds in which nothing else runs. Reading in place lets the caller stop at the first field that is too many.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from servable.gateway.errors import CallError, invalid

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10
MAX_DIMENSIONS = 8  # of a shape


class Malformed(ValueError):
    """The bytes are no protobuf message."""


class Field(NamedTuple):
    """kind is the wire type. VARINT: `value`; every other kind: data[start:stop]."""

    number: int
    kind: int
    start: int
    stop: int
    value: int


def read_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message data[start:stop], in order. Raises Malformed when it gets to something broken."""
    position = start
    while position < stop:
        tag, position = read_varint(data, position, stop)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise Malformed("a field number out of range")
        if kind == VARINT:
            value, after = read_varint(data, position, stop)
            yield Field(number, kind, position, after, value)
        elif kind == LENGTH:
            length, position = read_varint(data, position, stop)
            after = position + length
            if after > stop:
                raise Malformed("a length that reaches beyond its message")
            yield Field(number, kind, position, after, 0)
        elif kind in _FIXED_BYTES:
            after = position + _FIXED_BYTES[kind]
            if after > stop:
                raise Malformed("a number that is cut off")
            yield Field(number, kind, position, after, 0)
        else:
            raise Malformed("an unknown wire type")
        position = after


def read_varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """(unsigned value, position after it); more than 64 bits are cut as protobuf does. Raises Malformed."""
    if position >= stop:
        raise Malformed("a number that is cut off")
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value, shift = byte & 0x7F, 7
    for place in range(position + 1, min(stop, position + _MAX_VARINT_BYTES)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
        shift += 7
    raise Malformed("a number that is cut off or too long")


def add_dimensions(data: bytes, field: Field, shape: list[int], place: str) -> None:
    """Adds what the field of a shape holds, one int64 or several, packed. Raises CallError (INVALID_ARGUMENT)."""
    position = field.start
    while position < field.stop:
        value, position = read_varint(data, position, field.stop)
        shape.append(value - (1 << 64) if value >> 63 else value)  # two's complement
        if len(shape) > MAX_DIMENSIONS:
            raise invalid(place, f"more than {MAX_DIMENSIONS} dimensions")


def unexpected(place: str, field: Field) -> CallError:
    """The message at `place` has no such field."""
    return invalid(place, f"field {field.number} is unknown, of the wrong type or there twice")
