"""A probe is answered whoever else holds connections to the HTTP port."""

import contextlib
import resource
import socket
import time

import pytest

from servable.gateway.observe.http_pages import MAX_CONNECTIONS, TOTAL_S
from tests.integration.servable.gateway.harness import Harness
from tests.patience import patient


@contextlib.contextmanager
def connections(harness, count, first=b""):
    """Many at once, each with its first bytes sent and nothing after them."""
    host, _, port = harness.http_address.rpartition(":")
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_connection((host, int(port)), 5)) for _ in range(count)]
        for each in made:
            with contextlib.suppress(OSError):  # it had to go already
                each.sendall(first)
        yield made


@pytest.mark.parametrize(
    "first", [b"", b"GET /livez HT", b"GET /metrics HTTP/1.1\r\n\r\n"], ids=["idle", "half", "unread"]
)
def test_a_probe_is_answered_beside_more_connections_than_there_are_places(tmp_path, first):
    with Harness(tmp_path) as harness, connections(harness, 2 * MAX_CONNECTIONS, first):
        for path in ("/livez", "/readyz", "/metrics"):
            began = time.monotonic()
            assert harness.http(path)[0] == 200
            assert time.monotonic() - began < patient(TOTAL_S)  # it does not wait for one of them to end


def test_the_oldest_connection_goes_first(tmp_path):
    with Harness(tmp_path) as harness, connections(harness, MAX_CONNECTIONS + 20) as made:
        assert harness.http("/livez")[0] == 200
        assert made[0].recv(1) == b""
        made[-1].sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        assert made[-1].recv(100).startswith(b"HTTP/1.1 200")


def test_a_connection_has_one_time_for_everything(tmp_path):
    """A byte a second would hold it for ever if each of them started the clock anew."""
    with Harness(tmp_path) as harness, connections(harness, 1, b"GET /livez") as (slow,):
        began = time.monotonic()
        slow.settimeout(0.5)
        ended = False
        while not ended and time.monotonic() - began < 3 * TOTAL_S:
            try:
                slow.sendall(b"x")
                ended = slow.recv(1) == b""
            except socket.timeout:
                continue
            except OSError:
                ended = True
        assert TOTAL_S / 2 < time.monotonic() - began < 2 * TOTAL_S + 1


def test_strangers_leave_descriptors_for_probes_and_for_everything_else(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
    with Harness(tmp_path) as harness:
        assert 1024 - 2 * harness.gateway._most_connections() >= MAX_CONNECTIONS + 256
