"""Some hundred hostile HTTP requests to the gateway; ten thousand to the real server are in tests/e2e."""

import asyncio

from tests.e2e.attacks.fuzz_http import fuzz
from tests.integration.servable.gateway.harness import Harness, config_of, predict, request


def test_500_hostile_requests_each_get_an_answer_or_an_end_and_nothing_stays_in_flight(tmp_path):
    settings = config_of(deadlines={"read_body_s": 1.0})
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        report = asyncio.run(fuzz(harness.api_address, 500, seed=20261126))
        assert report["requests"] == 500 and report["faults"] == []
        assert report["statuses"]["200"] > 20  # some of them are honest
        predict(channel, request(b"good"))
        admission = harness.gateway._admission
        assert (admission.calls, admission.images, admission.bytes) == (0, 0, 0)
        assert not harness.unhealthy
