"""New connections wait while a call of the gateway's own does."""

import asyncio
import os
import socket

import pytest

from servable.gateway.limits.newcomers import ASK_EVERY_S, Newcomers, listening_sockets


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.3).close()
        return True
    except socket.timeout:
        return False


async def until(condition):
    while not condition():
        await asyncio.sleep(ASK_EVERY_S / 10)


def watched(port, scenario):
    async def inside():
        answered = asyncio.Event()
        newcomers = Newcomers(answered.wait, listening_sockets(port))
        watching = asyncio.ensure_future(newcomers.watch())
        await until(lambda: newcomers.paused)
        await scenario(newcomers, answered, watching)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(asyncio.wait_for(inside(), 10))


def test_nobody_connects_while_the_own_call_waits_and_all_do_when_it_is_answered(port):
    async def scenario(newcomers, answered, watching):
        assert not connects(port)
        answered.set()
        await until(lambda: not newcomers.paused)
        assert connects(port)

    watched(port, scenario)


def test_the_end_of_the_watch_lets_everybody_in(port):
    async def scenario(newcomers, answered, watching):
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert connects(port)

    watched(port, scenario)


def test_only_sockets_that_listen_at_the_port_are_found_and_no_other_descriptor_stays(port):
    with socket.create_server(("127.0.0.1", 0)), socket.create_connection(("127.0.0.1", port)), open(os.devnull):
        before = len(os.listdir("/proc/self/fd"))
        found = listening_sockets(port)
        assert [each.getsockname()[1] for each in found] == [port]
        assert len(os.listdir("/proc/self/fd")) == before + 1
    found[0].close()
