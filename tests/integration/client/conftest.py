"""Servers for the client's tests: the fake in this process, or in one of its own."""

import gc
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from metric_learn_client import EmbeddingClient
from metric_learn_client.testing import FakeServable

from .awaited_client import AwaitedClient

SERVER = (
    "import sys\n"
    "from metric_learn_client.testing import FakeServable\n"
    "with FakeServable() as server:\n"
    "    print(server.endpoint, flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextmanager
def fake_process():
    """(endpoint, process) of a fake in a process of its own: to be killed, stopped, or left out of a fork."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture(params=[EmbeddingClient, AwaitedClient], ids=["threads", "asyncio"])
def make_client(request):
    """The class of both clients, one after the other: what a test says of a client holds for both."""
    return request.param


@pytest.fixture
def fake():
    with FakeServable() as server:
        yield server


@pytest.fixture
def three():
    servers = [FakeServable().start() for _ in range(3)]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def no_thread_left():
    """Fails a test after which a thread of the client or of gRPC still runs."""
    before = set(threading.enumerate())
    yield
    gc.collect()  # gRPC for asyncio ends its one thread when the last of its objects goes, which errors hold in cycles
    for thread in set(threading.enumerate()) - before:
        if thread.name.endswith("(_poll_wrapper)"):
            thread.join(10)
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not left, left


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
