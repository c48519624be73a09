"""How calls and connections of the gRPC port end (RFC 9113, 5.4, 6.4 and 6.8), and that nothing is left of them."""

import contextlib
import gc
import socket
import ssl
import struct
import threading
import weakref

import grpc
import pytest
import trustme

from servable.config.addresses import Address
from servable.gateway.http2 import http2_connection
from servable.gateway.http2.frames import ConnectionFault
from servable.gateway.limits.connections import AGE_S
from servable.gateway.listener import HANDSHAKE_S
from tests.integration.servable.gateway.harness import WAIT_S, until
from tests.integration.servable.gateway.http2_peer import (
    DATA,
    FIRST_WINDOW,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    Peer,
    Served,
    data,
    frame,
    message,
    reset,
    served_without_errors,
    settings,
    window,
)
from tests.patience import patient


@pytest.fixture
def served(caplog):
    with served_without_errors(caplog, max_request_bytes=1_000_000, max_image_bytes=1000) as served:
        yield served


def farewells(peer):
    return [struct.unpack_from(">II", each.payload) for each in peer.seen if each.kind == GOAWAY]


# Calls


def test_calls_that_are_taken_back_before_their_turn_are_never_begun(served):
    peer = served.peer()
    peer.send(*(peer.head(stream, "/t/Hold") + reset(stream) for stream in range(3, 203, 2)))
    assert peer.answers()
    assert served.handlers.begun.get("/t/Hold", 0) <= 20, "one may, in each turn of the event loop, before more is read"
    assert not peer.replies.get(3)


def test_a_call_that_is_taken_back_while_it_runs_is_cancelled_without_an_answer(served):
    peer = served.peer()
    peer.send(peer.head(1, "/t/Hold"))
    served.until_begun("/t/Hold")
    peer.send(reset(1))
    served.until_ended("/t/Hold")
    peer.settle()
    assert 1 not in peer.replies and peer.answers(101)


def test_a_call_that_is_taken_back_within_its_stream_of_replies_ends(served):
    peer = served.peer()
    peer.call(1, "/t/Wait")
    peer.wait(lambda each: each.kind == DATA)
    peer.send(reset(1))
    served.until_ended("/t/Wait")
    peer.settle()
    assert not peer.replies[1].trailers and peer.replies[1].reset is None and peer.answers(101)


def test_a_call_that_is_taken_back_when_it_is_over_is_left(served):
    peer = served.peer()
    peer.call(1)
    assert peer.reply(1).status == 0
    peer.send(reset(1), reset(1))
    assert peer.answers(101)


def test_a_call_that_is_answered_before_its_body_has_come_is_told_to_stop(served):
    """RFC 9113, section 8.1: a complete answer, then RST_STREAM with NO_ERROR."""
    peer = served.peer()
    peer.send(peer.head(1, "/t/No"))
    peer.wait(lambda each: each.kind == RST_STREAM)
    reply = peer.replies[1]
    assert (
        reply.status == 12 and reply.reset == NO_ERROR and [each.kind for each in reply.frames] == [HEADERS, RST_STREAM]
    )
    assert peer.answers(101)


def test_a_handler_that_fails_is_answered_without_a_word_of_its_error(caplog):
    with Served() as served:
        peer = served.peer()
        peer.call(1, "/t/Fail")
        assert peer.reply(1).status == 13 and peer.replies[1].words == "the gateway failed"
    assert "/secret/path" in caplog.text


def test_a_handler_that_fails_when_its_caller_has_gone_is_logged_and_nothing_more(caplog):
    async def fail_late(_messages, context):
        try:
            while True:
                await context.read()
        finally:
            raise ValueError("in the end")

    with Served(handlers={"/t/FailLate": grpc.stream_unary_rpc_method_handler(fail_late)}) as served:
        peer = served.peer()
        peer.send(peer.head(1, "/t/FailLate"))
        peer.settle()
        until(lambda: any(each._calls and each._calls[1].begun for each in served.connections))
        peer.send(reset(1))
        until(lambda: "in the end" in caplog.text)
        assert peer.answers(101) and 1 not in peer.replies
        gc.collect()
    assert "never retrieved" not in caplog.text


