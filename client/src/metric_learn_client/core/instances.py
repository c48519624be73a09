"""Images -> serialised PredictRequest. Pure.

Written out by hand, field by field as protobuf does it: of two images only the lengths differ, and so their bytes are
copied once, where filling and serialising messages copies them, and has the kernel provide the memory, three times.
A test holds the result equal to protobuf's. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Sequence

from metric_learn_client import wire

# Bytes of a request besides the images: at most so many for each, and for the rest.
INSTANCE_OVERHEAD_BYTES = 64
REQUEST_OVERHEAD_BYTES = 64

# Tags: field number and wire type 2, a length and so many bytes.
_INSTANCES = b"\x12"  # PredictRequest.instances = 2
_ITEMS = b"\x0a"  # Instance.items = 1
_VALUE = b"\x12"  # of a map's entry


def encode_request(method: str, images: Sequence[bytes]) -> bytes:
    """images: encoded files for `embed`, 150,528 bytes of pixels each for `embed_pixels`."""
    spec = wire.PredictRequest()
    spec.servable_spec.name = wire.SERVABLE_NAME
    spec.servable_spec.method_name = method
    key, tensor = (_IMAGE_KEY, _IMAGE_TENSOR) if method == wire.METHOD_EMBED else (_PIXELS_KEY, _PIXELS_TENSOR)
    parts = [spec.SerializeToString()]
    for image in images:
        size = _varint(len(image))
        value = len(tensor) + len(size) + len(image)
        value_size = _varint(value)
        entry = len(key) + 1 + len(value_size) + value
        entry_size = _varint(entry)
        instance_size = _varint(1 + len(entry_size) + entry)
        parts.append(b"".join((_INSTANCES, instance_size, _ITEMS, entry_size, key, _VALUE, value_size, tensor, size)))
        parts.append(image)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first; the top bit says that more follow."""
    if number < 1 << 7:
        return bytes((number,))
    if number < 1 << 14:  # lengths of most images: written out, since this runs four times for each
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 1 << 21:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _key(item: str) -> bytes:
    """The key of a map's entry, field 1."""
    return b"\x0a" + _varint(len(item)) + item.encode()


def _image_tensor() -> bytes:
    tensor = wire.Tensor(dtype=wire.DataType.MS_BYTES)
    tensor.shape.dims.append(1)
    return tensor.SerializeToString() + b"\x22"  # Tensor.bytes_val = 4


def _pixels_tensor() -> bytes:
    tensor = wire.Tensor(dtype=wire.DataType.MS_UINT8)
    tensor.shape.dims.extend(wire.PIXELS_SHAPE)
    return tensor.SerializeToString() + b"\x1a"  # Tensor.data = 3


_IMAGE_KEY, _IMAGE_TENSOR = _key(wire.ITEM_IMAGE), _image_tensor()
_PIXELS_KEY, _PIXELS_TENSOR = _key(wire.ITEM_PIXELS), _pixels_tensor()
