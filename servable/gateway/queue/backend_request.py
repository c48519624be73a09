"""A batch as it goes to MindSpore Serving: a PredictRequest with one instance, a packed batch. Pure.

Written out by hand, as protobuf does it, so that the images are not copied.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Sequence

from metric_learn_client import wire
from metric_learn_client.wire.instances import bytes_tensor, map_key, varint
from servable.engine.packed_batch import Buffer, images_head
from servable.gateway.call.methods import METHODS

# MindSpore Serving takes turns between the methods of a servable. Batches of either kind go to its two methods in turn,
# so that a worker hears of the next batch before it waits for the one before.
LANES = tuple(METHODS)
_INSTANCES, _ITEMS, _VALUE = b"\x12", b"\x0a", b"\x12"  # field 2; 1; 2 of a map's entry


def batch_pieces(method: str, lane: str, images: Sequence[Buffer]) -> tuple[Buffer, ...]:
    """The request in pieces, of which the images are as they came.

    method: what the images are, encoded files (`embed`) or 150,528 bytes of pixels each (`embed_pixels`); at least
    one. lane: one of LANES."""
    packed = images_head(images, pixels=method == wire.METHOD_EMBED_PIXELS)
    size = len(packed) + sum(map(len, images))
    spec, key, tensor = _FORMS[lane]
    length = varint(size)
    value = len(tensor) + len(length) + size
    entry_head = key + _VALUE + varint(value)
    entry = len(entry_head) + value
    item_head = _ITEMS + varint(entry)
    instance_head = _INSTANCES + varint(len(item_head) + entry)
    return (b"".join((spec, instance_head, item_head, entry_head, tensor, length, packed)), *images)


def _form(lane: str) -> tuple[bytes, bytes, bytes]:
    """The servable's name, the item's key, and the tensor up to the length of its bytes."""
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = wire.SERVABLE_NAME, lane
    return request.SerializeToString(), map_key(METHODS[lane].item), bytes_tensor()


_FORMS = {lane: _form(lane) for lane in LANES}
