"""Calls begin in turn, connection by connection."""

import grpc
import grpc.aio
import pytest

from metric_learn_client import wire
from tests.integration.servable.gateway.harness import WAIT_S, Harness, predict, request, until

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def test_a_known_caller_does_not_wait_for_the_calls_of_a_stranger_that_came_first(tmp_path):
    with Harness(tmp_path) as harness, harness.channel(options=OWN_CONNECTION) as known:
        predict(known, request(b"good"))
        with harness.channel(options=OWN_CONNECTION) as stranger:
            grpc.channel_ready_future(stranger).result(WAIT_S)
            refused, answered = stranger.unary_unary(wire.GET_MODEL_PATH), known.unary_unary(wire.GET_MODEL_PATH)
            left = []
            with harness.standing():
                sent = [refused.future(b"\x99", timeout=WAIT_S) for _ in range(250)]  # so it is never known
                last = answered.future(b"", timeout=WAIT_S)
                last.add_done_callback(lambda _: left.append(sum(not each.done() for each in sent)))
                with pytest.raises(grpc.RpcError):  # by then those above have come
                    answered(b"", timeout=0.5)
            assert last.result(WAIT_S)
            until(lambda: left)
    assert left[0] > 125, "half of the stranger's calls were answered before"


def test_a_server_with_hundreds_of_calls_that_wait_for_their_turn_stops(tmp_path):
    with Harness(tmp_path) as harness, harness.channel(options=OWN_CONNECTION) as channel:
        grpc.channel_ready_future(channel).result(WAIT_S)
        with harness.standing():
            sent = [channel.unary_unary(wire.GET_MODEL_PATH).future(b"", timeout=WAIT_S) for _ in range(250)]
            stopping = harness.start(harness.gateway.stop())
        stopping.result(WAIT_S)
        until(lambda: all(each.done() for each in sent), "the end of the calls")
