"""The rules of RFC 9113 that a peer of the gRPC port relies on: frames, streams, header blocks, settings.

The windows have test_http2_windows.py, the ends of calls and connections test_http2_ends.py.
"""

import contextlib
import struct

import pytest

from tests.integration.servable.gateway.http2_peer import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FIRST_WINDOW,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    LIST_BYTES,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    STREAMS,
    TABLE_SIZE,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Peer,
    Served,
    data,
    fields,
    frame,
    message,
    reset,
    served_without_errors,
    settings,
    window,
)

STILL = b"still there"


@pytest.fixture
def served(caplog):
    with served_without_errors(caplog, max_request_bytes=1_000_000, max_image_bytes=1000) as served:
        yield served


@pytest.fixture
def peer(served):
    return served.peer()


# The first words (sections 3.4 and 6.5)


def test_the_first_frame_that_the_server_sends_is_settings_with_its_limits(served):
    peer = served.peer()
    first = peer.read()
    assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
    values = dict(struct.iter_unpack(">HI", first.payload))
    assert values[STREAMS] == 256 and values[FRAME_BYTES] == 256 * 1024 and values[LIST_BYTES] == 16 * 1024
    assert PUSH not in values, "that is the client's to say"


def test_settings_are_acknowledged_once_each(peer):
    peer.send(settings({FRAME_BYTES: 20_000}), settings())
    acks = [each for each in peer.settle() if each.kind == SETTINGS and each.flags & ACK]
    assert len(acks) == 3 and not any(each.payload for each in acks), "one of them is the greeting's"


def test_an_acknowledgement_is_not_acknowledged(peer):
    peer.settle()
    peer.send(settings(flags=ACK))
    assert not [each for each in peer.settle() if each.kind == SETTINGS]


def test_a_preface_and_its_first_call_may_come_byte_by_byte(served):
    peer = served.peer(greets=False)
    for byte in PREFACE + settings() + peer.head(1) + data(1, message(b"x"), ends=True):
        peer.send(bytes([byte]))
    assert peer.reply(1).messages == [b"x"]


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"POST /a HTTP/1.1\r\n\r\n", b"\x16\x03\x01" * 9]
)
@pytest.mark.parametrize("slowly", [False, True])
def test_who_speaks_another_protocol_is_told_so_in_http_1_and_hears_nothing_else(served, said, slowly):
    with served.socket() as connected:
        heard = b""
        with contextlib.suppress(ConnectionError):  # what it sends beyond may not be read
            for part in [said[:1], said[1:2], said[2:]] if slowly else [said]:
                connected.sendall(part)
            while more := connected.recv(4096):
                heard += more
    if not slowly:
        assert heard.startswith(b"HTTP/1.1 400 ") and heard.endswith(b"this port speaks gRPC\n"), heard


@pytest.mark.parametrize("first", [frame(PING, 0, 0, bytes(8)), settings(flags=ACK), window(0, 1), data(1, b"x")])
def test_a_first_frame_that_is_not_settings_ends_the_connection(served, first):
    peer = served.peer(greets=False)
    peer.send(PREFACE, first)
    assert peer.end() == (0, PROTOCOL_ERROR)


# Frames (sections 4 and 6)


def test_a_ping_is_answered_with_its_payload_and_an_answer_is_not(peer):
    peer.send(frame(PING, 0, 0, b"12345678"), frame(PING, ACK, 0, b"abcdefgh"))
    found = [each for each in peer.settle() if each.kind == PING]
    assert [(each.flags, each.payload) for each in found] == [(ACK, b"12345678")]


@pytest.mark.parametrize("kind", [0x0A, 0x0B, 0x20, 0xFF])
def test_frames_of_unknown_kinds_are_left(peer, kind):
    peer.send(frame(kind, 0xFF, 0, b"x" * 100), frame(kind, 0xFF, 8, b""), frame(kind, 0, 1, bytes(16384)))
    assert peer.answers(101, STILL)


def test_flags_without_a_meaning_and_the_reserved_bit_are_left(peer):
    block = peer.block()
    peer.send(
        frame(PING, 0xFE, 0, bytes(8)),
        frame(HEADERS, END_HEADERS | 0xD2, 2**31 + 1, block),
        frame(DATA, END_STREAM | 0xF6, 2**31 + 1, message(b"x")),
    )
    assert peer.reply(1).messages == [b"x"]