# Connections: the server ends them


def test_a_connection_that_had_its_time_says_so_first_and_refuses_calls_later(served, monkeypatch):
    monkeypatch.setattr(http2_connection, "GOING_S", 0.0)
    peer = served.peer()
    peer.send(peer.head(1, "/t/Wait", ends=True))
    peer.wait(lambda each: each.kind == DATA)
    (connection,) = served.connections
    connection._going_at = None
    served.call(connection.finish)
    peer.wait(lambda each: each.kind == GOAWAY)
    assert farewells(peer) == [(2**31 - 1, NO_ERROR)]
    assert peer.answers(3), "what was on its way is taken"
    served.call(connection.look, connection.loop.time() + 1)
    peer.wait(lambda each: each.kind == GOAWAY)
    assert farewells(peer)[1:] == [(3, NO_ERROR)]
    peer.send(peer.head(5))
    assert peer.reply(5).reset == REFUSED_STREAM
    served.call(connection.look, connection.loop.time() + 2)
    served.call(connection.refuse_more)
    assert peer.settle() is not None
    assert all(last == 3 for last, _ in farewells(peer)[1:]), "it never grows"
    peer.send(reset(1))
    assert peer.end() == (3, NO_ERROR)


def test_a_connection_goes_when_its_age_has_come_and_its_last_call_has_its_answer(served):
    peer = served.peer()
    peer.call(1, "/t/Big", b"100000")  # more than the windows take
    peer.wait(lambda each: each.kind == DATA)
    (connection,) = served.connections
    assert 0.9 * AGE_S <= connection._age_s <= 1.1 * AGE_S
    connection._began -= connection._age_s
    served.call(connection.look, connection.loop.time())
    connection._going_at -= http2_connection.GOING_S
    served.call(connection.look, connection.loop.time())
    peer.settle()
    assert farewells(peer) == [(2**31 - 1, NO_ERROR), (1, NO_ERROR)] and not peer.replies[1].trailers
    peer.send(window(0, 2**20), window(1, 2**20))
    assert peer.reply(1).status == 0
    assert peer.end() == (1, NO_ERROR)


def test_a_server_that_stops_lets_calls_end_and_refuses_further_ones(served):
    peer = served.peer({FIRST_WINDOW: 10})
    peer.call(1, "/t/Big", b"1000")
    peer.wait(lambda each: each.kind == DATA)
    stopping = threading.Thread(target=lambda: served.run(served.server.stop(WAIT_S)))
    stopping.start()
    peer.wait(lambda each: each.kind == GOAWAY and struct.unpack_from(">I", each.payload)[0] == 1)
    peer.send(peer.head(3))
    assert peer.reply(3).reset == REFUSED_STREAM
    with pytest.raises(OSError, match="refused"):
        served.socket()
    peer.send(window(1, 2000))
    assert peer.reply(1).status == 0 and peer.end() == (1, NO_ERROR)
    peer.socket.close()  # else the server waits for that as long as it may
    stopping.join(patient(WAIT_S))
    assert not stopping.is_alive()


def test_a_server_that_has_waited_long_enough_ends_calls(served):
    peer = served.peer()
    peer.call(1, "/t/Hold")
    served.until_begun("/t/Hold")
    served.run(served.server.stop(0.05))
    assert peer.end() == (1, NO_ERROR)
    served.until_ended("/t/Hold")
    assert not served.connections


