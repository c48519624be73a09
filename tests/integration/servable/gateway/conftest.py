"""For the forms of a call over gRPC: a gateway with small limits, before a fake MindSpore Serving, one a module."""

import pytest

from servable.config.sections import LimitsSection
from tests.integration.servable.gateway.harness import Harness, config_of


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    settings = config_of(limits=LimitsSection(max_image_bytes=1000, max_request_bytes=200_000))
    with Harness(tmp_path_factory.mktemp("gateway"), settings) as harness:
        yield harness


@pytest.fixture(scope="module")
def channel(running):
    with running.channel() as channel:
        yield channel
