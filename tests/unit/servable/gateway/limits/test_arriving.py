"""Bodies that arrive piece by piece share their memory, and the slow give way."""

import asyncio

import pytest

from servable.gateway.errors import CallError
from servable.gateway.limits.arriving import ArrivingBodies, BodyTooLarge
from servable.gateway.limits.time_limit import TimeIsUp
from tests.clock import Clock


class Sender:
    """`receive` of one body; `send` gives it a piece."""

    def __init__(self):
        self.pieces = asyncio.Queue()

    def send(self, size, more=True):
        self.pieces.put_nowait((b"x" * size, more))

    async def receive(self):
        return await self.pieces.get()


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_body_is_what_came_in_order():
    async def run():
        bodies, sender = ArrivingBodies(100, 5), Sender()
        for piece, more in ((b"ab", True), (b"", True), (b"c", False)):
            sender.pieces.put_nowait((piece, more))
        assert await bodies.read(sender.receive, 100) == [b"ab", b"", b"c"] and bodies.bytes == 0

    asyncio.run(run())


def test_a_body_beyond_its_limit_ends_at_once():
    async def run():
        bodies, sender = ArrivingBodies(100, 5), Sender()
        sender.send(11)
        with pytest.raises(BodyTooLarge):
            await bodies.read(sender.receive, 10)
        assert bodies.bytes == 0

    asyncio.run(run())


def test_a_body_that_does_not_come_is_out_of_time():
    async def run():
        bodies = ArrivingBodies(100, 0.01)
        with pytest.raises(TimeIsUp):
            await bodies.read(Sender().receive, 10)

    asyncio.run(run())


def test_the_slowest_goes_where_there_is_no_room_and_not_who_just_came():
    async def run():
        clock = Clock()
        bodies = ArrivingBodies(100, 5, fair_s=1, clock=clock)
        slow, fast, new = Sender(), Sender(), Sender()
        reads = [asyncio.ensure_future(bodies.read(each.receive, 100)) for each in (slow, fast)]
        slow.send(10)
        fast.send(50)
        await turns()
        clock.now = 2.0
        reads.append(asyncio.ensure_future(bodies.read(new.receive, 100)))
        new.send(45)
        await turns()
        with pytest.raises(CallError, match="arrives slowly") as caught:
            await reads[0]
        assert caught.value.retry_after_ms == 1000 and bodies.bytes == 95
        for sender in (fast, new):
            sender.send(0, more=False)
        assert [sum(map(len, await each)) for each in reads[1:]] == [50, 45] and bodies.bytes == 0

    asyncio.run(run())


def test_where_nobody_is_slow_the_one_that_passes_the_room_is_sent_away():
    async def run():
        bodies = ArrivingBodies(100, 5, fair_s=1, clock=Clock())
        first, second = Sender(), Sender()
        reads = [asyncio.ensure_future(bodies.read(each.receive, 100)) for each in (first, second)]
        first.send(90)
        second.send(20)
        await turns()
        with pytest.raises(CallError, match="others need the memory"):
            await reads[1]
        first.send(10, more=False)
        assert sum(map(len, await reads[0])) == 100

    asyncio.run(run())


def test_a_body_that_is_made_use_of_counts_and_does_not_go():
    async def run():
        clock = Clock()
        bodies = ArrivingBodies(100, 5, fair_s=1, clock=clock)
        with bodies.kept(90):
            clock.now = 2.0
            sender = Sender()
            sender.send(20)
            with pytest.raises(CallError, match="others need the memory"):
                await bodies.read(sender.receive, 100)
            assert bodies.bytes == 90
        assert bodies.bytes == 0

    asyncio.run(run())
