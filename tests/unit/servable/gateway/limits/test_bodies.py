"""Places for bodies: shares, turns, and who goes when too many wait. No socket."""

import asyncio

import grpc
import pytest

from servable.gateway.errors import CallError
from servable.gateway.limits.bodies import BodyPlaces


async def never():
    await asyncio.sleep(3600)


async def more():
    """What comes without a place is not all."""
    return True


async def no_more():
    """What comes without a place is all."""
    return False


async def at_once():
    return b"body"


def run(scene):
    async def bounded():
        return await asyncio.wait_for(scene, 10)

    return asyncio.run(bounded())


async def slow(places, connection, count):
    """Calls whose bodies do not come; returns when each has its place or waits for one."""
    tasks = [asyncio.create_task(places.read(connection, more, never)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def ended(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_connection_holds_a_quarter_of_the_places_and_another_one_is_served_at_once():
    async def scene():
        places = BodyPlaces(8, read_s=60, max_waiting=100)
        tasks = await slow(places, "a", 50)
        for _ in range(20):
            assert await places.read("b", more, at_once) == b"body"
        await ended(tasks)

    run(scene())


def test_when_all_places_are_taken_the_largest_connection_gives_one_after_the_fair_time():
    async def scene():
        places = BodyPlaces(4, read_s=60, max_waiting=100, fair_s=0.05)
        tasks = [task for name in "abcd" for task in await slow(places, name, 1)]
        assert await places.read("e", more, at_once) == b"body"
        await asyncio.sleep(0)
        done = [task for task in tasks if task.done()]
        assert len(done) == 1 and done[0].exception().status is grpc.StatusCode.RESOURCE_EXHAUSTED
        await ended(tasks)

    run(scene())


def test_connections_take_turns_whatever_the_length_of_their_lines():
    async def scene():
        order = []
        gate = asyncio.Event()

        async def note(name):
            order.append(name)
            await gate.wait()

        places = BodyPlaces(1, read_s=60, max_waiting=100)
        first = asyncio.create_task(places.read("x", more, gate.wait))
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(places.read("a", more, lambda: note("a"))) for _ in range(10)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(places.read("b", more, lambda: note("b"))))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, *tasks)
        assert order.index("b") == 1

    run(scene())


def test_when_too_many_wait_the_longest_line_loses_its_newest_to_a_newcomer_of_another_connection():
    async def scene():
        places = BodyPlaces(1, read_s=60, max_waiting=5, fair_s=60)
        tasks = await slow(places, "a", 6)
        newcomer = asyncio.create_task(places.read("b", more, at_once))
        await asyncio.sleep(0.01)
        assert tasks[-1].exception().status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not any(task.done() for task in tasks[:-1]) and not newcomer.done()
        with pytest.raises(CallError, match="too many calls wait"):
            await places.read("a", more, at_once)
        await ended([*tasks, newcomer])

    run(scene())


def test_whoever_leaves_the_line_or_a_place_leaves_nothing_behind():
    async def scene():
        places = BodyPlaces(2, read_s=0.05, max_waiting=100)
        tasks = await slow(places, "a", 10)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {error.status for error in results} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert not places._held and not places._waiting
        assert await places.read("a", more, at_once) == b"body"

    run(scene())


def test_what_comes_without_more_room_needs_no_place():
    async def scene():
        places = BodyPlaces(1, read_s=60, max_waiting=100, fair_s=60)
        tasks = await slow(places, "a", 3)
        assert await places.read("b", no_more, at_once) == b"body"
        await ended(tasks)

    run(scene())


def test_bodies_that_come_without_a_place_are_bounded_too():
    async def scene():
        places = BodyPlaces(1, read_s=60, max_waiting=5, fair_s=60)
        tasks = [asyncio.create_task(places.read("a", never, at_once)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(CallError, match="too many calls wait"):
            await places.read("a", never, at_once)
        assert await places.read("b", no_more, at_once) == b"body"
        await asyncio.sleep(0)
        assert tasks[-1].done() and not any(task.done() for task in tasks[:-1])
        await ended(tasks)
        assert not places._coming and not places._without

    run(scene())
