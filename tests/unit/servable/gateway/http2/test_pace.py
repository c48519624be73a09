"""Whose bytes are read next, and how many in one turn of the event loop. No socket."""

import asyncio

from servable.gateway.http2.pace import ROUND_US, Pace


class Connection:
    """Takes 400 us each time that it is its turn, `times` times."""

    def __init__(self, pace, name, read, spent_us=0.0, times=1):
        self.pace, self.name, self.read, self.spent, self.times = pace, name, read, spent_us, times

    def spent_us(self):
        return self.spent

    def go_on(self):
        self.read.append(self.name)
        self.pace.spend(400.0)
        self.times -= 1
        if self.times:
            self.pace.wait(self, 0.0)


def test_who_has_spent_least_is_read_first_and_those_alike_in_turn():
    async def scene():
        read = []
        pace = Pace(asyncio.get_running_loop())
        for name, spent_us in (("dear", 50_000.0), ("new", 0.0), ("newer", 100.0), ("answered", -5_000.0)):
            pace.wait(Connection(pace, name, read, spent_us), 0.0)
        while len(read) < 4:
            await asyncio.sleep(0)
        return read

    assert asyncio.run(scene()) == ["answered", "new", "newer", "dear"]


def test_one_turn_of_the_event_loop_reads_a_bounded_amount_and_the_next_goes_on():
    async def scene():
        read = []
        pace = Pace(asyncio.get_running_loop())
        pace.wait(Connection(pace, "flood", read, times=100), 0.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first = len(read)
        assert not pace.has_time()
        while len(read) < 100:
            await asyncio.sleep(0)
        return first

    assert 0 < asyncio.run(scene()) <= 2 * (1 + ROUND_US // 400)


def test_there_is_time_again_in_the_next_turn():
    async def scene():
        pace = Pace(asyncio.get_running_loop())
        pace.spend(ROUND_US)
        assert not pace.has_time()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert pace.has_time()

    asyncio.run(scene())