def test_priorities_are_left_wherever_they_come(peer):
    priority = struct.pack(">IB", 0, 15)
    peer.send(
        frame(PRIORITY, 0, 1, priority),
        frame(PRIORITY, 0, 2, priority),
        frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, priority + peer.block()),
        frame(PRIORITY, 0, 1, priority),
        data(1, message(b"x"), ends=True),
        frame(PRIORITY, 0, 1, priority),
    )
    assert peer.reply(1).messages == [b"x"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        (frame(PING, 0, 0, bytes(9)), FRAME_SIZE_ERROR),
        (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
        (frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
        (settings({PUSH: 2}), PROTOCOL_ERROR),
        (settings({FIRST_WINDOW: 2**31}), FLOW_CONTROL_ERROR),
        (settings({FRAME_BYTES: 2**14 - 1}), PROTOCOL_ERROR),
        (settings({FRAME_BYTES: 2**24}), PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
        (window(0, 0), PROTOCOL_ERROR),
        (window(1, 1), PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
        (reset(0), PROTOCOL_ERROR),
        (reset(1), PROTOCOL_ERROR),
        (reset(2), PROTOCOL_ERROR),
        (window(2, 1), PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), PROTOCOL_ERROR),
        (frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        (data(1, b"x"), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 0, b"\x88"), PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1, b"\x88"), PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 0, b"\x88"), PROTOCOL_ERROR),
        (struct.pack(">HBBBI", 1024, 1, DATA, 0, 1), FRAME_SIZE_ERROR),
        (struct.pack(">HBBBI", 1024, 1, HEADERS, END_HEADERS, 1), FRAME_SIZE_ERROR),
    ],
)
def test_what_can_be_no_frame_ends_the_connection_with_its_reason(peer, wrong, reason):
    peer.send(wrong)
    assert peer.end() == (0, reason)


def test_data_beyond_the_largest_frame_ends_the_connection(peer):
    peer.send(peer.head(1), struct.pack(">HBBBI", 1024, 1, DATA, 0, 1))
    assert peer.end() == (1, FRAME_SIZE_ERROR)


# Streams (section 5.1)


@pytest.mark.parametrize("stream", [2, 4, 2**31 - 2])
def test_a_call_on_an_even_stream_ends_the_connection(peer, stream):
    peer.send(peer.head(stream))
    assert peer.end() == (0, PROTOCOL_ERROR)


@pytest.mark.parametrize("kind", ["HEADERS", "DATA", "RST_STREAM", "WINDOW_UPDATE"])
def test_an_even_stream_stays_idle_when_odd_ones_have_passed_it(peer, kind):
    peer.call(5)
    peer.reply(5)
    wrong = {"HEADERS": peer.head(4), "DATA": data(4, b"x"), "RST_STREAM": reset(4), "WINDOW_UPDATE": window(4, 1)}
    peer.send(wrong[kind])
    assert peer.end() == (5, PROTOCOL_ERROR)


def test_streams_may_leave_numbers_out_and_go_to_the_last_one(peer):
    for stream in (1, 9, 1001, 2**31 - 1):
        peer.call(stream, "/t/Echo", b"%d" % stream)
        assert peer.reply(stream).messages == [b"%d" % stream]


@pytest.mark.parametrize("kind", [DATA, WINDOW_UPDATE, RST_STREAM])
def test_frames_on_a_stream_that_was_passed_over_end_nothing(peer, kind):
    peer.call(9)
    peer.reply(9)
    peer.send({DATA: data(3, b"x"), WINDOW_UPDATE: window(3, 1), RST_STREAM: reset(3)}[kind])
    assert peer.answers(101, STILL)


def test_frames_of_a_call_that_is_over_are_left(served, peer):
    peer.send(peer.head(1, "/t/No"))  # refused before its body
    assert peer.reply(1).status == 12
    peer.send(
        data(1, message(b"x")),
        window(1, 1000),
        data(1, b"", ends=True),
        window(1, 1000),
        reset(1),
        window(1, 2**31 - 1),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, peer.block(raw=[("trailer", "x")])),
    )
    assert peer.answers(101, STILL)


def test_data_behind_the_end_of_a_callers_half_ends_the_call(served, peer):
    peer.send(peer.head(1, "/t/Hold", ends=True))
    served.until_begun("/t/Hold")
    peer.send(data(1, b"x"))
    assert peer.reply(1).reset == STREAM_CLOSED
    served.until_ended("/t/Hold")
    assert peer.answers(101, STILL)


def test_headers_behind_the_end_of_a_callers_half_end_the_call(served, peer):
    peer.send(peer.head(1, "/t/Hold", ends=True))
    served.until_begun("/t/Hold")
    peer.send(peer.head(1, ends=True))
    assert peer.reply(1).reset == STREAM_CLOSED
    served.until_ended("/t/Hold")
    assert peer.answers(101, STILL)


