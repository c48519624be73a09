"""Places, and when to come again: with a clock of the test's own."""

import contextlib

import grpc
import pytest

from servable.config.sections import LimitsSection
from servable.gateway.errors import CallError
from servable.gateway.limits.admission import MAX_RETRY_MS, MIN_RETRY_MS, Admission
from tests.clock import Clock

LIMITS = LimitsSection(
    max_instances=10,
    max_request_bytes=100,
    max_in_flight_calls=2,
    max_in_flight_instances=20,
    max_in_flight_bytes=150,
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def admission(clock):
    return Admission(LIMITS, clock)


def refused(place):
    with pytest.raises(CallError) as caught:
        with place:
            pass
    assert caught.value.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value


def test_each_limit_holds_and_places_are_given_back(admission):
    with admission.call(), admission.call():
        assert "2 calls" in refused(admission.call()).message
    with admission.work("a", 15, 10):
        assert "15 images in flight, 6 more" in refused(admission.work("a", 6, 1)).message
        with admission.work("a", 5, 1):
            pass
        assert "141 more" in refused(admission.work("a", 1, 141)).message
    assert (admission.calls, admission.images, admission.bytes) == (0, 0, 0)


def test_a_connection_with_nothing_in_flight_finds_a_place_beside_one_that_has_all(admission):
    with admission.work("a", 20, 120), admission.work("b", 5, 37):
        assert "25 images in flight, 1 more" in refused(admission.work("b", 1, 0)).message
        assert "25 images in flight, 1 more" in refused(admission.work("c", 1, 0)).message
    assert (admission.images, admission.bytes) == (0, 0)


def test_a_call_that_fails_gives_its_place_back(admission):
    with contextlib.suppress(KeyError), admission.call(), admission.work("a", 3, 3):
        raise KeyError
    assert (admission.calls, admission.images, admission.bytes) == (0, 0, 0)


def test_the_hint_follows_the_rate_at_which_images_come_back(admission, clock):
    with admission.work("a", 20, 1):
        clock.now = 2.0
        admission.finished(20)  # 10 a second
        assert admission.retry_after_ms() == 1000  # half of 20 images


def test_idle_time_does_not_make_the_hint_longer(admission, clock):
    for _ in range(3):
        with admission.work("a", 1, 1):
            clock.now += 0.5
            admission.finished(1)
        clock.now += 3600
    with admission.work("a", 2, 1):
        assert admission.retry_after_ms() == 500  # 2 a second, one to wait for


def test_the_hint_stays_within_its_bounds(admission, clock):
    assert MIN_RETRY_MS <= admission.retry_after_ms() <= MAX_RETRY_MS
    with admission.work("a", 20, 1):
        clock.now = 1000.0
        admission.finished(1)
        assert admission.retry_after_ms() == MAX_RETRY_MS
