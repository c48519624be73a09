"""Images <-> serialised PredictRequest, in the one form that this product's clients write. Pure.

Written out by hand, field by field as protobuf does it: of two images only the lengths differ, and so their bytes are
copied once, where filling and serialising messages copies them, and has the kernel provide the memory, three times.
A test holds the result equal to protobuf's. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional, Union

from metric_learn_client import wire

Image = Union[bytes, memoryview]

# Bytes of a request besides the images: at most so many for each, and for the rest.
INSTANCE_OVERHEAD_BYTES = 64
REQUEST_OVERHEAD_BYTES = 64

_MAX_LENGTH_BYTES = 4  # 256 MB; MAX_MESSAGE_BYTES takes so many
# Tags: field number and wire type 2, a length and so many bytes.
_INSTANCES = b"\x12"  # PredictRequest.instances = 2
_ITEMS = b"\x0a"  # Instance.items = 1
_VALUE = b"\x12"  # of a map's entry


def encode_request(method: str, images: Iterable[Image]) -> bytes:
    """images: encoded files for `embed`, 150,528 bytes of pixels each for `embed_pixels`."""
    parts: list[Image] = [_SPECS[method]]
    for image in images:
        parts.append(_instance_head(method, len(image)))
        parts.append(image)
    return b"".join(parts)


def read_request(body: bytes, most: int) -> Optional[tuple[str, list[memoryview]]]:
    """(method, images) of a request that is, byte for byte, what `encode_request` writes; None for any other.

    At least one image and at most so many. The images are views of `body`.
    """
    method = next((each for each, spec in _SPECS.items() if body.startswith(spec)), None)
    if method is None:
        return None
    images: list[memoryview] = []
    view, position = memoryview(body), len(_SPECS[method])
    while position < len(body):
        place = _find_image(method, body, position)
        if place is None or len(images) == most:
            return None
        images.append(view[slice(*place)])
        position = place[1]
    return (method, images) if images else None


def _instance_head(method: str, size: int) -> bytes:
    """All of an instance before its image of so many bytes, which is its last field."""
    key, tensor = _FORMS[method]
    image_size = varint(size)
    value = len(tensor) + len(image_size) + size
    value_size = varint(value)
    entry = len(key) + 1 + len(value_size) + value
    entry_size = varint(entry)
    instance_size = varint(1 + len(entry_size) + entry)
    return b"".join((_INSTANCES, instance_size, _ITEMS, entry_size, key, _VALUE, value_size, tensor, image_size))


def _find_image(method: str, body: bytes, position: int) -> Optional[tuple[int, int]]:
    """(start, stop) of the image whose instance begins at `position`, if its head is what `_instance_head` writes."""
    length, width = 0, 0
    for byte in body[position + 1 : position + 1 + _MAX_LENGTH_BYTES]:
        length |= (byte & 0x7F) << 7 * width
        width += 1
        if byte < 0x80:
            break
    # The three other lengths take as many bytes as the instance's own, or one less each.
    for shorter in range(4):
        size = length - _FIXED_BYTES[method] - 3 * width + shorter
        if size >= 0:
            head = _instance_head(method, size)
            start = position + len(head)
            if body.startswith(head, position) and start + size <= len(body):
                return start, start + size
    return None


def varint(number: int) -> bytes:
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


def map_key(item: str) -> bytes:
    """The key of a map's entry, field 1."""
    return b"\x0a" + varint(len(item)) + item.encode()


def bytes_tensor() -> bytes:
    """A tensor of one value of bytes, up to the length of that value."""
    tensor = wire.Tensor(dtype=wire.DataType.MS_BYTES)
    tensor.shape.dims.append(1)
    return tensor.SerializeToString() + b"\x22"  # Tensor.bytes_val = 4


def _pixels_tensor() -> bytes:
    tensor = wire.Tensor(dtype=wire.DataType.MS_UINT8)
    tensor.shape.dims.extend(wire.PIXELS_SHAPE)
    return tensor.SerializeToString() + b"\x1a"  # Tensor.data = 3


def _spec(method: str) -> bytes:
    spec = wire.PredictRequest()
    spec.servable_spec.name = wire.SERVABLE_NAME
    spec.servable_spec.method_name = method
    return spec.SerializeToString()


_FORMS = {  # method -> key and tensor of its one item
    wire.METHOD_EMBED: (map_key(wire.ITEM_IMAGE), bytes_tensor()),
    wire.METHOD_EMBED_PIXELS: (map_key(wire.ITEM_PIXELS), _pixels_tensor()),
}
_SPECS = {method: _spec(method) for method in _FORMS}
# Of an instance, without its tag and all lengths but the key's.
_FIXED_BYTES = {method: 1 + len(key) + 1 + len(tensor) for method, (key, tensor) in _FORMS.items()}