def test_a_quiet_caller_is_asked_whether_it_is_there_and_goes_where_it_does_not_answer(served):
    peer = served.peer()
    peer.settle()
    (connection,) = served.connections
    now = connection.loop.time()
    served.call(connection.look, now + http2_connection.QUIET_S + 1)
    asked = peer.wait(lambda each: each.kind == PING)
    assert not asked.flags
    peer.send(frame(PING, 1, 0, asked.payload))
    peer.settle()
    served.call(connection.look, now + http2_connection.ANSWER_S + 1)
    assert peer.answers(101), "it has answered"
    served.call(connection.look, now + http2_connection.QUIET_S + 100)
    served.call(connection.look, now + http2_connection.QUIET_S + 100 + http2_connection.ANSWER_S + 1)
    peer.end()
    until(lambda: not served.connections)


def test_a_caller_that_takes_a_long_answer_slowly_is_there_though_it_says_nothing(served):
    peer = served.peer({FIRST_WINDOW: 2**31 - 1})
    peer.send(window(0, 2**31 - 1 - 65_535))
    for stream in range(1, 21, 2):
        peer.call(stream, "/t/Big", b"1000000")
    until(lambda: any(each._full for each in served.connections), "a caller that does not read")
    (connection,) = served.connections
    connection._heard_at -= http2_connection.QUIET_S
    served.call(connection.look, connection.loop.time())
    assert connection._pinged_at is not None
    while connection._pinged_at is not None:
        peer.read()
    assert all(peer.reply(stream).status == 0 for stream in range(1, 21, 2))


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + settings()[:5]])
def test_a_caller_that_does_not_get_to_its_settings_goes(served, said):
    peer = served.peer(greets=False)
    peer.send(said)
    until(lambda: served.connections and served.connections[0]._transport is not None)
    (connection,) = served.connections
    served.call(connection.look, connection._began + HANDSHAKE_S - 1)
    assert served.connections
    served.call(connection.look, connection._began + HANDSHAKE_S + 1)
    peer.end()
    until(lambda: not served.connections)


def test_a_newcomer_takes_the_place_of_the_connection_that_waits_longest():
    with Served(connections=2) as served:
        busy, idle = served.peer(), served.peer()
        busy.call(1, "/t/Hold")
        served.until_begun("/t/Hold")
        idle.settle()
        newcomer = served.peer()
        assert newcomer.answers(101) and idle.end() == (0, NO_ERROR)


def test_who_has_said_nothing_hears_nothing_when_its_connection_goes_for_a_newcomer():
    with Served(connections=1) as served, served.socket() as silent:
        until(lambda: served.connections)
        assert served.peer().answers(101) and silent.recv(100) == b""


def test_a_connection_whose_call_was_taken_back_waits_again_and_can_make_room():
    with Served(connections=2) as served:
        busy, idle = served.peer(), served.peer()
        for each in (busy, idle):
            each.send(each.head(1, "/t/Hold"))
        served.until_begun("/t/Hold", 2)
        idle.send(reset(1))
        idle.settle()
        newcomer = served.peer()
        assert newcomer.answers(101) and idle.end() == (1, NO_ERROR)


def test_what_a_caller_sends_while_its_connection_ends_does_not_take_the_last_answer_away(served):
    """Bytes that nobody reads when a socket is closed make TCP reset the connection."""
    peer = served.peer()
    peer.call(1, "/t/Big", b"100000")
    peer.wait(lambda each: each.kind == DATA)
    served.call(served.connections[0].refuse_more)
    peer.send(window(0, 200_000), window(1, 200_000))
    until(lambda: served.handlers.ended)
    for _ in range(50):
        peer.send(frame(PING, 0, 0, bytes(8)))
    assert len(peer.reply(1).messages[0]) == 100_000
    assert peer.end() == (1, NO_ERROR)
    peer.send(frame(PING, 0, 0, bytes(8)))
    assert peer.socket.recv(1) == b"", "it is no reset"
    peer.socket.close()
    until(lambda: not served.connections)


def test_a_connection_that_is_told_to_go_when_it_was_reset_is_no_error(served):
    peer = served.peer()
    peer.settle()
    (connection,) = served.connections
    with served.standing():
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()
        served.loop.call_soon_threadsafe(connection.refuse_more)
    until(lambda: not served.connections)


