"""A batch as it goes to MindSpore Serving, read back by protobuf."""

import re
from pathlib import Path

import numpy as np
import pytest

from metric_learn_client import wire
from servable.engine.packed_batch import unpack_images
from servable.gateway.queue.backend_request import LANES, batch_pieces


@pytest.mark.parametrize("method", ["embed", "embed_pixels"])
@pytest.mark.parametrize(("lane", "item"), [("embed", "image"), ("embed_pixels", "pixels")])
@pytest.mark.parametrize("sizes", [[0], [1], [100, 0, 7], [127] * 16, [16384, 3], [150528] * 16, [2_200_000]])
def test_protobuf_reads_one_instance_with_all_images(method, item, lane, sizes):
    images = [bytes([index]) * size for index, size in enumerate(sizes)]
    body = b"".join(batch_pieces(method, lane, [memoryview(image) for image in images]))
    request = wire.PredictRequest.FromString(body)
    assert (request.servable_spec.name, request.servable_spec.method_name) == ("metric_learn", lane)
    assert request.servable_spec.version_number == 0
    (instance,) = request.instances
    tensor = instance.items[item]
    assert tensor.dtype == wire.DataType.MS_BYTES and list(tensor.shape.dims) == [1] and len(tensor.bytes_val) == 1
    sent, pixels = unpack_images(np.frombuffer(tensor.bytes_val[0], np.uint8))
    assert [each.tobytes() for each in sent] == images and pixels == (method == "embed_pixels")
    assert len(instance.items) == 1 and not tensor.data


def test_the_lanes_are_all_methods_that_mindspore_serving_has():
    """Its queue takes turns rightly only between all of them."""
    servable = Path(__file__).parents[5] / "servable" / "metric_learn" / "servable_config.py"
    assert re.findall(r"register_method.*\ndef (\w+)", servable.read_text()) == list(LANES)