def test_calls_beyond_the_most_streams_are_refused_so_that_they_can_be_sent_again():
    with Served(max_streams_per_connection=3) as served:
        peer = served.peer()
        assert dict(struct.iter_unpack(">HI", peer.read().payload))[STREAMS] == 3
        for stream in (1, 3, 5, 7, 9):
            peer.send(peer.head(stream, "/t/Hold"))
        assert peer.reply(7).reset == peer.reply(9).reset == REFUSED_STREAM
        served.until_begun("/t/Hold", 3)
        peer.send(reset(3))
        assert peer.answers(11, STILL), "a place is free again"
        assert served.handlers.begun["/t/Hold"] == 3


# Header blocks (sections 4.3 and 8)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_a_header_block_may_come_in_continuations(peer, size):
    block = peer.block("/t/Meta", ("key", "v" * 100))
    pieces = [block[index : index + size] for index in range(0, len(block), size)]
    peer.send(frame(HEADERS, END_STREAM, 1, pieces[0]), *(frame(CONTINUATION, 0, 1, each) for each in pieces[1:]))
    peer.send(frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, END_HEADERS, 1, b""))
    assert ("got-key", "v" * 100) in peer.reply(1).trailers


@pytest.mark.parametrize(
    "between",
    [frame(PING, 0, 0, bytes(8)), frame(CONTINUATION, END_HEADERS, 1, b""), data(1, b"x"), frame(0x20), settings()],
)
def test_nothing_may_come_within_a_header_block(peer, between):
    peer.call(1)
    peer.reply(1)
    peer.send(frame(HEADERS, 0, 3, peer.block()), between)
    assert peer.end() == (1, PROTOCOL_ERROR)


def test_a_header_block_that_never_ends_ends_the_connection(peer):
    peer.send(frame(HEADERS, 0, 1, b""), *[frame(CONTINUATION, 0, 1, bytes(16384))] * 9)
    assert peer.end() == (0, ENHANCE_YOUR_CALM)


@pytest.mark.parametrize(
    "block", [b"\x80", b"\xff\xff\xff\xff\xff\x0f", b"\x00\x05ab", b"\x3f\xff\xff\xff\x7f", b"\xc8"]
)
def test_a_header_block_that_cannot_be_read_ends_the_connection(peer, block):
    peer.send(frame(HEADERS, END_HEADERS, 1, block))
    assert peer.end() == (1, COMPRESSION_ERROR)


def test_a_callers_table_is_followed_also_through_calls_that_are_refused(peer):
    repeated = ("x-long-name", "v" * 50)
    refused = peer.block("/t/No", ("y-name", "w"))
    blocks = [peer.block("/t/Meta", repeated) for _ in range(4)]
    assert len(blocks[1]) < 30 < len(blocks[0]), "the second one is made of the table"
    peer.send(frame(HEADERS, END_HEADERS, 1, refused))
    for index, block in enumerate([*blocks, peer.block("/t/Meta", ("y-name", "w"))]):
        stream = 3 + 2 * index
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
        wanted = ("got-x-long-name", "v" * 50) if index < 4 else ("got-y-name", "w")
        assert wanted in peer.reply(stream).trailers


def test_a_caller_may_make_its_table_smaller(peer):
    peer.call(1, "/t/Echo", b"x", ("a", "b"))
    peer._encoder.header_table_size = 0
    peer.call(3, "/t/Echo", b"y", ("a", "b"))
    peer._encoder.header_table_size = 4096
    peer.call(5, "/t/Echo", b"z", ("a", "b"))
    assert [peer.reply(stream).messages for stream in (1, 3, 5)] == [[b"x"], [b"y"], [b"z"]]


def test_a_table_larger_than_was_offered_ends_the_connection(peer):
    peer._encoder.header_table_size = 8192
    peer.send(peer.head(1))
    assert peer.end() == (1, COMPRESSION_ERROR)


@pytest.mark.parametrize("first", [0, 100, 4096, 2**16])
def test_a_caller_that_has_no_room_for_a_table_can_read_the_answers(served, first):
    """Where it lowers the size, it waits for the word of the one who writes (RFC 7541, section 4.2)."""
    peer = served.peer({TABLE_SIZE: first})
    peer._decoder.max_allowed_table_size = first
    assert peer.answers(101, STILL) and peer.answers(103, STILL)


def without(name):
    return [pair for pair in fields() if pair[0] != name]


