"""Flow control of the gRPC port, both ways (RFC 9113, sections 5.2 and 6.9)."""

import random
import threading

import grpc
import pytest

from servable.gateway.http2 import frame_protocol, grpc_server, http2_connection
from servable.gateway.http2.frame_protocol import CALL_WINDOW
from tests.integration.servable.gateway.harness import until
from tests.integration.servable.gateway.http2_peer import (
    CANCEL,
    DATA,
    FIRST_WINDOW,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES,
    HEADERS,
    PROTOCOL_ERROR,
    WINDOW_UPDATE,
    data,
    message,
    reset,
    served_without_errors,
    settings,
    window,
)

DEFAULT = 65_535
LARGE = 2**31 - 1


@pytest.fixture
def served(caplog):
    with served_without_errors(caplog, max_request_bytes=64 * 1024 * 1024, max_image_bytes=1000) as served:
        yield served


def given(frames, stream):
    """By which a window was made larger."""
    sizes = [
        int.from_bytes(each.payload, "big") for each in frames if each.kind == WINDOW_UPDATE and each.stream == stream
    ]
    return sum(sizes)


def came(peer, stream):
    """Bytes of DATA so far."""
    peer.settle()
    return len(peer.replies[stream].body) if stream in peer.replies else 0


# What the server sends


@pytest.mark.parametrize(("first", "connection"), [(0, DEFAULT), (1, DEFAULT), (10_000, DEFAULT), (200_000, DEFAULT)])
def test_a_reply_goes_as_far_as_the_windows_let_it_and_on_with_each_byte_more(served, first, connection):
    peer = served.peer({FIRST_WINDOW: first})
    peer.call(1, "/t/Big", b"100000")
    peer.wait(lambda each: each.kind == HEADERS)  # the status is under no window
    served.until_begun("/t/Big")
    there = min(first, connection, 100_005)
    until(lambda: came(peer, 1) == there, "what the windows let through")
    if first < connection:
        peer.send(window(1, 7))
        there += 7
        assert came(peer, 1) == there
        peer.send(window(1, 200_000))
        there = connection
        assert came(peer, 1) == there
    peer.send(window(0, 11))
    assert came(peer, 1) == there + 11
    peer.send(window(0, 200_000))
    assert peer.reply(1).status == 0 and len(peer.reply(1).messages[0]) == 100_000


def test_a_window_of_one_byte_at_a_time_carries_a_whole_reply(served):
    peer = served.peer({FIRST_WINDOW: 1})
    peer.call(1, "/t/Big", b"30")
    for _ in range(34):
        peer.wait(lambda each: each.kind == DATA)
        peer.send(window(1, 1))
    assert peer.reply(1).messages == [bytes(30)]
    assert {len(each.payload) for each in peer.replies[1].frames if each.kind == DATA} == {1}


def test_a_first_window_that_changes_while_replies_wait_moves_their_windows_by_the_difference(served):
    peer = served.peer({FIRST_WINDOW: 1000})
    for stream in (1, 3):
        peer.call(stream, "/t/Big", b"20000")
    until(lambda: came(peer, 1) == came(peer, 3) == 1000)
    peer.send(window(3, 500))
    peer.send(settings({FIRST_WINDOW: 3000}))
    assert (came(peer, 1), came(peer, 3)) == (3000, 3500)
    peer.send(settings({FIRST_WINDOW: 0}))  # both are below zero now
    peer.send(window(1, 2999), window(3, 3000))
    assert (came(peer, 1), came(peer, 3)) == (3000, 3500), "1 and 0 below what was sent"
    peer.send(window(1, 2), window(3, 4))
    assert (came(peer, 1), came(peer, 3)) == (3001, 3504)
    peer.call(5, "/t/Big", b"10")
    served.until_begun("/t/Big", 3)
    assert came(peer, 5) == 0, "a new call has the new first window"
    peer.send(settings({FIRST_WINDOW: DEFAULT}))
    for stream, size in ((1, 20_000), (3, 20_000), (5, 10)):
        assert len(peer.reply(stream).messages[0]) == size


