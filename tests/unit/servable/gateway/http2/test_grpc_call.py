"""A call's messages, however their bytes come."""

import asyncio
import types

import pytest

from servable.gateway.http2.frame_protocol import CALL_WINDOW
from servable.gateway.http2.grpc_call import SMALL_BYTES, GrpcCall
from servable.gateway.http2.header_block import RequestHead
from servable.gateway.http2.http2_stream import PREFIX

WIRE = types.SimpleNamespace(key="", peer="", loop=None, hold=lambda size: None, most_message_bytes=1_000_000)
MESSAGES = [b"first" * 2_000, b"", b"x", bytes(range(256)) * 100]


def arrive(call, data, size):
    for at in range(0, len(data), size):
        assert call.arrived(memoryview(data)[at : at + size])


@pytest.mark.parametrize("size", [1, 7, SMALL_BYTES, 9_000, 60_000])
def test_messages_that_come_together_are_told_apart(size):
    call = GrpcCall(WIRE, 1, RequestHead(), 0, 0.0)
    arrive(call, b"".join(PREFIX.pack(0, len(message)) + message for message in MESSAGES), size)
    assert [call.read_now() for _ in MESSAGES] == MESSAGES
    assert call.read_now() is None


@pytest.mark.parametrize("size", [1, 7, SMALL_BYTES, 9_000])
def test_a_message_is_there_with_its_last_byte(size):
    call = GrpcCall(WIRE, 1, RequestHead(), 0, 0.0)
    for message in MESSAGES:
        whole = PREFIX.pack(0, len(message)) + message
        arrive(call, whole[:-1], size)
        assert call.read_now() is None
        arrive(call, whole[-1:], size)
        assert call.read_now() == message


def test_a_call_that_ends_because_of_what_just_came_takes_the_rest_of_it():
    """Too many bodies wait, and it is the latest one."""

    async def scene():
        wire = types.SimpleNamespace(**vars(WIRE))
        call = GrpcCall(wire, 1, RequestHead(), 0, 0.0)
        call._arrived = asyncio.get_running_loop().create_future()
        whole = PREFIX.pack(0, 1_000_000) + bytes(CALL_WINDOW - PREFIX.size)
        arrive(call, whole[: CALL_WINDOW * 3 // 4], 16_384)
        wire.hold = lambda size: call._drop_body() if size > 0 else None
        assert call.arrived(memoryview(whole)[CALL_WINDOW * 3 // 4 :][:16_384])
        assert call.waiting_bytes == 0

    asyncio.run(scene())