def test_a_caller_that_reads_slowly_gets_its_last_answers_when_its_connection_ends(served):
    peer = served.peer({FIRST_WINDOW: 2**31 - 1})
    peer.send(window(0, 2**31 - 1 - 65_535))
    streams = range(1, 21, 2)
    for stream in streams:
        peer.call(stream, "/t/Big", b"1000000")
    until(lambda: any(each._full for each in served.connections), "a caller that does not read")
    served.call(served.connections[0].refuse_more)
    for stream in streams:
        peer.send(window(0, 1))  # whenever it has read something
        reply = peer.reply(stream)
        assert reply.reset == REFUSED_STREAM or len(reply.messages[0]) == 1_000_000
    assert len(peer.replies[1].body) == 1_000_005


def test_a_caller_that_goes_on_sending_when_its_connection_is_over_is_cut_off(served):
    peer = served.peer()
    peer.settle()
    served.call(served.connections[0].refuse_more)
    with pytest.raises(ConnectionError):
        peer.send(frame(PING, 0, 0, bytes(8)) * 2_000_000)
    until(lambda: not served.connections)


def test_a_caller_that_does_not_close_is_closed_in_the_end(served, monkeypatch):
    monkeypatch.setattr(http2_connection, "TAKE_REPLY_S", 0.05)
    peer = served.peer()
    peer.settle()
    served.call(served.connections[0].refuse_more)
    until(lambda: not served.connections)


def test_a_caller_that_is_told_to_go_and_takes_nothing_loses_its_connection(served, monkeypatch):
    """Its transport would wait for ever for what it has not sent."""
    monkeypatch.setattr(http2_connection, "TAKE_REPLY_S", 0.05)
    peer = served.peer({FIRST_WINDOW: 2**31 - 1})
    peer.send(window(0, 2**31 - 1 - 65_535))
    for stream in range(1, 21, 2):
        peer.call(stream, "/t/Big", b"1000000")
    until(lambda: any(each._full for each in served.connections), "a caller that does not read")
    (connection,) = served.connections
    served.call(connection._end, ConnectionFault(PROTOCOL_ERROR, "for the test"))
    until(lambda: not served.connections)


def test_what_comes_behind_a_fault_is_not_read(served):
    peer = served.peer()
    peer.send(settings({2: 2}), peer.head(1, "/t/Hold"), frame(PING, 0, 0, bytes(8)))
    with contextlib.suppress(OSError):
        for _ in range(50):
            peer.send(frame(PING, 0, 0, bytes(8)))
    assert peer.end() == (0, PROTOCOL_ERROR) and not [each for each in peer.seen if each.kind == PING]
    assert not served.handlers.begun


# Connections: the caller ends them


STATES = {
    "nothing": lambda peer: None,
    "half a head": lambda peer: peer.send(peer.head(1)[:5]),
    "half a header block": lambda peer: peer.send(frame(HEADERS, 0, 1, peer.block())),
    "half a frame": lambda peer: peer.send(peer.head(1, "/t/Hold"), data(1, bytes(100))[:50]),
    "half a padded frame": lambda peer: peer.send(peer.head(1, "/t/Hold"), data(1, bytes(10), padding=100)[:30]),
    "half a message": lambda peer: peer.send(peer.head(1), data(1, message(bytes(100))[:50])),
    "a call that runs": lambda peer: peer.send(peer.head(1, "/t/Hold", ends=True)),
    "a stream of replies": lambda peer: peer.call(1, "/t/Wait"),
    "a reply that waits": lambda peer: peer.call(1, "/t/Big", b"1000000"),
    "many calls": lambda peer: peer.send(*(peer.head(stream, "/t/Hold") for stream in range(1, 401, 2))),
}


