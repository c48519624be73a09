"""Frames as bytes."""

import struct

import pytest

from servable.gateway.http2 import frames
from servable.gateway.http2.frames import ConnectionFault, Reason

KINDS = range(12)


def failed(call, *arguments):
    with pytest.raises(ConnectionFault) as caught:
        call(*arguments)
    assert caught.value.words
    return caught.value.reason


@pytest.mark.parametrize("length", [0, 1, 255, 256, 65_535, 65_536, 2**24 - 1])
def test_a_head_has_24_bits_of_length_and_31_of_stream(length):
    head = frames.head(frames.DATA, 5, 2**31 - 1, length)
    assert len(head) == frames.HEAD_BYTES
    assert int.from_bytes(head[:3], "big") == length and head[3:] == b"\x00\x05\x7f\xff\xff\xff"


def test_frames_are_written_as_the_rfc_draws_them():
    assert frames.settings({3: 100, 5: 2**14}) == bytes.fromhex("00000c040000000000000300000064000500004000")
    assert bytes.fromhex("000000040100000000") == frames.SETTINGS_TAKEN
    assert frames.ping(b"12345678", answer=True) == bytes.fromhex("000008060100000000") + b"12345678"
    assert frames.ping(bytes(8), answer=False)[4] == 0
    assert frames.reset(7, Reason.CANCEL) == bytes.fromhex("00000403000000000700000008")
    assert frames.window_update(7, 2**31 - 1) == bytes.fromhex("0000040800000000077fffffff")
    assert frames.go_away(9, Reason.NO_ERROR, "é") == bytes.fromhex("00000a0700000000000000000900000000c3a9")


def test_settings_are_read_back_the_last_of_each_counts_and_unknown_ones_are_kept():
    payload = struct.pack(">HIHIHI", 4, 1, 4, 2, 0xABCD, 3)
    assert frames.read_settings(payload) == {4: 2, 0xABCD: 3}
    assert frames.read_settings(b"") == {}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({frames.ENABLE_PUSH: 2}, Reason.PROTOCOL_ERROR),
        ({frames.INITIAL_WINDOW_SIZE: 2**31}, Reason.FLOW_CONTROL_ERROR),
        ({frames.MAX_FRAME_SIZE: 2**14 - 1}, Reason.PROTOCOL_ERROR),
        ({frames.MAX_FRAME_SIZE: 2**24}, Reason.PROTOCOL_ERROR),
    ],
)
def test_settings_outside_their_range_are_faults(values, reason):
    assert failed(frames.read_settings, frames.settings(values)[9:]) is reason


@pytest.mark.parametrize(
    "values",
    [
        {frames.ENABLE_PUSH: 1},
        {frames.INITIAL_WINDOW_SIZE: 2**31 - 1},
        {frames.INITIAL_WINDOW_SIZE: 0},
        {frames.MAX_FRAME_SIZE: 2**14},
        {frames.MAX_FRAME_SIZE: 2**24 - 1},
        {frames.HEADER_TABLE_SIZE: 2**32 - 1},
    ],
)
def test_settings_at_the_ends_of_their_range_are_taken(values):
    assert frames.read_settings(frames.settings(values)[9:]) == values


@pytest.mark.parametrize("size", [1, 5, 7])
def test_settings_are_whole(size):
    assert failed(frames.read_settings, bytes(size)) is Reason.FRAME_SIZE_ERROR


@pytest.mark.parametrize(("padding", "length"), [(0, 1), (0, 100), (5, 6), (5, 7), (255, 256)])
def test_padding_is_told_with_the_byte_that_tells_it(padding, length):
    assert frames.padding_of(memoryview(bytes([padding]) + bytes(length - 1)), length) == padding + 1


def test_padding_fits_into_its_frame():
    assert failed(frames.padding_of, memoryview(b""), 0) is Reason.FRAME_SIZE_ERROR
    assert failed(frames.padding_of, memoryview(b"\x05abcd"), 5) is Reason.PROTOCOL_ERROR


def test_frames_of_a_connection_are_on_stream_0_and_those_of_a_call_on_an_odd_one():
    sizes = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4, frames.GOAWAY: 8}
    right = {kind: {s for s in range(4) if frames.error_of(kind, sizes.get(kind, 6), s) is None} for kind in KINDS}
    for kind in (frames.SETTINGS, frames.PING, frames.GOAWAY):
        assert right[kind] == {0}
    for kind in (frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.CONTINUATION, frames.PUSH_PROMISE):
        assert right[kind] == {1, 3}
    assert right[frames.WINDOW_UPDATE] == {0, 1, 3}
    assert right[frames.PRIORITY] == {1, 2, 3}, "also of streams that nobody will open"
    assert right[10] == right[11] == {0, 1, 2, 3}, "unknown kinds"


@pytest.mark.parametrize(
    ("kind", "length", "stream"),
    [(frames.PRIORITY, 5, 1), (frames.RST_STREAM, 4, 1), (frames.PING, 8, 0), (frames.WINDOW_UPDATE, 4, 1)],
)
def test_frames_of_one_size_have_that_one(kind, length, stream):
    assert frames.error_of(kind, length, stream) is None
    for wrong in (0, length - 1, length + 1):
        assert frames.error_of(kind, wrong, stream).reason is Reason.FRAME_SIZE_ERROR


def test_a_farewell_has_at_least_its_two_numbers():
    assert frames.error_of(frames.GOAWAY, 7, 0).reason is Reason.FRAME_SIZE_ERROR
    assert frames.error_of(frames.GOAWAY, 8, 0) is frames.error_of(frames.GOAWAY, 5000, 0) is None
