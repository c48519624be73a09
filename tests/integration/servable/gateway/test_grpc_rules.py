"""gRPC on the gateway's own HTTP/2: messages in pieces, statuses, metadata, deadlines.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import base64
import random
from urllib.parse import unquote

import grpc
import pytest

from servable.gateway.http2 import grpc_server
from servable.gateway.http2.grpc_call import MOST_STREAMED_BYTES
from tests.integration.servable.gateway.harness import WAIT_S, until
from tests.integration.servable.gateway.http2_peer import (
    CONTINUATION,
    DATA,
    END_STREAM,
    FIRST_WINDOW,
    FRAME_BYTES,
    HEADERS,
    NO_ERROR,
    Served,
    data,
    fields,
    frame,
    message,
    served_without_errors,
    window,
)

DEADLINE_EXCEEDED, UNIMPLEMENTED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED = 4, 12, 3, 8


@pytest.fixture
def served(caplog):
    with served_without_errors(caplog, max_request_bytes=100_000, max_image_bytes=1000) as served:
        yield served


@pytest.fixture
def peer(served):
    return served.peer()


# Messages


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 50])
@pytest.mark.parametrize("path", ["/t/Echo", "/t/Double"])
def test_messages_may_come_in_pieces_of_any_size(peer, path, size):
    wanted = [b"", b"a", b"", b"bcd", bytes(100)] if path == "/t/Double" else [bytes(range(100))]
    whole = b"".join(map(message, wanted))
    peer.send(peer.head(1, path))
    for index in range(0, len(whole), size):
        peer.send(data(1, whole[index : index + size]), data(1, b""))
        peer.settle()
    peer.send(data(1, b"", ends=True))
    times = 2 if path == "/t/Double" else 1
    assert peer.reply(1).messages == [times * each for each in wanted]


def test_many_messages_may_come_in_one_frame(peer):
    wanted = [random.Random(3).randbytes(size) for size in range(150)]
    peer.send(peer.head(1, "/t/Double"), data(1, b"".join(map(message, wanted)), ends=True))
    assert peer.reply(1).messages == [each + each for each in wanted]


def test_thousands_of_empty_messages_leave_others_their_turn():
    taken = []

    async def take(messages, _context):
        async for each in messages:
            taken.append(each)
        yield b"all"

    async def look(_messages, _context):
        return b"%d" % len(taken)

    handlers = {
        "/t/Take": grpc.stream_stream_rpc_method_handler(take),
        "/t/Look": grpc.stream_unary_rpc_method_handler(look),
    }
    with Served(handlers=handlers) as served:
        peer, other = served.peer(), served.peer()
        peer.settle(), other.settle()
        with served.standing():
            peer.send(peer.head(1, "/t/Take"), data(1, message(b"") * 10_000, ends=True))
            other.call(1, "/t/Look")
        assert int(other.reply(1).messages[0]) < 5000
        assert peer.reply(1).messages == [b"all"] and len(taken) == 10_000


def test_no_message_at_all_is_the_end_of_the_callers_half(peer):
    peer.send(peer.head(1, "/t/Double", ends=True), peer.head(3, "/t/Echo", ends=True))
    assert peer.reply(1).status == 0 and peer.reply(1).messages == []
    assert peer.reply(3).messages == [b"none"]


def test_a_stream_of_no_replies_has_headers_and_trailers(peer):
    peer.call(1, "/t/Count", b"0")
    assert peer.reply(1).status == 0 and dict(peer.reply(1).headers)[":status"] == "200"


@pytest.mark.parametrize("path", ["/t/Echo", "/t/Double"])
@pytest.mark.parametrize("cut", [1, 4, 5, 104])
def test_a_body_that_ends_within_a_message_is_invalid(peer, path, cut):
    """It is no end of the messages: a part of what the caller meant is missing."""
    whole = message(b"first") if path == "/t/Double" else b""
    peer.send(peer.head(1, path), data(1, whole + message(bytes(100))[:cut], ends=True))
    reply = peer.reply(1)
    assert reply.status == INVALID_ARGUMENT and f"ends after {cut} bytes" in reply.words
    assert reply.messages == ([b"firstfirst"] if whole else [])


@pytest.mark.parametrize(("path", "limit"), [("/t/Echo", 100_000), ("/t/Double", MOST_STREAMED_BYTES)])
def test_a_message_beyond_the_limit_is_refused_before_it_comes(peer, path, limit):
    peer.send(peer.head(1, path), data(1, message(bytes(100_001))[:5]))
    reply = peer.reply(1)
    assert reply.status == INVALID_ARGUMENT and "100001 bytes" in reply.words and f"the most is {limit}:" in reply.words
    peer.settle()
    assert reply.reset == NO_ERROR, "the rest is not wanted"
    peer.call(3, "/t/Big", b"1")
    assert peer.reply(3).status == 0


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_a_compressed_message_is_unimplemented(peer, flag):
    peer.send(peer.head(1), data(1, message(b"x", compressed=flag), ends=True))
    assert peer.reply(1).status == UNIMPLEMENTED and "compress" in peer.reply(1).words


def test_a_body_that_is_announced_as_compressed_is_unimplemented(peer):
    peer.call(1, "/t/Echo", b"x", ("grpc-encoding", "gzip"))
    assert peer.reply(1).status == UNIMPLEMENTED and "compress" in peer.reply(1).words
    peer.call(3, "/t/Echo", b"x", ("grpc-encoding", "identity"), ("grpc-accept-encoding", "gzip, identity"))
    assert peer.reply(3).messages == [b"x"]


def test_what_comes_behind_the_one_message_of_a_call_does_not_hold_it_up(peer):
    peer.send(peer.head(1), data(1, message(b"x") + message(b"y") + b"\xff\xff"))
    assert peer.reply(1).messages == [b"x"]


# Statuses


def test_a_call_that_fails_before_any_message_is_one_block_of_headers(peer):
    peer.call(1, "/t/No")
    reply = peer.reply(1)
    assert reply.headers is reply.trailers and len(reply.frames) == 1
    assert dict(reply.headers)[":status"] == "200" and dict(reply.headers)["content-type"] == "application/grpc"


WORDS = 'plain, 100 %, "quoted", \ttab\nline\r\x00\x7f, Bücher, 図書, \U0001f600'


def test_words_of_a_status_are_percent_encoded(caplog):
    async def complain(_messages, context):
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details(WORDS)
        return b""

    with Served(handlers={"/t/Complain": grpc.stream_unary_rpc_method_handler(complain)}) as served:
        peer = served.peer()
        peer.call(1, "/t/Complain")
        assert peer.reply(1).words.startswith('plain, 100 %25, "quoted", %09tab%0Aline%0D%00%7F, B%C3%BCcher')
        with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel, pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/t/Complain")(b"", timeout=WAIT_S)
        assert failed.value.details() == WORDS and failed.value.code() is grpc.StatusCode.ABORTED


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_reaches_a_client(code):
    async def fail(_messages, context):
        context.set_code(code)
        return b"a reply that is not sent"

    with Served(handlers={"/t/It": grpc.stream_unary_rpc_method_handler(fail)}) as served:
        peer = served.peer()
        peer.call(1, "/t/It")
        assert peer.reply(1).status == code.value[0] and peer.reply(1).body == b""


@pytest.mark.parametrize("most", [2**14, 20_000])
def test_a_status_whose_words_are_long_comes_in_frames_that_the_caller_takes(most):
    async def complain(_messages, context):
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details("é" * 10_000)
        return b""

    with Served(handlers={"/t/Complain": grpc.stream_unary_rpc_method_handler(complain)}) as served:
        peer = served.peer({FRAME_BYTES: most})
        peer.call(1, "/t/Complain")
        reply = peer.reply(1)
        assert unquote(reply.words) == "é" * 10_000
        sizes = [(each.kind, len(each.payload)) for each in reply.frames]
        assert sizes[:2] == [(HEADERS, most), (CONTINUATION, most)] and all(size <= most for _, size in sizes)


# Metadata


def test_metadata_goes_both_ways_as_text_and_as_bytes(peer):
    pairs = [("text", "a b, c"), ("text", "again"), ("raw-bin", base64.b64encode(b"\x00\xff!").decode())]
    peer.call(1, "/t/Meta", b"", *pairs)
    got = [pair for pair in peer.reply(1).trailers if pair[0].startswith("got-")]
    assert ("got-text", "a b, c") in got and ("got-text", "again") in got and ("got-raw-bin", "AP8h") in got
    names = {name for name, _ in got}
    assert not names & {"got-te", "got-content-type", "got-:path", "got-grpc-timeout"}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("", [b""]), ("YQ==", [b"a"]), ("YQ", [b"a"]), ("YQ,Yg==,", [b"a", b"b", b""]), ("YQ, Yg", [b"a", b"b"])],
)
def test_values_in_base64_may_lack_padding_and_be_joined(peer, value, wanted):
    peer.call(1, "/t/Meta", b"", ("x-bin", value))
    got = [base64.b64decode(each + "==") for name, each in peer.reply(1).trailers if name == "got-x-bin"]
    assert got == wanted


@pytest.mark.parametrize("value", ["!", "YQ=Q", "YQ===", "Y", "é"])
def test_values_that_are_no_base64_are_invalid(peer, value):
    peer.call(1, "/t/Meta", b"", ("x-bin", value))
    assert peer.reply(1).status == INVALID_ARGUMENT and "base64" in peer.reply(1).words


def test_metadata_may_have_16_kib_and_more_is_refused_by_name_and_the_connection_goes_on(peer):
    def of(size):
        used = sum(len(name) + len(value) + 32 for name, value in fields("/t/Meta"))
        return ("k", "v" * (size - used - 33))

    peer.call(1, "/t/Meta", b"", of(16 * 1024))
    assert peer.reply(1).status == 0
    peer.call(3, "/t/Meta", b"", of(16 * 1024 + 1))
    assert peer.reply(3).status == RESOURCE_EXHAUSTED and "16385 bytes" in peer.reply(3).words
    assert peer.answers()


@pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;charset=utf-8", "application/grpc"])
def test_content_types_of_grpc_are_taken(peer, kind):
    raw = [(name, kind if name == "content-type" else value) for name, value in fields()]
    peer.send(peer.head(1, raw=raw), data(1, message(b"x"), ends=True))
    assert peer.reply(1).messages == [b"x"]


@pytest.mark.parametrize("kind", ["application/json", "application/grpc-web+proto", "application/grpcx", ""])
def test_other_content_types_are_415(peer, kind):
    raw = [(name, kind if name == "content-type" else value) for name, value in fields()]
    peer.send(peer.head(1, raw=raw, ends=True), peer.head(3, raw=[*fields()[:4]], ends=True))
    assert dict(peer.reply(1).headers)[":status"] == dict(peer.reply(3).headers)[":status"] == "415"
    assert peer.answers()


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_other_verbs_are_405(peer, method):
    raw = [(name, method if name == ":method" else value) for name, value in fields()]
    peer.send(peer.head(1, raw=raw, ends=True))
    assert dict(peer.reply(1).headers)[":status"] == "405"
    assert peer.answers()


def test_a_caller_may_leave_out_te(peer):
    raw = [pair for pair in fields() if pair[0] != "te"]
    peer.send(peer.head(1, raw=raw, ends=True))
    assert peer.reply(1).status == 0


# Deadlines


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("2M", 120), ("30S", 30), ("99999999m", 99_999.999), ("50000000u", 50), ("99999999n", 0.1)],
)
def test_deadlines_are_read_in_every_unit(peer, text, seconds):
    peer.call(1, "/t/Meta", b"", ("grpc-timeout", text))
    assert seconds - 0.1 * seconds - 5 < float(peer.reply(1).messages[0]) <= seconds


def test_a_call_without_a_deadline_has_none(peer):
    peer.call(1, "/t/Meta")
    assert peer.reply(1).messages == [b"None"]


@pytest.mark.parametrize("text", ["", "S", "5", "-1S", "1.5S", "999999999S", "1s", " 1S", "1S ", "٥S", "1SS"])
def test_what_is_no_time_is_invalid(peer, text):
    peer.call(1, "/t/Meta", b"", ("grpc-timeout", text))
    assert peer.reply(1).status == INVALID_ARGUMENT and "grpc-timeout" in peer.reply(1).words


@pytest.mark.parametrize("path", ["/t/Hold", "/t/Wait"])
def test_a_handler_that_does_not_see_to_its_deadline_is_ended(served, peer, path):
    peer.call(1, path, b"", ("grpc-timeout", "1m"))
    served.until_begun(path)
    (connection,) = served.connections
    served.call(connection.look, connection.loop.time() + 2)
    assert peer.reply(1).status == DEADLINE_EXCEEDED
    served.until_ended(path)
    assert peer.answers()


def test_a_deadline_passes_also_where_the_reply_is_not_read(served):
    peer = served.peer({FIRST_WINDOW: 10})
    peer.call(1, "/t/Big", b"1000", ("grpc-timeout", "1m"))
    peer.wait(lambda each: each.kind == DATA)
    (connection,) = served.connections
    for later in (2, 3):
        served.call(connection.look, connection.loop.time() + later)
    peer.send(window(1, 10_000))
    assert peer.reply(1).status == DEADLINE_EXCEEDED
    assert peer.answers()


def test_the_line_of_calls_that_wait_for_their_turn_is_bounded(monkeypatch):
    monkeypatch.setattr(grpc_server, "MOST_WAITING", 5)
    with Served() as served:
        peer = served.peer()
        peer.settle()
        peer.send(*(peer.head(stream, "/t/Hold", ends=True) for stream in range(1, 101, 2)))
        peer.settle()
        lost = [reply for reply in peer.replies.values() if reply.trailers]
        assert lost and all(reply.status == RESOURCE_EXHAUSTED for reply in lost)
        until(lambda: served.handlers.begun["/t/Hold"] + len(lost) == 50)


def test_a_body_may_end_with_an_empty_frame(peer):
    peer.send(peer.head(1), data(1, message(b"x")), frame(DATA, END_STREAM, 1))
    assert peer.reply(1).messages == [b"x"]
