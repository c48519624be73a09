"""The API's port: who may call, how much of it, how slowly, and what two programs could read in two ways."""

import contextlib
import gc
import json
import random
import socket
import ssl
import time
from types import FrameType

import numpy as np
import pytest

from servable.gateway.http import application, http_connection
from servable.gateway.listener import TAKEN
from tests.integration.servable.gateway.fake_serving import embedding_of
from tests.integration.servable.gateway.harness import (
    WAIT_S,
    Harness,
    answers,
    config_of,
    predict,
    request,
    until,
)

TOKEN = "a-token-of-some-length"
HEAD = b"POST /embed HTTP/1.1\r\nhost: a\r\n"
PICTURE = HEAD + b"content-length: 3\r\n\r\nabc"


@pytest.fixture(autouse=True)
def short_lingering(monkeypatch):
    """None of these callers closes before the server does."""
    monkeypatch.setattr(application, "LINGER_S", 0.1)


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    with Harness(
        tmp_path_factory.mktemp("gateway"), config_of(limits={"max_request_bytes": 100_000, "max_image_bytes": 100_000})
    ) as running:
        yield running


@pytest.fixture
def guarded(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    with Harness(tmp_path, config_of(security={"tokens_file": tokens})) as running:
        yield running


def status_of(answer):
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def sent(harness, *pieces):
    """What the server says to bytes as they are, to the end of the connection."""
    with harness.api_socket() as connected:
        for piece in pieces:
            connected.sendall(piece)
        return answers(connected)


def read_answer(connected):
    """(status, headers, body) of one answer on a connection that goes on; what comes after it stays there."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connected.recv(1)
        assert piece, head
        head += piece
    lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    body = b""
    while len(body) < int(headers["content-length"]):
        piece = connected.recv(int(headers["content-length"]) - len(body))
        assert piece, body
        body += piece
    return int(lines[0].split()[1]), headers, body


def error_of(body):
    return json.loads(body)["error"]


def test_every_answer_repeats_the_request_id_or_makes_one(harness):
    for method, path in (("GET", "/v1/models"), ("GET", "/nowhere"), ("PUT", "/embed"), ("POST", "/v1/embeddings")):
        assert harness.api(method, path, headers={"x-request-id": "mine-1"})[1]["x-request-id"] == "mine-1"
        assert len(harness.api(method, path)[1]["x-request-id"]) == 32
    assert b"\r\nx-request-id: " in sent(harness, b"nonsense\r\n\r\n")


def test_an_answer_says_which_model_gave_it_and_nothing_of_the_server(harness):
    _, headers, _ = harness.api("POST", "/embed", b"abc")
    assert headers["x-metric-learn-version"] == "1" and headers["x-metric-learn-fingerprint"] == "f" * 64
    assert headers["cache-control"] == "no-store" and "server" not in headers


def test_other_verbs_and_paths_are_answered_in_json(harness):
    for method in ("GET", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
        status, headers, body = harness.api(method, "/embed")
        assert (status, headers["allow"]) == (405, "POST") and error_of(body)["message"]
    status, headers, body = harness.api("HEAD", "/v1/models")
    assert status == 200 and int(headers["content-length"]) > 0 and body == b""
    assert harness.api("HEAD", "/embed")[0] == 405
    status, _, body = harness.api("GET", "/v1/nothing")
    assert status == 404 and "/v1/embeddings" in error_of(body)["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/",
        "//v1/models",
        "/v1//models",
        "/v1/./models",
        "/v1/nothing/../models",
        "/V1/models",
        "/v1%2Fmodels",
        "/v1%2fmodels",
        "/v2/models/metric_learn%2Fready",
        "/v1/models/metric_learn%2F..",
        "/v1/models%00",
    ],
)
def test_a_path_is_what_it_says_and_no_other_spelling_of_it(harness, path):
    """A proxy before it may let some paths through and others not: none may become another here."""
    status, _, body = harness.api("GET", path)
    assert status == 404 and json.loads(body)["error"]


def test_a_letter_that_is_written_with_percent_is_that_letter(harness):
    assert harness.api("GET", "/v1/%6dodels/metric_learn%401")[0] == 200


def test_a_page_of_another_origin_is_told_nothing(harness):
    """No header of CORS: its browser asks first wherever a token or JSON goes, and shows it no answer."""
    asked = {
        "origin": "https://elsewhere.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    status, headers, _ = harness.api("OPTIONS", "/v1/embeddings", headers=asked)
    assert status == 405 and not any(name.startswith("access-control-") for name in headers)
    status, headers, _ = harness.api("POST", "/embed", b"abc", {"origin": "https://elsewhere.example"})
    assert status == 200 and not any(name.startswith("access-control-") for name in headers)


@pytest.mark.parametrize(
    "message",
    [
        PICTURE.replace(b"/embed", b"http://a/embed"),
        PICTURE.replace(b"HTTP/1.1\r\nhost: a", b"HTTP/1.0"),
        HEAD + b"transfer-encoding: chunked\r\n\r\n1;name=value\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ntrailer: x-a\r\n\r\n3\r\nabc\r\n0\r\nx-a: b\r\n\r\n",
    ],
    ids=["absolute form", "HTTP/1.0 without a host", "chunks with extensions", "trailers"],
)
def test_rare_forms_of_a_request_mean_the_same(harness, message):
    with harness.api_socket() as connected:
        connected.sendall(message)
        assert np.array_equal(embedding_in(read_answer(connected)), embedding_of(b"abc"))


def test_a_call_needs_a_valid_token(guarded):
    good = {"authorization": f"Bearer {TOKEN}"}
    for method, path, body in (("POST", "/embed", b"abc"), ("GET", "/v1/models", None)):
        assert guarded.api(method, path, body, good)[0] == 200
        for wrong in ({}, {"authorization": "Bearer another-of-some-length"}, {"authorization": f"Basic {TOKEN}"}):
            status, headers, answer = guarded.api(method, path, body, wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert error_of(answer)["code"] == "invalid_api_key" and TOKEN not in answer.decode()


def test_two_authorizations_are_refused_even_if_one_is_valid(guarded):
    head = f"POST /embed HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\nauthorization: Bearer x\r\n"
    head += "connection: close\r\ncontent-length: 3\r\n\r\nabc"
    assert status_of(sent(guarded, head.encode())) == 401


def test_a_trailer_is_no_header(guarded):
    body = f"0\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()
    head = b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    assert status_of(sent(guarded, head + body)) == 401


def test_a_caller_without_a_token_is_answered_before_its_body_comes(guarded):
    answer = sent(guarded, HEAD + b"content-length: 1000000000\r\n\r\n")
    assert status_of(answer) == 401 and b"connection: close" in answer


@pytest.mark.parametrize("length", [b"100001", b"1000000000000", b"999999999999999999"])
def test_a_body_that_is_too_large_is_refused_before_it_comes(harness, length):
    answer = sent(harness, HEAD + b"content-length: " + length + b"\r\n\r\n")
    assert status_of(answer) == 413 and b"limits.max_request_bytes" in answer


def test_chunks_without_end_are_refused_at_the_limit(harness):
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert status_of(sent(harness, HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 6)) == 413


@pytest.mark.parametrize(
    ("rest", "status"),
    [(b"zz\r\n", 400), (b"1\r\nxx\r\n", 400), (b"-1\r\n", 400), (b"0\r\n" + b"a: b\r\n" * 500, 431)],
    ids=["no length", "longer than said", "a negative length", "trailers without an end"],
)
def test_a_body_that_breaks_off_its_form_is_answered_at_once_and_not_when_its_time_is_over(harness, rest, status):
    began = time.monotonic()
    answer = sent(harness, HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n", rest)
    assert status_of(answer) == status and answer.count(b"HTTP/1.1 4") == 1 and b"connection: close" in answer
    assert time.monotonic() - began < harness.settings.deadlines.read_body_s / 2
    assert harness.api("POST", "/embed", b"abc")[0] == 200


@pytest.mark.parametrize("chunk", [1, 1000, 20_000])
def test_a_body_in_chunks_that_is_taken_in_many_turns_is_the_same_as_at_once(harness, monkeypatch, chunk):
    monkeypatch.setattr(http_connection, "TURN_BYTES", 777)
    body = random.Random(chunk).randbytes(20_000)
    parts = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    with harness.api_socket() as connected:
        for _ in range(2):
            connected.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
            status, _, answer = read_answer(connected)
            assert status == 200 and answer == harness.api("POST", "/embed", body)[2]


def test_no_more_of_a_body_in_tiny_chunks_is_read_than_can_be_taken(tmp_path):
    most = 0
    with Harness(tmp_path) as harness, harness.api_socket() as connected:
        connected.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(50):
            connected.sendall(b"1\r\nx\r\n" * 20_000)
            waiting = harness.call(lambda: [len(each._rest) for each in harness.gateway._api._listener.open])
            most = max([most, *waiting])
    assert 0 < most <= 512 * 1024


def test_a_caller_that_sends_all_of_a_body_that_is_refused_reads_why(harness):
    status, _, body = harness.api("POST", "/embed", b"x" * 150_000)
    assert status == 413 and "100000 bytes" in error_of(body)["message"]


def test_a_caller_that_asks_first_is_told_to_go_on_or_that_its_body_is_too_large(harness):
    with harness.api_socket() as connected:
        connected.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert connected.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connected.sendall(b"abc")
        assert read_answer(connected)[0] == 200
    answer = sent(harness, HEAD + b"expect: 100-continue\r\ncontent-length: 100001\r\n\r\n")
    assert status_of(answer) == 413 and b"100 Continue" not in answer


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip"])
def test_a_compressed_body_is_not_unpacked(harness, coding):
    status, _, body = harness.api("POST", "/embed", b"abc", {"content-encoding": coding})
    assert status == 415 and "uncompressed" in error_of(body)["message"]


SMUGGLED = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 6\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 6\r\n",
        b"content-length: 6\r\ncontent-length: 5\r\n",
        b"content-length: 6\r\ncontent-length: 6\r\n",
        b"content-length: 6, 6\r\n",
        b"content-length: +6\r\n",
        b"content-length: 0x6\r\n",
        b"content-length: -1\r\n",
        b"content-length: 99999999999999999999\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"transfer-encoding:\x0bchunked\r\n",
        b"transfer-encoding : chunked\r\n",
        b" transfer-encoding: chunked\r\n",
        b"x: a\r\n folded\r\n",
        b"x: a\nb: c\r\n",
        b"x: a\x00b\r\n",
        b"host: b\r\n",
        b"expect: everything\r\n",
    ],
)
def test_what_two_programs_could_read_in_two_ways_is_refused_and_ends_the_connection(harness, head):
    answer = sent(harness, HEAD + head + b"\r\n" + SMUGGLED)
    assert status_of(answer) == 400 and answer.count(b"x-request-id: ") == 1


@pytest.mark.parametrize(
    "start",
    [
        b"GET /v1/models HTTP/1.1\r\n",  # without a host
        b"GET /v1/models HTTP/2.0\r\nhost: a\r\n",
        b"GET /v1/models\r\nhost: a\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS, on a plain port
    ],
)
def test_what_is_no_request_of_http_1_1_is_refused(harness, start):
    answer = sent(harness, start + b"\r\n")
    assert status_of(answer) == 400 and b"Traceback" not in answer


def test_http_1_0_is_answered_and_ends(harness):
    assert status_of(sent(harness, b"GET /v1/models HTTP/1.0\r\n\r\n")) == 200


@pytest.mark.parametrize("start", [b"GET /" + b"x" * 20_000, b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 20_000])
def test_headers_that_are_too_large_are_refused_before_they_end(harness, start):
    assert status_of(sent(harness, start)) == 431


@pytest.mark.parametrize(("count", "status"), [(300, 200), (500, 431)])
def test_many_small_headers_are_refused_far_below_the_bytes_that_few_may_have(harness, count, status):
    start = b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
    lines = b"".join(b"x-%d: y\r\n" % number for number in range(count))
    assert status_of(sent(harness, start + lines + b"\r\n")) == status


@pytest.mark.parametrize("line", [b"x: " + b"y" * 1000 + b"\r\n", b"host: a\r\nhost: b\r\n\r\n"], ids=["431", "400"])
def test_nothing_keeps_the_bytes_of_a_request_that_was_refused(harness, line):
    """An error that is kept keeps the frames that it passed, and in them all that was read of the connection."""
    read = http_connection.Connection.data_received.__code__
    with contextlib.ExitStack() as until_then:
        gc.disable()
        until_then.callback(gc.enable)
        with harness.api_socket() as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n" + line * 20)
            assert answers(stranger).startswith(b"HTTP/1.1 4")
        until(
            lambda: not any(isinstance(each, FrameType) and each.f_code is read for each in gc.get_objects()),
            "the end of what was read",
        )


def test_headers_that_come_slowly_end_the_connection(harness, monkeypatch):
    monkeypatch.setattr(http_connection, "HEAD_S", 0.3)
    for start in (b"", b"\r\n", b"GET /v1/models HTTP/1.1\r\nx-slow: ", PICTURE + b"GE"):
        began = time.monotonic()
        answer = sent(harness, start)
        assert b"HTTP/1.1 408 " in answer and time.monotonic() - began < WAIT_S / 2


def test_a_connection_takes_one_request_after_the_other(harness):
    with harness.api_socket() as connected:
        for _ in range(3):
            connected.sendall(PICTURE)
            status, headers, _ = read_answer(connected)
            assert status == 200 and "connection" not in headers


def test_a_caller_that_leaves_with_requests_in_line_is_no_fault_of_ours_in_the_log(harness, caplog):
    harness.call(harness.serving.hold)
    with harness.api_socket() as connected:
        connected.sendall(PICTURE * 3)
        until(lambda: harness.serving.in_flight)
    until(lambda: not harness.gateway._admission.calls)
    harness.call(harness.serving.release)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def embedding_in(answer):
    return np.float32(json.loads(answer[2])["embedding"])


@pytest.mark.parametrize("offer", [b"h2c\r\nhttp2-settings: AAMAAABkAAQAAP__", b"websocket\r\nsec-websocket-key: AAAA"])
def test_an_offer_of_another_protocol_is_answered_in_http_1_1_and_the_connection_goes_on(harness, offer):
    lines = b"connection: upgrade, http2-settings\r\nupgrade: " + offer + b"\r\n"
    with harness.api_socket() as connected:
        connected.sendall(HEAD + lines + b"content-length: 3\r\n\r\nabc" + PICTURE)
        for _ in range(2):
            assert np.array_equal(embedding_in(read_answer(connected)), embedding_of(b"abc"))
        connected.sendall(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n")
        assert read_answer(connected)[0] == 200
        connected.sendall(PICTURE)
        assert read_answer(connected)[0] == 200
        connected.sendall(HEAD + lines + b"transfer-encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n")
        assert np.array_equal(embedding_in(read_answer(connected)), embedding_of(b"xyz"))


def test_a_connection_that_idles_is_closed(harness, monkeypatch):
    monkeypatch.setattr(http_connection, "KEEP_ALIVE_S", 0.3)
    answer = sent(harness, PICTURE)
    assert status_of(answer) == 200 and answer.count(b"HTTP/1.1 ") == 1


def test_an_old_connection_is_told_that_this_was_its_last_answer(harness, monkeypatch):
    monkeypatch.setattr(http_connection, "AGE_S", 0.0)
    assert b"connection: close" in sent(harness, PICTURE)


def test_requests_without_waiting_for_answers_are_answered_in_order_up_to_a_bound(harness):
    with harness.api_socket() as connected:
        connected.sendall(b"".join(b"GET /v1/models/%d HTTP/1.1\r\nhost: a\r\n\r\n" % number for number in range(8)))
        found = b""
        while found.count(b"HTTP/1.1 404") < 8 or not found.endswith(b"}}"):
            found += connected.recv(65536)
        places = [found.index(b"'%d'" % number) for number in range(8)]
        assert places == sorted(places)
    answer = sent(harness, b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n" * 10_000)
    assert 1 <= answer.count(b"HTTP/1.1 ") <= 20


def test_a_refused_body_that_was_short_does_not_cost_the_connection(harness):
    with harness.api_socket() as connected:
        for _ in range(2):
            connected.sendall(HEAD + b"content-encoding: gzip\r\ncontent-length: 70000\r\n\r\n" + b"x" * 70_000)
            assert read_answer(connected)[0] == 415


def test_a_body_that_does_not_come_in_time_is_answered_408(tmp_path):
    with Harness(tmp_path, config_of(deadlines={"read_body_s": 0.3})) as harness:
        for body in (b"content-length: 100\r\n\r\nabc", b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"):
            answer = sent(harness, HEAD + body)
            assert status_of(answer) == 408 and b"did not arrive within 0.3 s" in answer


def test_slow_bodies_give_way_to_those_that_come(tmp_path, monkeypatch):
    """Forty senders stop half way; what they hold is all that bodies may hold together."""
    limits = {"max_in_flight_bytes": 1_000_000, "max_request_bytes": 1_000_000, "max_image_bytes": 1_000_000}
    with Harness(tmp_path, config_of(limits=limits)) as harness, contextlib.ExitStack() as stack:
        bodies = harness.gateway._api.application._bodies
        monkeypatch.setattr(bodies, "_fair_s", 0.1)
        for _ in range(40):
            slow = stack.enter_context(harness.api_socket())
            slow.sendall(HEAD + b"content-length: 50000\r\n\r\n" + b"x" * 20_000)
        until(lambda: bodies.bytes == 800_000, "all that the slow ones sent")
        time.sleep(0.2)
        assert harness.api("POST", "/embed", b"y" * 400_000)[0] == 200
        assert bodies.bytes <= 800_000
        with harness.channel() as channel:
            predict(channel, request(b"gRPC goes on"))


def test_a_newcomer_is_served_and_the_connection_that_idles_longest_goes(tmp_path):
    with Harness(tmp_path, config_of(limits={"max_connections": 8})) as harness, contextlib.ExitStack() as stack:
        first = [stack.enter_context(harness.api_socket()) for _ in range(8)]
        first[0].sendall(PICTURE)  # now the second is the one that waits longest
        assert read_answer(first[0])[0] == 200
        for _ in range(7):
            assert harness.api("POST", "/embed", b"abc")[0] == 200
        assert first[1].recv(1) == b""
        first[0].sendall(PICTURE)
        assert read_answer(first[0])[0] == 200


def test_a_thousand_silent_connections_keep_nobody_out(tmp_path):
    with Harness(tmp_path, config_of(limits={"max_connections": 64})) as harness, contextlib.ExitStack() as stack:
        for number in range(1000):
            silent = stack.enter_context(harness.api_socket())
            silent.sendall(b"POST /embed HTTP/1.1\r\n"[: number % 20])
            if number % 100 == 99:
                assert harness.api("POST", "/embed", b"abc")[0] == 200
        assert len(harness.gateway._api._listener.open) <= 64


def test_many_connections_that_come_at_once_leave_the_event_loop_to_others_in_between(tmp_path):
    counts = []

    def count(server, loop):
        counts.append(len(server._listener.open))
        if counts[-1] < 200:
            loop.call_soon(count, server, loop)

    with Harness(tmp_path) as harness, contextlib.ExitStack() as stack:
        with harness.standing():
            for _ in range(200):
                stack.enter_context(harness.api_socket())
            harness.loop.call_soon_threadsafe(count, harness.gateway._api, harness.loop)
        until(lambda: counts and counts[-1] >= 200, "all connections")
    assert max(after - before for before, after in zip(counts, counts[1:])) <= TAKEN


def test_where_every_connection_has_a_call_the_newcomer_is_told_to_come_again(tmp_path):
    with Harness(tmp_path, config_of(limits={"max_connections": 2})) as harness, contextlib.ExitStack() as stack:
        harness.call(harness.serving.hold)
        busy = [stack.enter_context(harness.api_socket()) for _ in range(2)]
        for each in busy:
            each.sendall(PICTURE)
        api = harness.gateway._api
        until(lambda: len(api._listener.open) == 2 and not api._listener._waiting, "both calls")
        answer = sent(harness)
        assert status_of(answer) == 503 and b"retry-after: 1" in answer
        harness.call(harness.serving.release)
        assert all(read_answer(each)[0] == 200 for each in busy)


def test_too_many_calls_are_told_when_to_come_again(tmp_path):
    limits = {"max_in_flight_instances": 1, "max_instances": 1}
    with Harness(tmp_path, config_of(limits=limits)) as harness, harness.api_socket() as busy:
        harness.call(harness.serving.hold)
        busy.sendall(PICTURE)
        until(lambda: harness.gateway._admission.images == 1, "the first call")
        status, headers, body = harness.api("POST", "/embed", b"other")
        assert status == 429 and headers["retry-after"] == "1" and int(headers["retry-after-ms"]) >= 50
        assert error_of(body)["type"] == "rate_limit_error"
        harness.call(harness.serving.release)
        assert read_answer(busy)[0] == 200


def test_a_model_that_is_down_is_unavailable_with_a_hint(tmp_path):
    with Harness(tmp_path, config_of(server={"when_down": "fail"})) as harness:
        harness.call(harness.backends.set_down, harness.backend, "gone")
        status, headers, body = harness.api("POST", "/embed", b"abc")
        assert (status, headers["retry-after"], error_of(body)["type"]) == (503, "1", "server_error")


def test_the_callers_deadline_counts(harness):
    harness.call(harness.serving.hold)
    try:
        status, _, body = harness.api("POST", "/embed", b"abc", {"x-request-timeout-s": "0.2"})
        assert status == 504 and "not done within 0.2 s" in error_of(body)["message"]
    finally:
        harness.call(harness.serving.release)
    for wrong in ("soon", "-1", "0", "nan", "inf"):
        status, _, body = harness.api("POST", "/embed", b"abc", {"x-request-timeout-s": wrong})
        assert status == 400 and error_of(body)["param"] == "x-request-timeout-s"


def test_a_caller_that_goes_takes_its_call_with_it(harness):
    harness.call(harness.serving.hold)
    try:
        with harness.api_socket() as connected:
            connected.sendall(PICTURE)
            until(lambda: harness.gateway._admission.images == 1, "the call")
        until(lambda: harness.gateway._admission.images == 0, "the end of the call")
        found = harness.http("/metrics")[1]
        assert 'metric_learn_requests_total{code="CANCELLED",method="embed",wire="embed"}' in found
    finally:
        harness.call(harness.serving.release)


def test_an_answer_that_is_not_taken_ends_with_its_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(application, "TAKE_REPLY_S", 0.5)
    with Harness(tmp_path) as harness, contextlib.ExitStack() as stack:
        connected = stack.enter_context(socket.socket())
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = harness.api_address.rpartition(":")
        connected.connect((host, int(port)))
        part = b'--e\r\ncontent-disposition: form-data; name="f"\r\n\r\nabc\r\n'
        body = part * 250 + b"--e--\r\n"
        head = HEAD + b"content-type: multipart/form-data; boundary=e\r\ncontent-length: %d\r\n\r\n" % len(body)
        connected.sendall(head + body)
        unread = harness.gateway._calls.unread
        until(lambda: unread._sum > 1_000_000, "the answer")
        until(lambda: unread._sum == 0, "its end")
        until(lambda: not harness.gateway._api._listener.open, "the end of its connection")


def test_while_the_server_drains_calls_end_and_new_ones_are_sent_elsewhere(tmp_path):
    with Harness(tmp_path) as harness, harness.api_socket() as busy, harness.api_socket() as idle:
        harness.call(harness.serving.hold)
        idle.sendall(PICTURE[: len(HEAD)])
        busy.sendall(PICTURE)
        until(lambda: harness.gateway._admission.images == 1, "the call")
        draining = harness.start(harness.gateway.drain(WAIT_S))
        until(lambda: harness.gateway._calls.draining, "draining")
        assert answers(idle) == b""
        status, headers, _ = harness.api("POST", "/embed", b"new")
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        harness.call(harness.serving.release)
        status, headers, _ = read_answer(busy)
        assert status == 200 and headers["connection"] == "close" and draining.result(WAIT_S)


def test_a_call_is_a_line_in_the_log_with_its_wire(harness, caplog):
    with caplog.at_level("INFO", logger="servable"):
        harness.api("POST", "/embed", b"abc", {"x-request-id": "id-7"})
        until(lambda: any(record.message == "call" for record in caplog.records), "the line")
    fields = next(record.fields for record in caplog.records if record.message == "call")
    assert (fields["wire"], fields["method"], fields["code"], fields["images"]) == ("embed", "embed", "OK", 1)
    assert fields["peer"].startswith("ipv4:127.0.0.1:")


def test_the_port_can_be_off_and_can_be_a_unix_socket(tmp_path):
    with Harness(tmp_path, config_of(server={"api_address": ""})) as harness:
        assert harness.api_address == "" and harness.gateway._api is None
    path = tmp_path / "api.sock"
    with Harness(tmp_path, config_of(server={"api_address": f"unix:{path}"})) as harness:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.settimeout(WAIT_S)
            connected.connect(str(path))
            connected.sendall(PICTURE)
            assert harness.api_address == f"unix:{path}" and read_answer(connected)[0] == 200
    assert not path.exists()


def test_tls_is_not_spoken_on_a_plain_port(harness):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        harness.api("GET", "/v1/models", context=ssl.create_default_context())


def test_a_body_without_end_is_not_read_while_the_request_before_it_waits(tmp_path):
    chunked = HEAD + b"transfer-encoding: chunked\r\n"
    piece = (b"10000\r\n" + bytes(65536) + b"\r\n") * 16
    with Harness(tmp_path) as harness, harness.api_socket() as connected:
        harness.call(harness.serving.hold)
        try:
            connected.sendall(chunked + b"\r\n1\r\na\r\n0\r\n\r\n" + chunked + b"\r\n")
            connected.settimeout(1.0)
            with pytest.raises(TimeoutError):
                connected.sendall(64 * piece)  # of which the kernel takes some MB
            (connection,) = harness.gateway._api._listener.open
            assert len(connection.cycle.body) + len(connection._rest) < 2_000_000
        finally:
            harness.call(harness.serving.release)


def test_an_absolute_form_without_a_path_means_the_root(harness):
    assert status_of(sent(harness, b"GET http://a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")) == 200
    answer = sent(harness, b"GET http://a?x=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert status_of(answer) == status_of(sent(harness, b"GET /?x=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"))