@pytest.mark.parametrize(
    "raw",
    [
        without(":path"),
        without(":method"),
        without(":scheme"),
        [(":path", "/t/Echo"), *fields()],
        [*fields(), (":authority", "there")],
        [*without(":path"), (":path", "/t/Echo")],
        [(":status", "200"), *fields()],
        [(":protocol", "websocket"), *fields()],
        [*fields(), ("Upper", "x")],
        [*fields(), ("", "x")],
        [*fields(), ("a b", "x")],
        [*fields(), ("a\r\nb", "x")],
        [*fields(), ("a", "x\r\nb: c")],
        [*fields(), ("a", "x\x00")],
        [*fields(), ("a:", "x")],
        [*fields(), ("connection", "close")],
        [*fields(), ("transfer-encoding", "chunked")],
        [*fields(), ("keep-alive", "5")],
        [*fields(), ("proxy-connection", "close")],
        [*fields(), ("upgrade", "h2c")],
        [*without("te"), ("te", "gzip")],
        [(name, "" if name == ":path" else value) for name, value in fields()],
        fields("/t/Echo\x00"),
        [],
    ],
)
def test_what_is_no_request_is_reset_and_the_connection_goes_on(served, peer, raw):
    peer.send(peer.head(1, raw=raw))
    assert peer.reply(1).reset == PROTOCOL_ERROR
    assert peer.answers(101, STILL)
    assert set(served.handlers.begun) == {"/t/Echo"}


def test_trailers_end_the_callers_half_and_say_nothing(peer):
    peer.send(peer.head(1), data(1, message(b"x")))
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, peer.block(raw=[("trailer", "x")])))
    assert peer.reply(1).messages == [b"x"] and peer.reply(1).reset is None
    again = peer.block("/t/Meta", ("trailer", "x"))
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, again))
    assert ("got-trailer", "x") in peer.reply(3).trailers, "their fields are in the table"


def test_trailers_that_do_not_end_the_callers_half_end_the_call(served, peer):
    peer.send(peer.head(1, "/t/Hold"))
    served.until_begun("/t/Hold")
    peer.send(peer.head(1))
    assert peer.reply(1).reset == PROTOCOL_ERROR
    served.until_ended("/t/Hold")
    assert peer.answers(101, STILL)


def test_a_header_block_with_too_many_fields_is_answered_and_its_connection_ends_when_its_calls_have(served, peer):
    """What later blocks mean depends on the rest of it, which is not read."""
    peer.send(peer.head(1, "/t/Wait", ends=True))
    peer.wait(lambda each: each.kind == DATA)
    peer.send(peer.head(3, "/t/Echo", ("k", "v" * 40_000)))
    assert peer.reply(3).status == 8 and "16384" in peer.reply(3).words
    peer.send(peer.head(5))
    assert peer.reply(5).reset == REFUSED_STREAM
    peer.send(reset(1))
    assert peer.end() == (3, NO_ERROR)


# Padding (section 6.1)


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_padding_is_left_out_of_messages_and_headers(peer, padding):
    body = message(b"a message")
    block = peer.block()
    peer.send(frame(HEADERS, END_HEADERS | PADDED, 1, bytes([padding]) + block + bytes(padding)))
    peer.send(data(1, body[:3], padding=padding), data(1, b"", padding=padding), data(1, body[3:], padding=padding))
    peer.send(data(1, b"", padding=padding, ends=True))
    assert peer.reply(1).messages == [b"a message"]


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_padded_frame_may_come_in_two_pieces(peer, cut):
    whole = data(1, message(b"abc"), padding=3, ends=True)
    peer.send(peer.head(1))
    peer.settle()
    peer.send(whole[:cut])
    peer.send(whole[cut:])
    assert peer.reply(1).messages == [b"abc"]


@pytest.mark.parametrize("kind", [DATA, HEADERS])
@pytest.mark.parametrize("payload", [b"\x01", b"\x05abcd", b"\xff" + bytes(254)])
def test_padding_that_is_longer_than_its_frame_ends_the_connection(peer, kind, payload):
    peer.call(1)
    peer.reply(1)
    peer.send(peer.head(3, "/t/Hold"))
    peer.send(frame(kind, PADDED | END_HEADERS, 3, payload))
    assert peer.end() == (3, PROTOCOL_ERROR)


@pytest.mark.parametrize("kind", [DATA, HEADERS])
def test_a_padded_frame_without_its_length_ends_the_connection(peer, kind):
    peer.send(peer.head(1, "/t/Hold"), frame(kind, PADDED | END_HEADERS, 1))
    assert peer.end() == (1, FRAME_SIZE_ERROR)


def test_headers_with_less_than_a_priority_end_the_connection(peer):
    peer.send(frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, bytes(4)))
    assert peer.end() == (0, FRAME_SIZE_ERROR)


def test_a_connection_has_its_own_state(served):
    """Tables, streams, windows."""
    one, other = served.peer(), served.peer({FIRST_WINDOW: 0})
    one.call(7, "/t/Echo", b"a", ("k", "v"))
    other.call(1, "/t/Echo", b"b", ("l", "w"))
    other.send(window(1, 100))
    assert one.reply(7).messages == [b"a"] and other.reply(1).messages == [b"b"]
    assert isinstance(one, Peer) and one.answers(101, STILL) and not other.replies.get(101)