def test_the_largest_windows_are_taken_and_larger_ones_end_what_they_are_of(served):
    peer = served.peer({FIRST_WINDOW: LARGE - 100})
    peer.call(1, "/t/Wait")
    peer.wait(lambda each: each.kind == DATA)  # 10 bytes
    peer.send(window(0, LARGE - DEFAULT + 10), window(1, 110))
    assert not [each for each in peer.settle() if each.stream]
    peer.send(window(1, 1))
    assert peer.reply(1).reset == FLOW_CONTROL_ERROR
    peer.send(window(0, 1))
    assert peer.end() == (1, FLOW_CONTROL_ERROR)


def test_a_first_window_that_makes_a_calls_window_too_large_ends_the_connection(served):
    peer = served.peer()
    peer.call(1, "/t/Hold")
    peer.send(window(1, LARGE - DEFAULT), settings({FIRST_WINDOW: DEFAULT + 1}))
    assert peer.end() == (1, FLOW_CONTROL_ERROR)


def test_a_calls_window_that_grows_by_nothing_ends_the_call(served):
    peer = served.peer()
    peer.call(1, "/t/Hold")
    peer.send(window(1, 0))
    assert peer.reply(1).reset == PROTOCOL_ERROR
    peer.call(3)
    assert peer.reply(3).status == 0


@pytest.mark.parametrize("most", [2**14, 2**14 + 1, 100_000, 2**24 - 1])
def test_no_frame_is_larger_than_the_caller_takes(served, most):
    peer = served.peer({FRAME_BYTES: most, FIRST_WINDOW: LARGE})
    peer.send(window(0, LARGE - DEFAULT))
    peer.call(1, "/t/Big", b"300000")
    sizes = [len(each.payload) for each in peer.reply(1).frames if each.kind == DATA]
    assert sum(sizes) == 300_005 and max(sizes) == min(most, 300_005)


def test_calls_that_share_the_connections_window_have_turns(served):
    peer = served.peer({FIRST_WINDOW: LARGE})
    streams = range(1, 17, 2)
    for stream in streams:
        peer.call(stream, "/t/Big", b"100000")
    served.until_begun("/t/Big", len(streams))
    until(lambda: sum(came(peer, stream) for stream in streams) == DEFAULT)
    before = {stream: came(peer, stream) for stream in streams}
    peer.send(window(0, 8 * 16384))
    assert all(came(peer, stream) == before[stream] + 16384 for stream in streams), "a frame each"
    for _ in range(60):
        peer.send(window(0, 16384))
    assert all(peer.reply(stream).status == 0 for stream in streams)


def test_a_call_that_came_later_is_not_kept_from_its_reply_by_one_whose_own_window_is_full(served):
    peer = served.peer({FIRST_WINDOW: 10})
    peer.call(1, "/t/Big", b"10000")
    until(lambda: came(peer, 1) == 10)
    peer.call(3, "/t/Echo", b"short")
    assert peer.reply(3).messages == [b"short"]


def test_an_error_is_told_also_where_every_window_is_full(served):
    peer = served.peer({FIRST_WINDOW: 0})
    peer.call(1, "/t/No")
    assert peer.reply(1).status == 12


def test_several_replies_of_one_call_wait_for_their_windows_one_after_the_other(served):
    peer = served.peer({FIRST_WINDOW: 6})
    peer.call(1, "/t/Count", b"5")
    for _ in range(5):
        peer.wait(lambda each: each.kind == DATA)
        peer.send(window(1, 6))
    assert peer.reply(1).messages == [b"0", b"1", b"2", b"3", b"4"] and peer.replies[1].status == 0


def test_a_call_that_is_taken_back_while_its_reply_waits_leaves_the_window_to_others(served):
    peer = served.peer({FIRST_WINDOW: LARGE})
    for stream in (1, 3):
        peer.call(stream, "/t/Big", b"100000")
    served.until_begun("/t/Big", 2)
    until(lambda: came(peer, 1) + came(peer, 3) == DEFAULT)
    peer.send(reset(1))
    peer.settle()
    had, before = came(peer, 3), came(peer, 1)
    peer.send(window(0, 100_005 - had))
    assert len(peer.reply(3).messages[0]) == 100_000 and len(peer.replies[1].body) == before


