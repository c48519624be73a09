"""New connections of one address wait while too many of its calls do; others, and those that stand, go on."""

import contextlib
import socket

import grpc
import pytest

from metric_learn_client import wire
from servable.gateway.http2 import grpc_server
from servable.gateway.limits.newcomers import Newcomers, program
from servable.gateway.limits.turns import address_of
from tests.integration.servable.gateway.harness import WAIT_S, Harness, predict, request, until

FOUR, SIX = "127.0.0.1", "::1"


@pytest.fixture
def listening():
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as made:
        yield made


def connects(listening, source):
    """Whether a connection from there is made: what the filter drops is sent again after a second."""
    host = SIX if ":" in source else FOUR
    try:
        with socket.create_connection((host, listening.getsockname()[1]), 0.3, (source, 0)):
            listening.accept()[0].close()
            return True
    except socket.timeout:  # Python 3.9 does not call it TimeoutError
        return False


@pytest.mark.parametrize(
    ("held", "open_from", "not_from"),
    [
        (["ipv4:127.0.0.2"], [FOUR, SIX, "127.0.0.3"], ["127.0.0.2"]),
        (["ipv4:127.0.0.2", "ipv4:127.0.0.3"], [FOUR, SIX], ["127.0.0.2", "127.0.0.3"]),
        ([address_of(f"ipv6:%5B{SIX}%5D:1")], [FOUR, "127.0.0.2"], [SIX]),
        ([address_of("ipv6:%5B2001:db8::1%5D:1")], [FOUR, SIX], []),
        ([address_of(f"ipv6:%5B{SIX}%5D:1"), "ipv4:127.0.0.2"], [FOUR], [SIX, "127.0.0.2"]),
        (["unix:"], [FOUR, SIX], []),
    ],
    ids=lambda each: " ".join(each) or "none",
)
def test_only_the_addresses_that_are_held_cannot_connect_until_they_are_let_go(listening, held, open_from, not_from):
    newcomers = Newcomers([listening])
    for each in held:
        newcomers.hold(each)
    assert [connects(listening, source) for source in open_from] == [True] * len(open_from)
    assert [connects(listening, source) for source in not_from] == [False] * len(not_from)
    for each in held:
        newcomers.let_go(each)
    assert all(connects(listening, source) for source in [*open_from, *not_from])


def test_a_connection_that_stands_goes_on_while_its_address_is_held(listening):
    newcomers = Newcomers([listening])
    with socket.create_connection((FOUR, listening.getsockname()[1]), 5) as near:
        far, _ = listening.accept()
        with far:
            newcomers.hold("ipv4:127.0.0.1")
            near.sendall(b"on")
            assert far.recv(2) == b"on"


def test_a_refusal_of_the_kernel_is_said_once_and_changes_nothing(caplog):
    with socket.socket() as closed:
        pass
    newcomers = Newcomers([closed])
    newcomers.hold("ipv4:127.0.0.2")
    newcomers.let_go("ipv4:127.0.0.2")
    assert len(caplog.records) == 1 and "cannot be made to wait" in caplog.text


def test_the_program_of_the_most_addresses_is_one_that_the_kernel_takes(listening):
    newcomers = Newcomers([listening])
    for number in range(20):
        newcomers.hold(f"ipv4:10.0.0.{number}")
        newcomers.hold(address_of(f"ipv6:%5B2001:db8:0:{number}::1%5D:1"))
    assert len(newcomers.held) == 16 and newcomers._sockets
    assert len(program(newcomers.held)) % 8 == 0


def test_a_crowd_of_new_connections_waits_and_is_served_again_when_the_line_is_short(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(grpc_server, "CROWD", 20)
    monkeypatch.setattr(grpc_server, "CALM", 2)
    own = [("grpc.use_local_subchannel_pool", 1)]
    with Harness(tmp_path) as harness, harness.channel() as channel, contextlib.ExitStack() as stack:
        predict(channel, request(b"good"))
        core = harness.gateway._server
        crowd = [stack.enter_context(harness.channel(options=own)) for _ in range(4)]
        for each in crowd:
            grpc.channel_ready_future(each).result(WAIT_S)
        ask = [each.unary_unary(wire.GET_MODEL_PATH) for each in crowd]
        with harness.standing():
            calls = [each.future(b"\x99", timeout=WAIT_S) for _ in range(20) for each in ask]
            with pytest.raises(grpc.RpcError):  # by then those above have come
                channel.unary_unary(wire.GET_MODEL_PATH)(b"", timeout=0.5)
        until(lambda: "calls of new connections of ipv4:127.0.0.1 wait" in caplog.text, "the crowd")
        until(lambda: not core.newcomers.held, "its end")
        assert {each.code() for each in calls} == {grpc.StatusCode.INVALID_ARGUMENT}
        predict(stack.enter_context(harness.channel(options=own)), request(b"good"))
