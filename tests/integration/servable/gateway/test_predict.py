"""Calls through the gateway to a fake MindSpore Serving: right answers, and the right status for the rest."""

import grpc
import numpy as np
import pytest

from metric_learn_client import wire

from tests.integration.servable.gateway.fake_serving import FakeServing, embedding_of
from tests.integration.servable.gateway.harness import Harness, predict, request, rows


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Harness(tmp_path_factory.mktemp("gateway")) as harness:
        yield harness


@pytest.fixture(scope="module")
def channel(running):
    with running.channel() as channel:
        yield channel


@pytest.mark.parametrize("count", [1, 2, 16, 17, 100, 256])
def test_embeddings_come_back_in_the_order_of_the_images(running, channel, count):
    images = [b"image %d" % index for index in range(count)]
    reply, _ = predict(channel, request(*images))
    assert np.array_equal(rows(reply), np.stack([embedding_of(image) for image in images]))
    assert not reply.error_msg