def test_a_caller_that_reads_slowly_gets_all_of_many_large_replies(served):
    """Far more than the kernel and the gateway's own buffer take at once; nobody waits for one reply alone."""
    peer = served.peer({FIRST_WINDOW: LARGE})
    peer.send(window(0, LARGE - DEFAULT))
    for stream in range(1, 41, 2):
        peer.call(stream, "/t/Big", b"1000000")
    until(lambda: any(each._full for each in served.connections), "a caller that does not read")
    held = next(each for each in served.connections if each._full)
    assert held._transport.get_write_buffer_size() < 2 * http2_connection.MOST_UNSENT_BYTES
    for stream in range(1, 41, 2):
        assert len(peer.reply(stream).messages[0]) == 1_000_000


def test_a_caller_that_takes_no_reply_for_too_long_loses_the_call_alone(served, monkeypatch):
    monkeypatch.setattr(http2_connection, "TAKE_REPLY_S", 0.05)
    peer = served.peer({FIRST_WINDOW: 10})
    peer.call(1, "/t/Big", b"10000")
    assert peer.reply(1).reset == CANCEL
    peer.call(3)
    assert peer.reply(3).status == 0


def test_a_call_that_waits_for_its_turn_among_others_is_not_taken_for_one_that_is_not_read(served, monkeypatch):
    """The connection's window is what they wait for, and it moves."""
    monkeypatch.setattr(http2_connection, "TAKE_REPLY_S", 1.0)
    peer = served.peer({FIRST_WINDOW: LARGE})
    for stream in (1, 3):
        peer.call(stream, "/t/Big", b"1000000")
    served.until_begun("/t/Big", 2)
    until(lambda: came(peer, 1) + came(peer, 3) == DEFAULT)

    def age():  # as if it had waited long for its turn
        for connection in served.connections:
            call = connection._calls[3]
            call.stuck_since -= 100
            connection._sent_at = connection.loop.time()
            connection.look(connection.loop.time())

    served.call(age)
    peer.send(window(0, 2_000_000))
    assert peer.reply(3).status == 0 and peer.reply(1).status == 0


# What the server takes


def test_a_body_may_be_sent_as_far_as_the_first_window_and_then_as_it_is_read(served):
    peer = served.peer()
    body = bytes(1_000_000)
    peer.send(peer.head(1))
    served.until_begun("/t/Echo")
    sent = 0
    whole = message(body)
    while sent < len(whole):
        more = CALL_WINDOW + given(peer.seen, 1) - sent
        if more <= 0:
            peer.wait(lambda each: each.kind == WINDOW_UPDATE and each.stream == 1)
            continue
        piece = whole[sent : sent + min(more, 16384)]
        peer.send(data(1, piece, ends=sent + len(piece) == len(whole)))
        sent += len(piece)
    peer.send(window(0, LARGE - DEFAULT), window(1, LARGE - DEFAULT))
    assert len(peer.reply(1).messages[0]) == 1_000_000


