"""A connection that is paused: what comes on it waits, nothing is lost, and all others go on."""

import contextlib
import os
import socket

import pytest

from servable.gateway.limits import pauses
from servable.gateway.limits.pauses import Pauses
from servable.gateway.limits.sockets import ConnectedSockets, listening_sockets
from tests.integration.servable.gateway.harness import WAIT_S

HOSTS = {"127.0.0.1": "ipv4:127.0.0.1:{}", "::1": "ipv6:%5B::1%5D:{}"}


@pytest.fixture
def listening():
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as made:
        yield made


@contextlib.contextmanager
def connected(listening, host="127.0.0.1"):
    """(near end, far end, the peer of the far one as gRPC writes it)."""
    with socket.create_connection((host, listening.getsockname()[1]), WAIT_S) as near:
        far, _ = listening.accept()
        far.settimeout(WAIT_S)  # so it does not block, as gRPC's do not
        with far:
            yield near, far, HOSTS[host].format(near.getsockname()[1])


@pytest.mark.parametrize("host", HOSTS)
def test_what_comes_on_a_paused_connection_is_there_when_the_pause_ends(listening, host):
    paused = Pauses()
    with connected(listening, host) as (near, far, peer), connected(listening, host) as (other, other_far, _):
        assert paused.begin(peer)
        near.sendall(b"late")
        other.sendall(b"on")
        assert other_far.recv(4) == b"on"
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(4)
        far.settimeout(WAIT_S)
        paused.end(peer)
        assert far.recv(4) == b"late"


def test_a_connection_is_paused_once_and_can_be_again(listening):
    paused = Pauses()
    with connected(listening) as (_, _far, peer):
        assert [paused.begin(peer), paused.begin(peer)] == [True, False]
        paused.end(peer)
        paused.end(peer)
        assert paused.begin(peer)
        paused.close()


def test_the_descriptors_of_pauses_are_bounded_and_given_back(listening, monkeypatch):
    monkeypatch.setattr(pauses, "MOST", 1)
    paused = Pauses()
    with connected(listening) as (_, _far, peer), connected(listening) as (_, _far2, other):
        before = len(os.listdir("/proc/self/fd"))
        assert [paused.begin(peer), paused.begin(other)] == [True, False]
        paused.close()
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "peer", ["unix:", "unix:@a", "ipv4:127.0.0.1:1", "ipv4:127.0.0.1", "ipv6:nonsense", "", "gone"]
)
def test_who_is_not_connected_is_not_found(listening, peer):
    with connected(listening):
        assert ConnectedSockets().find(peer) is None


def test_a_descriptor_that_stands_for_another_connection_by_now_is_not_taken(listening):
    found = ConnectedSockets()
    with connected(listening) as (_, far, peer):
        with found.find(peer) as first:
            assert first.getpeername() == far.getpeername()
        number = far.fileno()
        with connected(listening) as (_, other, _peer):
            os.dup2(other.fileno(), number)
            assert found.find(peer) is None


def test_an_owner_whose_sockets_are_found_does_not_block_afterwards(listening):
    with connected(listening) as (_, far, peer):  # `far` has a time limit, so it does not block, as gRPC's do not
        listening.setblocking(False)
        for each in [*listening_sockets(listening.getsockname()[1]), ConnectedSockets().find(peer)]:
            each.close()
        assert not os.get_blocking(listening.fileno()) and not os.get_blocking(far.fileno())
