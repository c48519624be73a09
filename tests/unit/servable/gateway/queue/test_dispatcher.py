"""How many batches a backend is given: two a worker at once, more only of full ones, and never too many bytes."""

import asyncio

import pytest

from servable.gateway.backends import Served
from servable.gateway.call.methods import METHODS
from servable.gateway.queue.dispatcher import MAX_BATCH_BYTES, MAX_SENT_BYTES, Dispatcher
from servable.gateway.queue.flow import Flow
from servable.gateway.queue.pending import PendingCall, SharedBatch
from tests.integration.servable.gateway.fake_serving import FakeBackend

FAST_S = 0.001  # a batch; 16 ms of work are as many ahead


def quick_flow():
    now = [0.0]
    flow = Flow(lambda: now[0])
    flow.sent()
    for _ in range(100):
        flow.sent()
        now[0] += FAST_S
        flow.answered(16)
    return flow


def has_room(under_way, waiting, *, image=b"x", most=16, workers=1):
    """under_way: images of each batch that is there; waiting: images that wait."""

    async def ask():
        dispatcher = Dispatcher(Served(1), wait_when_down=True, timeout_s=1, on_images=lambda count: None)
        dispatcher._flow = quick_flow()
        method = METHODS["embed"]
        call = PendingCall(method, [image] * max(1, waiting, *under_way))
        dispatcher._batches = {
            number: SharedBatch(method, [(call, index) for index in range(count)], alone=False)
            for number, count in enumerate(under_way)
        }
        if waiting:
            dispatcher._calls.append(PendingCall(method, [image] * waiting))
        return dispatcher._has_room(FakeBackend("", most_batches=most, workers=workers))

    return asyncio.run(ask())


@pytest.mark.parametrize(("under_way", "room"), [([], True), ([1], True), ([16], True), ([1, 1], False)])
def test_a_single_image_goes_at_once_beside_one_batch_and_waits_behind_two(under_way, room):
    assert has_room(under_way, waiting=1) is room


@pytest.mark.parametrize(("waiting", "room"), [(15, False), (16, True), (40, True)])
def test_beyond_two_batches_only_a_full_one_has_a_place(waiting, room):
    assert has_room([16, 16], waiting) is room


def test_the_depth_that_was_measured_is_not_passed():
    assert has_room([16] * 15, waiting=16) and not has_room([16] * 18, waiting=16, most=99)


def test_what_the_backend_takes_at_the_most_is_not_passed():
    assert not has_room([16] * 3, waiting=16, most=3)
    assert not has_room([16], waiting=16, most=1)


def test_every_worker_has_its_two():
    assert has_room([1, 1, 1], waiting=1, workers=2) and not has_room([1] * 4, waiting=1, workers=2)


def test_no_more_bytes_than_one_message_of_the_master_may_hold():
    image = memoryview(bytes(MAX_BATCH_BYTES // 16))  # one buffer for all
    batches = MAX_SENT_BYTES // MAX_BATCH_BYTES
    assert has_room([16] * (batches - 1), waiting=16, image=image)
    assert not has_room([16] * batches, waiting=16, image=image)
