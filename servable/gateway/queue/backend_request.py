"""A batch as it goes to MindSpore Serving: a PredictRequest with one instance, a packed batch. Pure.

Written out by hand, as protobuf does it, so that the images are copied once and not three times.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Sequence

from metric_learn_client import wire
from metric_learn_client.wire.instances import bytes_tensor, map_key, varint
from servable.engine.packed_batch import Buffer, images_head
from servable.gateway.call.methods import METHODS

# What is appended to a method's name. MindSpore Serving takes turns between the methods of a servable: with each method
# there twice, a worker hears of the next batch while it waits for the one before.
LANES = ("", "_in_turn")
_INSTANCES, _ITEMS, _VALUE = b"\x12", b"\x0a", b"\x12"  # field 2; 1; 2 of a map's entry


def encode_batch(method: str, lane: str, images: Sequence[Buffer]) -> bytes:
    """images: encoded files for `embed`, 150,528 bytes of pixels each for `embed_pixels`; at least one."""
    packed = images_head(images)
    size = len(packed) + sum(map(len, images))
    spec, key, tensor = _FORMS[method, lane]
    length = varint(size)
    value = len(tensor) + len(length) + size
    entry_head = key + _VALUE + varint(value)
    entry = len(entry_head) + value
    item_head = _ITEMS + varint(entry)
    instance_head = _INSTANCES + varint(len(item_head) + entry)
    return b"".join((spec, instance_head, item_head, entry_head, tensor, length, packed, *images))


def _form(method: str, lane: str) -> tuple[bytes, bytes, bytes]:
    """The servable's name, the item's key, and the tensor up to the length of its bytes."""
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = wire.SERVABLE_NAME, method + lane
    return request.SerializeToString(), map_key(METHODS[method].item), bytes_tensor()


_FORMS = {(method, lane): _form(method, lane) for method in METHODS for lane in LANES}