def test_who_sends_beyond_a_calls_window_loses_the_call_alone(served):
    peer = served.peer()
    peer.send(peer.head(1, "/t/Hold"))
    served.until_begun("/t/Hold")
    peer.send(*[data(1, bytes(16384))] * (CALL_WINDOW // 16384))
    assert not [each for each in peer.settle() if each.stream]
    peer.send(data(1, b"x"))
    assert peer.reply(1).reset == FLOW_CONTROL_ERROR
    served.until_ended("/t/Hold")
    peer.send(data(1, bytes(1000)))  # was on its way
    peer.call(3)
    assert peer.reply(3).status == 0


def test_padding_gives_its_window_back(served):
    peer = served.peer()
    peer.send(peer.head(1, "/t/Hold"))
    served.until_begun("/t/Hold")
    for _ in range(1000):
        peer.send(data(1, b"", padding=255))
    frames = peer.settle()
    assert given(frames, 1) == 1000 * 256 and not peer.replies[1].body and peer.replies[1].reset is None


def test_padding_beyond_a_calls_window_ends_the_call(served):
    peer = served.peer()
    peer.send(peer.head(1, "/t/Hold"))
    served.until_begun("/t/Hold")
    peer.send(*[data(1, bytes(16384))] * (CALL_WINDOW // 16384 - 1), data(1, bytes(16300)), data(1, b"", padding=100))
    assert peer.reply(1).reset == FLOW_CONTROL_ERROR


@pytest.mark.parametrize("to", ["a call", "a call that is over", "padding"])
def test_the_connections_window_does_not_run_out(served, monkeypatch, to):
    """It is 1 GB, and made larger long before: here with steps of 100 KB."""
    monkeypatch.setattr(frame_protocol, "WINDOW_STEP", 100_000)
    peer = served.peer()
    peer.send(peer.head(1, "/t/No" if to == "a call that is over" else "/t/Hold"))
    peer.settle()
    before = given(peer.seen, 0)
    assert before == 2**30 - DEFAULT
    sent = 0
    while sent < 1_000_000:
        if to == "padding":
            peer.send(data(1, b"", padding=255))
            sent += 256
        elif to == "a call":
            stream = 1001 + 2 * (sent // 50_000)
            peer.send(peer.head(stream, "/t/Hold"), data(stream, bytes(50_000)), reset(stream))
            sent += 50_000
        else:
            peer.send(data(1, bytes(16_000)))
            sent += 16_000
    peer.settle()
    assert 0 <= sent - (given(peer.seen, 0) - before) < 100_000 + 65_536


def test_more_than_a_gigabyte_of_data_goes_over_one_connection(served):
    """In the real steps of its window."""
    peer = served.peer()
    peer.send(peer.head(1, "/t/No"))  # so that the window of a call does not matter
    frame_of_data, count = data(1, bytes(256 * 1024)), 5000
    for _ in range(count):
        peer.send(frame_of_data)
    steps = [each for each in peer.settle() if each.kind == WINDOW_UPDATE and each.stream == 0][
        1:
    ]  # behind the greeting
    assert len(steps) == count * 256 * 1024 // frame_protocol.WINDOW_STEP > 2**30 // frame_protocol.WINDOW_STEP


def test_a_message_is_asked_for_no_further_than_it_goes(served):
    """So that nobody holds more of a call than its message."""
    peer = served.peer()
    peer.send(peer.head(1), data(1, message(bytes(2_000_000))[:5]))
    peer.wait(lambda each: each.kind == WINDOW_UPDATE and each.stream == 1)
    peer.settle()
    assert CALL_WINDOW + given(peer.seen, 1) == 5 + 2_000_000


def test_a_window_is_given_for_many_small_messages(served):
    peer = served.peer({FIRST_WINDOW: LARGE})
    peer.send(window(0, LARGE - DEFAULT), peer.head(1, "/t/Double"))
    sizes = [random.Random(1).randrange(3000) for _ in range(200)]
    whole, sent = b"".join(message(bytes(size)) for size in sizes), 0
    while sent < len(whole):
        more = CALL_WINDOW + given(peer.seen, 1) - sent
        if more <= 0:
            peer.wait(lambda each: each.kind == WINDOW_UPDATE and each.stream == 1)
            continue
        piece = whole[sent : sent + min(more, 9_999)]
        sent += len(piece)
        peer.send(data(1, piece, ends=sent == len(whole)))
    assert [len(each) for each in peer.reply(1).messages] == [2 * size for size in sizes]


def test_a_client_of_grpc_sends_and_gets_a_message_of_many_windows(served):
    body = random.Random(2).randbytes(20_000_000)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{served.port}", options) as channel:
        assert channel.unary_unary("/t/Echo")(body, timeout=60) == body
        threads = [threading.Thread(target=channel.unary_unary("/t/Echo"), args=(body[:3_000_000],)) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()


def test_of_bodies_that_nobody_reads_yet_the_connection_with_most_loses_its_latest(served, monkeypatch):
    monkeypatch.setattr(grpc_server, "MOST_WAITING_BYTES", 500_000)
    large, small = served.peer(), served.peer()
    body = [bytes(16384)] * 9
    for peer, stream in ((small, 1), (large, 1), (large, 3), (large, 5)):
        peer.send(peer.head(stream, "/t/Hold"), *(data(stream, piece) for piece in body))
        peer.settle()
    assert large.reply(5).status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert not small.replies.get(1) and not large.replies.get(1)
    large.send(reset(1), reset(3))
    small.send(reset(1))
    until(lambda: not served.server._waiting_bytes, "nothing is counted of calls that are over")
