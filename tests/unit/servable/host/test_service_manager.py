"""What systemd hears. A real datagram socket in a temporary directory stands for it."""

import asyncio
import os
import resource
import socket

import pytest

from servable.host.service_manager import ServiceManager


@pytest.fixture
def heard(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield {"NOTIFY_SOCKET": str(tmp_path / "notify")}, lambda: listener.recv(4096).decode()


def test_readiness_reload_and_end_are_told(heard):
    environment, next_message = heard
    manager = ServiceManager(environment)
    manager.ready("serving version 1")
    assert next_message() == "READY=1\nSTATUS=serving version 1"
    manager.reloading()
    assert next_message().startswith("RELOADING=1\nMONOTONIC_USEC=")
    manager.stopping()
    assert next_message() == "STOPPING=1"


def test_the_watchdog_hears_three_signs_of_life_in_its_interval(heard):
    environment, next_message = heard

    async def scenario():
        manager = ServiceManager({**environment, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": str(os.getpid())})
        assert manager.watchdog_s == 0.3
        watching = asyncio.create_task(manager.watch())
        await asyncio.sleep(0.25)
        watching.cancel()

    asyncio.run(scenario())
    assert [next_message() for _ in range(3)] == ["WATCHDOG=1"] * 3


def test_the_watchdog_outlives_a_time_without_free_descriptors(heard):
    environment, next_message = heard

    async def scenario():
        manager = ServiceManager({**environment, "WATCHDOG_USEC": "30000"})
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            watching = asyncio.create_task(manager.watch())
            manager.stopping()
            await asyncio.wait({watching}, timeout=0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await asyncio.to_thread(next_message) == "WATCHDOG=1"
        watching.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"WATCHDOG_USEC": "1000"},
        {"WATCHDOG_USEC": "x", "NOTIFY_SOCKET": "/n"},
    ],
)
def test_nobody_there_is_no_error(environment):
    manager = ServiceManager(environment)
    manager.ready("x")
    assert manager.watchdog_s == 0
    asyncio.run(manager.watch())


def test_a_watchdog_meant_for_another_process_is_not_ours(heard):
    environment, _ = heard
    assert ServiceManager({**environment, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s == 0
