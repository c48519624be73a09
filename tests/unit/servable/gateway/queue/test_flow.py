"""How many batches are sent ahead: from the measured time of a batch."""

import pytest

from servable.gateway.queue.flow import AHEAD_S, Flow
from tests.clock import Clock


def after(batch_s, images=16, batches=200, idle_s=0.0, workers=1):
    """The depth once a backend with two batches at a time has answered one every batch_s."""
    clock = Clock(100.0)
    flow = Flow(clock)
    flow.sent()
    for _ in range(batches):
        flow.sent()
        clock.now += batch_s
        flow.answered(images)
        if idle_s:
            clock.now += batch_s
            flow.answered(images)
            clock.now += idle_s
            flow.sent()
    return flow.depth(workers, 16)


@pytest.mark.parametrize(
    ("batch_s", "deep"),
    [(0.5, 2), (0.032, 4), (0.009, 4), (0.0045, 6), (0.0017, 12)],
)
def test_one_runs_and_the_others_last_for_some_milliseconds(batch_s, deep):
    assert after(batch_s) == deep
    assert (deep - 1) * batch_s >= AHEAD_S * 0.99


def test_time_in_which_nothing_was_there_to_do_does_not_count():
    assert after(0.0045, idle_s=10.0) == after(0.0045)


def test_several_workers_share_the_rate():
    assert after(0.0045, workers=2) == 2 * after(0.009)


def test_small_batches_tell_the_time_of_a_full_one():
    assert after(0.0011, images=4) == after(0.0044)


def test_before_anything_is_known_there_is_one_to_run_and_one_ahead():
    assert Flow().depth(1, 16) == 2 and Flow().depth(3, 16) == 6


def test_a_device_that_becomes_slow_is_noticed_within_a_second():
    clock = Clock(100.0)
    flow = Flow(clock)
    flow.sent()
    for batch_s, count in ((0.004, 500), (0.1, 10)):
        for _ in range(count):
            flow.sent()
            clock.now += batch_s
            flow.answered(16)
    assert flow.depth(1, 16) == 2


def test_a_long_silence_is_forgotten():
    clock = Clock(100.0)
    flow = Flow(clock)
    flow.sent()
    for batch_s, images, count in ((30.0, 0, 1), (0.0045, 16, 200)):
        for _ in range(count):
            flow.sent()
            clock.now += batch_s
            flow.answered(images)
    assert flow.depth(1, 16) == 6