@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
@pytest.mark.parametrize("state", STATES)
def test_a_caller_that_goes_in_the_middle_of_anything_leaves_nothing(served, state, how):
    peer = served.peer()
    STATES[state](peer)
    until(lambda: served.connections)
    if how == "resets":
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half-closes":
        peer.socket.shutdown(socket.SHUT_WR)
        peer.end()
    peer.socket.close()
    until(lambda: not served.connections)
    until(lambda: served.handlers.begun == served.handlers.ended, "the end of every handler")
    assert served.peer().answers(101)


def test_a_caller_that_says_it_goes_gets_its_answers(served):
    peer = served.peer()
    peer.send(peer.head(1), frame(GOAWAY, 0, 0, struct.pack(">II", 0, NO_ERROR) + b"bye"))
    peer.settle()
    peer.send(data(1, message(b"x"), ends=True))
    assert peer.reply(1).messages == [b"x"]


# What is left


@contextlib.contextmanager
def without_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("path", ["/t/Echo", "/t/Double", "/t/Count", "/t/Big", "/t/No"])
def test_a_call_that_is_answered_is_held_by_nothing(served, path):
    peer = served.peer()
    with without_collector():
        peer.call(1, path, b"10")
        peer.reply(1)
        until(lambda: all(each() is None for each in served.handlers.contexts), "the end of the call")


@pytest.mark.parametrize("path", ["/t/Hold", "/t/Wait", "/t/Big", "/t/Double"])
@pytest.mark.parametrize("how", ["taken back", "connection", "wrong"])
def test_a_call_that_is_cut_short_is_held_by_nothing(served, path, how):
    peer = served.peer()
    with without_collector():
        if path == "/t/Double":
            peer.send(peer.head(1, path), data(1, message(bytes(1000))[:500]))
        else:
            peer.call(1, path, b"1000000")
        served.until_begun(path)
        if how == "taken back":
            peer.send(reset(1))
        elif how == "wrong":
            peer.send(window(1, 0))
        else:
            peer.socket.close()
        until(lambda: all(each() is None for each in served.handlers.contexts), "the end of the call")


def test_a_call_that_is_answered_within_one_of_its_frames_is_held_by_nothing(served):
    peer = served.peer()
    with without_collector():
        whole = data(1, message(b"x") + bytes(1000))
        peer.send(peer.head(1), whole[:100])
        assert peer.reply(1).status == 0
        peer.send(whole[100:])
        until(lambda: served.handlers.contexts[0]() is None, "the end of the call")


def test_replies_that_are_not_read_are_dropped_with_their_calls(served):
    peer = served.peer()
    for stream in range(1, 21, 2):
        peer.call(stream, "/t/Big", b"1000000")
    served.until_begun("/t/Big", 10)
    (connection,) = served.connections
    peer.send(*(reset(stream) for stream in range(1, 21, 2)))
    peer.settle()
    served.until_ended("/t/Big", 10)
    assert not connection._calls and not connection._due and not connection._unsent


@pytest.mark.parametrize("state", STATES)
def test_a_connection_that_is_over_is_held_by_nothing(served, state):
    with without_collector():
        peer = served.peer()
        peer.settle()
        gone = weakref.ref(served.connections[0])
        STATES[state](peer)
        peer.socket.close()
        until(lambda: gone() is None, "the end of the connection")


# TLS, unix sockets, IPv6


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def tls(authority, *protocols):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(["h2"])
    trusting = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    if protocols:
        trusting.set_alpn_protocols(list(protocols))
    return context, trusting


@contextlib.contextmanager
def spoken(served, trusting, values=()):
    with served.socket() as plain, trusting.wrap_socket(plain, server_hostname="localhost") as connected:
        yield Peer(connected, values)


@pytest.fixture
def secure(authority, caplog):
    context, trusting = tls(authority, "h2")
    with served_without_errors(caplog, context=context, max_request_bytes=64_000_000, max_image_bytes=1000) as served:
        yield served, trusting


def test_over_tls_messages_of_many_windows_go_both_ways(secure, authority):
    served, _ = secure
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(f"localhost:{served.port}", credentials, options) as channel:
        body = bytes(range(256)) * 40_000
        calls = [channel.unary_unary("/t/Echo").future(body, timeout=60) for _ in range(4)]
        assert all(each.result() == body for each in calls)


