"""Megabytes that belong to no call, on a real connection of gRPC, and megabytes that do."""

import contextlib
import socket
import struct

import pytest

from servable.gateway.limits.sockets import bytes_received
from tests.integration.servable.gateway.harness import WAIT_S, Harness, predict_future, request, until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = struct.pack(">I", 2730 * 6)[1:] + b"\x04\x00" + bytes(4) + struct.pack(">HI", 0x7777, 1) * 2730
FOUND = "sends megabytes that belong to no call"


def test_a_connection_that_floods_is_found_and_goes_on_after_a_pause(tmp_path, caplog):
    with Harness(tmp_path) as harness:
        host, _, port = harness.address.rpartition(":")
        with socket.create_connection((host, int(port)), WAIT_S) as connected:
            connected.sendall(PREFACE + bytes(3) + b"\x04\x00" + bytes(4))

            def flooded():
                connected.sendall(SETTINGS * 60)  # waits while the connection is paused
                with contextlib.suppress(BlockingIOError):
                    connected.recv(65536, socket.MSG_DONTWAIT)
                return FOUND in caplog.text

            until(flooded, "the line in the log", 3 * WAIT_S)
            (before,) = bytes_received(int(port)).values()
            for _ in range(10):
                flooded()
            assert sum(bytes_received(int(port)).values()) > before


@pytest.mark.parametrize("size", [100_000, 30_000_000])
def test_a_caller_of_large_bodies_is_not_found(tmp_path, caplog, size):
    body = request(bytes(size)).SerializeToString()
    with Harness(tmp_path) as harness, harness.channel() as channel:
        for _ in range(3):
            calls = [predict_future(channel, body) for _ in range(max(2, 10_000_000 // size))]
            for call in calls:
                call.exception(3 * WAIT_S)
    assert FOUND not in caplog.text


def test_the_kernel_tells_what_a_connection_has_brought():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as near:
            far, _ = listening.accept()
            with far:
                near.sendall(bytes(1000))
                assert until(lambda: bytes_received(port)) == {near.getsockname(): 1000}
