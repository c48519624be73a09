"""A batch as it goes to MindSpore Serving, read back by protobuf."""

import numpy as np
import pytest

from metric_learn_client import wire
from servable.engine.packed_batch import unpack_images
from servable.gateway.queue.backend_request import LANES, encode_batch


@pytest.mark.parametrize(("method", "item"), [("embed", "image"), ("embed_pixels", "pixels")])
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("sizes", [[0], [1], [100, 0, 7], [127] * 16, [16384, 3], [150528] * 16, [2_200_000]])
def test_protobuf_reads_one_instance_with_all_images(method, item, lane, sizes):
    images = [bytes([index]) * size for index, size in enumerate(sizes)]
    request = wire.PredictRequest.FromString(encode_batch(method, lane, [memoryview(image) for image in images]))
    assert (request.servable_spec.name, request.servable_spec.method_name) == ("metric_learn", method + lane)
    assert request.servable_spec.version_number == 0
    (instance,) = request.instances
    tensor = instance.items[item]
    assert tensor.dtype == wire.DataType.MS_BYTES and list(tensor.shape.dims) == [1] and len(tensor.bytes_val) == 1
    assert [each.tobytes() for each in unpack_images(np.frombuffer(tensor.bytes_val[0], np.uint8))] == images
    assert len(instance.items) == 1 and not tensor.data