def test_over_tls_bytes_that_come_one_by_one_are_read(secure):
    served, trusting = secure
    with spoken(served, trusting) as peer:
        for byte in peer.head(1) + data(1, message(b"abc"), padding=2) + data(1, b"", ends=True):
            peer.send(bytes([byte]))
        assert peer.reply(1).messages == [b"abc"]


def test_over_tls_a_caller_that_reads_slowly_gets_all(secure):
    served, trusting = secure
    with spoken(served, trusting, {FIRST_WINDOW: 2**31 - 1}) as peer:
        peer.send(window(0, 2**31 - 1 - 65_535))
        for stream in range(1, 21, 2):
            peer.call(stream, "/t/Big", b"1000000")
        until(lambda: any(each._full for each in served.connections), "a caller that does not read")
        for stream in range(1, 21, 2):
            assert len(peer.reply(stream).messages[0]) == 1_000_000


def test_over_tls_a_fault_is_told_before_the_end(secure):
    served, trusting = secure
    with spoken(served, trusting) as peer:
        peer.call(1)
        peer.reply(1)
        peer.send(frame(SETTINGS, 0, 1))
        assert peer.end() == (1, PROTOCOL_ERROR)
        until(lambda: not served.connections)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("how", ["goes", "is refused further calls", "is wrong"])
def test_over_tls_a_connection_that_is_over_is_held_by_nothing(secure, state, how):
    """TLS of asyncio and its buffers of 256 KB go with it."""
    served, trusting = secure
    with without_collector(), spoken(served, trusting) as peer:
        peer.settle()
        gone = weakref.ref(served.connections[0])
        STATES[state](peer)
        if how == "is wrong":
            peer.send(b"\xff" * 200)
        elif how == "is refused further calls":
            served.call(served.connections[0].refuse_more)
        peer.socket.close()
        until(lambda: gone() is None, "the end of the connection")
    assert served.handlers.begun == served.handlers.ended


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_over_tls_who_does_not_ask_for_http_2_is_not_served(authority, protocols):
    context, trusting = tls(authority, *protocols)
    with Served(context=context) as served, contextlib.suppress(OSError), spoken(served, trusting) as peer:
        assert peer.end() is None
        until(lambda: not served.connections)


def test_a_connection_that_is_ended_within_its_handshake_is_gone(authority):
    context, _ = tls(authority, "h2")
    with Served(context=context) as served, served.socket() as connected:
        until(lambda: served.connections)
        served.run(served.server.stop(0.05))
        assert not served.connections
        connected.settimeout(WAIT_S)
        with contextlib.suppress(ConnectionResetError):
            assert connected.recv(1) == b""


def test_who_speaks_plain_text_where_tls_is_spoken_is_gone(authority):
    context, _ = tls(authority, "h2")
    with Served(context=context) as served:
        peer = served.peer()
        assert peer.end() is None
        until(lambda: not served.connections)


def test_on_a_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    with Served(address=Address(path=path)) as served:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.connect(path)
            peer = Peer(connected)
            peer.call(1, "/t/Peer")
            assert peer.answers(101)
            assert served.connections[0].peer == "unix:"
        until(lambda: not served.connections)


@pytest.mark.parametrize(
    ("host", "to", "peer"), [("::1", "::1", "ipv6:[::1]:"), ("::", "127.0.0.1", "ipv4:127.0.0.1:")]
)
def test_over_ipv6_and_over_ipv4_on_the_same_socket(host, to, peer):
    """A caller of IPv4 has its own address, not the one network that all of IPv4 is in IPv6."""
    with Served(address=Address(host, 0)) as served:
        with socket.create_connection((to, served.port), WAIT_S) as connected:
            assert Peer(connected).answers(101)
            (connection,) = served.connections
            assert connection.peer.startswith(peer) and connection.key == connection.peer
