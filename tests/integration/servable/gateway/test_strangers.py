"""What one connection takes, others still have; what is no request has its own words."""

import contextlib
import threading
import time

import grpc
import pytest

from metric_learn_client import wire
from servable.config.sections import DeadlinesSection, LimitsSection, SecuritySection
from servable.gateway.call import questions
from servable.gateway.call.calls import LEAST_UNREAD_BYTES, UNREAD_SHARES
from servable.gateway.http2 import http2_connection
from servable.gateway.observe.health import WATCHERS_EACH
from tests.integration.servable.gateway.harness import WAIT_S, Harness, config_of, predict, request, until
from tests.patience import patient

WATCH_PATH = wire.HEALTH_CHECK_PATH.replace("/Check", "/Watch")
PATHS = [wire.PREDICT_PATH, wire.HEALTH_CHECK_PATH, wire.GET_MODEL_PATH]
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@contextlib.contextmanager
def trickling(harness, count):
    """One connection with `count` calls whose bodies do not come."""
    ended = threading.Event()
    with harness.channel(options=OWN_CONNECTION) as channel:
        slow = channel.stream_unary(wire.PREDICT_PATH)
        held = [slow.future((b"" for _ in range(1) if ended.wait(30)), timeout=30) for _ in range(count)]
        admission = harness.gateway._admission
        until(lambda: admission.calls > count // 2, "the slow calls")
        yield held
        ended.set()
        for each in held:
            each.cancel()


@contextlib.contextmanager
def unread_replies(harness):
    """One connection that takes no reply: calls of 100 images until the gateway refuses one, with its words."""
    body = request(*(b"%d" % index for index in range(100))).SerializeToString()
    unread = harness.gateway._calls.unread
    before = unread._sum
    with harness.channel(options=[*OWN_CONNECTION, ("grpc.http2.bdp_probe", 0)]) as channel:
        held = []
        while True:
            assert len(held) < 20, "nothing bounds them"
            held.append(channel.unary_stream(wire.PREDICT_PATH)(body, timeout=60))  # read by `next`, so never
            until(lambda: unread._sum - before > 800_000 * len(held), "a reply")
            error = refused(channel, wire.PREDICT_PATH, b"\x99")
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                break
        yield error.details()
        for each in held:
            each.cancel()


def refused(channel, path, body, metadata=()):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(body, timeout=10, metadata=metadata)
    return caught.value


def test_bodies_that_do_not_come_on_one_connection_delay_nobody_else(tmp_path):
    with Harness(tmp_path) as harness, trickling(harness, 200), harness.channel(options=OWN_CONNECTION) as channel:
        began = time.monotonic()
        for _ in range(50):
            predict(channel, request(b"good"))
        assert time.monotonic() - began < 2


def test_calls_that_wait_for_bodies_take_no_places_from_calls_that_have_theirs(tmp_path):
    settings = config_of(limits=LimitsSection(max_in_flight_calls=20))
    with Harness(tmp_path, settings) as harness, trickling(harness, 20):
        with harness.channel(options=OWN_CONNECTION) as channel:
            for _ in range(50):
                predict(channel, request(b"good"))


def test_a_body_that_comes_with_its_call_waits_for_no_place_and_takes_none_from_others(tmp_path):
    settings = config_of(limits=LimitsSection(max_reading_calls=2))
    with Harness(tmp_path, settings) as harness, contextlib.ExitStack() as stack:
        slow = [*stack.enter_context(trickling(harness, 1)), *stack.enter_context(trickling(harness, 1))]
        with harness.channel(options=OWN_CONNECTION) as channel:
            for _ in range(20):
                predict(channel, request(b"good"))
        assert not any(call.done() for call in slow)


@pytest.mark.parametrize("in_flight_mb", [1, 8, 256])
def test_replies_that_one_connection_does_not_read_are_bounded_and_leave_room_for_others(tmp_path, in_flight_mb):
    """Also where few bytes may be in flight: the share of one connection was all that there was."""
    size = in_flight_mb * 1024 * 1024
    limits = LimitsSection(max_in_flight_bytes=size, max_request_bytes=size, max_image_bytes=size)
    with Harness(tmp_path, config_of(limits=limits)) as harness, unread_replies(harness) as words:
        assert "the most for one connection" in words
        assert harness.gateway._calls.unread._sum < LEAST_UNREAD_BYTES + 1_000_000
        with harness.channel(options=OWN_CONNECTION) as channel:
            for _ in range(20):
                predict(channel, request(b"good"))


def test_many_connections_that_read_no_reply_leave_room_for_one_that_does(tmp_path):
    with Harness(tmp_path) as harness, contextlib.ExitStack() as stack:
        for _ in range(UNREAD_SHARES):
            stack.enter_context(unread_replies(harness))
        assert harness.gateway._calls.unread._sum > UNREAD_SHARES * LEAST_UNREAD_BYTES
        with harness.channel(options=OWN_CONNECTION) as channel:
            for _ in range(20):
                predict(channel, request(b"good"))


def test_a_reply_that_is_not_read_ends_with_its_connection_and_nobody_loses_a_call(tmp_path, monkeypatch):
    monkeypatch.setattr(http2_connection, "AGE_S", 1.0)
    monkeypatch.setattr(http2_connection, "TAKE_REPLY_S", 0.5)
    settings = config_of(deadlines=DeadlinesSection(default_s=1, max_s=1))
    with Harness(tmp_path, settings) as harness, unread_replies(harness):
        with harness.channel(options=OWN_CONNECTION) as channel:
            end, unread = time.monotonic() + 15, harness.gateway._calls.unread
            while unread._sum > LEAST_UNREAD_BYTES / 2 and time.monotonic() < end:
                predict(channel, request(b"good"))
            assert unread._sum < LEAST_UNREAD_BYTES / 2
            for _ in range(20):
                predict(channel, request(b"good"))


def test_watchers_of_one_connection_leave_room_for_others(tmp_path):
    with Harness(tmp_path) as harness, harness.channel(options=OWN_CONNECTION) as channel:
        watch = channel.unary_stream(WATCH_PATH)
        watching = [watch(b"", timeout=20) for _ in range(WATCHERS_EACH)]
        for each in watching:
            next(each)
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(b"", timeout=20))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"{WATCHERS_EACH} are the most for one connection" in caught.value.details()
        with harness.channel(options=OWN_CONNECTION) as other:
            assert next(other.unary_stream(WATCH_PATH)(b"", timeout=20))
        watching[0].cancel()
        until(lambda: watches(channel), "a free place")
        for each in watching:
            each.cancel()


def watches(channel):
    try:
        return next(channel.unary_stream(WATCH_PATH)(b"", timeout=20))
    except grpc.RpcError:
        return None


@pytest.mark.parametrize("path", [*PATHS, WATCH_PATH])
def test_a_body_that_is_no_request_is_invalid_argument_in_our_words(tmp_path, path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        error = refused(channel, path, b"\x99")
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith("request: the body is not a")
        assert dict(error.trailing_metadata())[wire.METADATA_REQUEST_ID]


@pytest.mark.parametrize(
    "path",
    ["/no.such/Thing", "/", "x", wire.PREDICT_PATH + "/", "/" + "a" * 15_000, "/grpc.reflection.v1.A/B"],
    ids=["unknown", "empty", "no slash", "longer", "15 kB", "reflection"],
)
def test_an_unknown_path_is_unimplemented_in_our_words(tmp_path, path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        error = refused(channel, path, b"body", [(wire.METADATA_REQUEST_ID, "mine")])
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (
            error.details().startswith("there is no such call here; known: ") and wire.PREDICT_PATH in error.details()
        )
        assert dict(error.trailing_metadata())[wire.METADATA_REQUEST_ID] == "mine"


def test_the_body_for_an_unknown_path_is_not_read(tmp_path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        ended = threading.Event()
        call = channel.stream_unary("/no.such/Thing").future((b"" for _ in range(1) if ended.wait(30)), timeout=30)
        assert call.code() is grpc.StatusCode.UNIMPLEMENTED
        ended.set()


@pytest.mark.parametrize(
    ("path", "status"),
    [(b"/\xff\xfe", grpc.StatusCode.UNIMPLEMENTED), ("/" + "a" * 60_000, grpc.StatusCode.RESOURCE_EXHAUSTED)],
    ids=["no UTF-8", "60 kB"],
)
def test_a_path_that_is_no_path_has_the_status_of_the_page_and_costs_no_other_call(tmp_path, path, status):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        error = refused(channel, path, b"")
        assert error.code() is status and dict(error.trailing_metadata())[wire.METADATA_REQUEST_ID]
        predict(channel, request(b"good"))


@pytest.mark.parametrize("path", PATHS)
def test_two_request_ids_are_refused(tmp_path, path):
    pairs = [(wire.METADATA_REQUEST_ID, "one"), (wire.METADATA_REQUEST_ID, "two")]
    with Harness(tmp_path) as harness, harness.channel() as channel:
        error = refused(channel, path, b"", pairs)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and "send one" in error.details()


@pytest.mark.parametrize("path", [wire.PREDICT_PATH, wire.GET_MODEL_PATH])
@pytest.mark.parametrize("first_is_right", [True, False])
def test_two_tokens_are_refused_whichever_is_right(tmp_path, path, first_is_right):
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text("the-right-token-of-this-test\n")
    values = ["Bearer the-right-token-of-this-test", "Bearer another-token-altogether"]
    pairs = [(wire.METADATA_AUTHORIZATION, value) for value in (values if first_is_right else values[::-1])]
    with (
        Harness(tmp_path, config_of(security=SecuritySection(tokens_file=tokens))) as harness,
        harness.channel() as channel,
    ):
        error = refused(channel, path, b"", pairs)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED and "send one" in error.details()


def test_a_refused_call_frees_its_stream_at_once(tmp_path):
    """gRPC's own `abort` kept it until Python looked for circles: then a client found no stream free."""
    settings = config_of(limits=LimitsSection(max_streams_per_connection=30))
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        for _ in range(500):
            assert refused(channel, wire.PREDICT_PATH, b"\x99").code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_body_keeps_its_time_while_nobody_else_wants_its_place(tmp_path):
    settings = config_of(limits=LimitsSection(max_reading_calls=4), deadlines=DeadlinesSection(read_body_s=60))
    with Harness(tmp_path, settings) as harness, trickling(harness, 1) as held:
        with harness.channel(options=OWN_CONNECTION) as channel:
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                predict(channel, request(b"good"))
        assert not held[0].done()


@pytest.mark.parametrize("path", [wire.HEALTH_CHECK_PATH, wire.GET_MODEL_PATH, WATCH_PATH])
def test_the_body_of_a_small_call_must_come_soon(tmp_path, monkeypatch, path):
    bound_s = patient(0.5)
    monkeypatch.setattr(questions, "READ_S", bound_s)
    ended = threading.Event()
    with Harness(tmp_path) as harness, harness.channel() as channel:
        with pytest.raises(grpc.RpcError) as failed:
            list(channel.stream_stream(path)(never(ended), timeout=WAIT_S))
        ended.set()
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED and f"{bound_s:g} s" in failed.value.details()
        with pytest.raises(grpc.RpcError) as failed:
            list(channel.stream_stream(path)(iter(()), timeout=WAIT_S))
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "no message" in failed.value.details()


def test_small_calls_whose_bodies_come_slowly_do_not_keep_others_from_an_answer(tmp_path):
    ended = threading.Event()
    with Harness(tmp_path) as harness, harness.channel() as channel, harness.channel(options=OWN_CONNECTION) as slow:
        late = [slow.stream_unary(wire.HEALTH_CHECK_PATH).future(never(ended), timeout=WAIT_S) for _ in range(30)]
        check = channel.unary_unary(wire.HEALTH_CHECK_PATH)
        began = time.monotonic()
        for _ in range(50):
            check(b"", timeout=WAIT_S)
        assert time.monotonic() - began < WAIT_S / 2
        codes = {each.code() for each in late}
        ended.set()
        assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}


def never(ended):
    ended.wait(2 * WAIT_S)
    yield from ()
