"""Servers that vanish, hang, are busy or move: every call ends in time, and nothing is lost or doubled."""

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from metric_learn_client import (
    ClosedError,
    DeadlineError,
    EmbeddingClient,
    OverloadedError,
    UnreachableError,
)
from metric_learn_client.testing import FakeServable, Faults, fake_embeddings

from .conftest import fake_process

IMAGES = [b"image %d" % number for number in range(5000)]
ROWS = fake_embeddings(IMAGES)


class Timer:
    def __enter__(self):
        self._start = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self._start


@pytest.fixture
def silent_port():
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("images", [1, 500])
def test_a_call_to_a_black_hole_ends_with_its_deadline_and_leaves_no_thread(make_client, fake, no_thread_left, images):
    fake.faults.black_hole = True
    with make_client(fake.endpoint, deadline_s=1.0) as client:
        with Timer() as timer, pytest.raises(DeadlineError, match="deadline_s=1"):
            client.embed([b"a"] * images)
        assert 0.9 <= timer.seconds <= 3
        with Timer() as timer, pytest.raises(DeadlineError, match=r"deadline_s=0.3"):
            client.embed([b"a"] * images, deadline_s=0.3)
        assert timer.seconds <= 2
        with Timer() as timer:
            assert not client.is_ready()
        assert timer.seconds <= 3
    fake.stop()


@pytest.mark.parametrize("images", [1, 2])
def test_a_call_ends_with_its_own_deadline_while_others_fill_the_client(make_client, fake, images):
    fake.faults.black_hole = True
    with make_client(fake.endpoint, deadline_s=60, max_in_flight=2, batch_size=1) as client:
        client._core.model_known = True  # so that the calls hang in Predict

        def fill():
            with pytest.raises(ClosedError):
                client.embed([b"a"] * 4)

        filling = threading.Thread(target=fill)
        filling.start()
        limit = time.monotonic() + 10
        while fake.calls < 2 and time.monotonic() < limit:
            threading.Event().wait(0.01)
        with Timer() as timer, pytest.raises(DeadlineError, match=r"deadline_s=0.3 was over before .*max_in_flight=2"):
            client.embed([b"b"] * images, deadline_s=0.3)
        assert timer.seconds <= 2
    filling.join()


def test_a_port_that_accepts_and_says_nothing_ends_in_time(make_client, silent_port):
    with make_client(silent_port, deadline_s=1.0) as client:
        with Timer() as timer, pytest.raises((DeadlineError, UnreachableError)):
            client.embed([b"a"])
        assert timer.seconds <= 3


def test_nothing_at_the_endpoint_is_said_after_the_retries_and_long_before_the_deadline(make_client):
    with make_client("127.0.0.1:1", deadline_s=30, retries=2) as client:
        with Timer() as timer, pytest.raises(UnreachableError, match=r"nothing serves at 127.0.0.1:1.*is the server"):
            client.embed([b"a"])
        assert timer.seconds < 10
        assert not client.is_ready()


def test_a_server_that_comes_back_within_the_retries_is_no_error(make_client):
    server = FakeServable().start()
    with make_client(server.endpoint, deadline_s=20, retries=20) as client:
        client.embed([b"a"])
        server.stop()
        starter = threading.Timer(0.5, server.start)
        starter.start()
        try:
            assert (client.embed(IMAGES[:100]).embeddings == ROWS[:100]).all()
        finally:
            starter.join()
            server.stop()


def test_a_late_answer_is_worth_waiting_for(make_client, fake):
    fake.faults.delay_s = 0.5
    with make_client(fake.endpoint, deadline_s=5) as client:
        assert (client.embed([b"a"]).embeddings == fake_embeddings([b"a"])).all()
    assert fake.calls == 1


def test_overload_narrows_the_window_and_loses_nothing(make_client, fake):
    fake.faults = Faults(max_in_flight=2, delay_s=0.002)
    with make_client(fake.endpoint, deadline_s=60, max_in_flight=32, batch_size=8) as client:
        assert (client.embed(IMAGES[:2000]).embeddings == ROWS[:2000]).all()
        narrowed = client.max_in_flight_now
        assert narrowed <= 6
        assert fake.calls < 2000 / 8 * 3  # refused calls are few beside the 250 that had to be
        fake.faults = Faults()
        client.embed(IMAGES)
        assert client.max_in_flight_now > 3 * narrowed


def test_overload_that_does_not_end_is_said_within_the_deadline(make_client, fake):
    fake.faults = Faults(status="RESOURCE_EXHAUSTED", details="queue is full", retry_after_ms=50)
    with make_client(fake.endpoint, deadline_s=1.0) as client:
        with Timer() as timer, pytest.raises(OverloadedError, match="queue is full"):
            client.embed(IMAGES[:500])
        assert timer.seconds <= 3
    assert fake.calls < 200


def test_a_retry_hint_is_honoured(make_client, fake):
    fake.faults = Faults(status="RESOURCE_EXHAUSTED", retry_after_ms=400, calls=1)
    with make_client(fake.endpoint, deadline_s=5.0) as client, Timer() as timer:
        client.embed([b"a"])
    assert 0.4 <= timer.seconds < 3


def test_a_bad_image_is_never_sent_again(make_client, fake):
    with make_client(fake.endpoint, deadline_s=5.0) as client:
        client.embed([b"corrupt"], on_error="return")
    assert fake.images == 1


def interrupted(make_client, three, interrupt, **options):
    """5,000 images over three endpoints, one interrupted after 1,000; what each served."""
    struck = threading.Event()
    victim = three[1]

    def embed(images):
        if sum(server.images for server in three) > 1000 and not struck.is_set():
            struck.set()
            threading.Thread(target=interrupt, args=(victim,)).start()
        return fake_embeddings(images)

    for server in three:
        server._embed = embed
    with make_client([server.endpoint for server in three], deadline_s=60, batch_size=10, **options) as client:
        result = client.embed(IMAGES)
        assert struck.is_set()
        assert (result.embeddings == ROWS).all() and not result.errors
        return client


def test_one_of_three_endpoints_killed_in_the_middle_loses_and_doubles_nothing(make_client, three):
    interrupted(make_client, three, lambda victim: victim.stop())
    assert three[0].images > 1000 and three[2].images > 1000


def test_one_of_three_endpoints_black_holed_in_the_middle_loses_and_doubles_nothing(make_client, three):
    def black_hole(victim):
        victim.faults = Faults(black_hole=True)

    with Timer() as timer:
        interrupted(make_client, three, black_hole)
    assert timer.seconds < 30
    assert three[0].images > 1000 and three[2].images > 1000


def test_an_endpoint_that_is_back_is_used_again(make_client, three):
    endpoints = [server.endpoint for server in three]
    with make_client(endpoints, deadline_s=60, batch_size=10) as client:
        three[1].stop()
        client.embed(IMAGES[:500])
        three[1].calls = 0
        three[1].start()
        limit = time.monotonic() + 20
        while not three[1].calls and time.monotonic() < limit:
            assert (client.embed(IMAGES[:100]).embeddings == ROWS[:100]).all()
        assert three[1].calls


def test_calls_are_spread_evenly(make_client, three):
    with make_client([server.endpoint for server in three], batch_size=10) as client:
        client.embed(IMAGES)
    assert all(1000 < server.images < 2500 for server in three)


def test_all_of_three_endpoints_gone_is_one_error_that_names_them(make_client, three):
    for server in three:
        server.stop()
    endpoints = [server.endpoint for server in three]
    with make_client(endpoints, deadline_s=20, retries=1) as client:
        with pytest.raises(UnreachableError) as caught:
            client.embed([b"a"])
    assert all(endpoint in str(caught.value) for endpoint in endpoints)


def test_a_stopped_process_behind_one_of_two_endpoints_is_left_out(make_client):
    with fake_process() as (frozen, process), FakeServable() as alive:
        with make_client([frozen, alive.endpoint], deadline_s=60, batch_size=10) as client:
            client.embed(IMAGES[:500])
            process.send_signal(signal.SIGSTOP)
            with Timer() as timer:
                assert (client.embed(IMAGES).embeddings == ROWS).all()
            assert timer.seconds < 30
            process.send_signal(signal.SIGCONT)


def test_a_host_name_stands_for_all_its_addresses(make_client, monkeypatch):
    """127.0.0.1 and 127.0.0.2 are two servers of one name; one of them goes."""
    first = FakeServable("127.0.0.1:0").start()
    port = first.endpoint.rpartition(":")[2]
    second = FakeServable(f"127.0.0.2:{port}").start()
    original = socket.getaddrinfo

    def look_up(host, *args, **kwargs):
        if host != "embeddings.test":
            return original(host, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", int(port))) for n in (1, 2)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    try:
        with make_client(f"embeddings.test:{port}", deadline_s=30, batch_size=10) as client:
            client.embed(IMAGES[:1000])
            assert first.images > 200 and second.images > 200
            first.stop()
            assert (client.embed(IMAGES).embeddings == ROWS).all()
    finally:
        first.stop()
        second.stop()


def test_channels_to_addresses_that_a_name_no_longer_has_are_closed_and_calls_on_them_end_well(
    make_client, monkeypatch
):
    monkeypatch.setattr("metric_learn_client._client.core.pool._RESOLVE_EVERY_S", 0.0)
    original = socket.getaddrinfo
    hosts = [1, 2]

    def look_up(host, *args, **kwargs):
        if host != "embeddings.test":
            return original(host, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", int(port))) for n in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with FakeServable("0.0.0.0:0") as server:
        port = server.endpoint.rpartition(":")[2]
        with make_client(f"embeddings.test:{port}", deadline_s=20, batch_size=1) as client:
            client.embed(IMAGES[:4])
            server.faults = Faults(delay_s=1.0)
            with ThreadPoolExecutor(1) as caller:
                slow = caller.submit(client.embed, IMAGES[:1])
                limit = time.monotonic() + 10
                while server.calls < 5 and time.monotonic() < limit:
                    threading.Event().wait(0.01)
                server.faults = Faults()
                for number in range(11, 31, 2):
                    hosts[:] = number, number + 1
                    client.embed(IMAGES[:4])
                assert (slow.result(20).embeddings == ROWS[:1]).all()
            hosts[:] = 41, 42
            client.embed(IMAGES[:4])
            assert len(client._shell._channels) <= 4


def test_a_call_ends_with_its_deadline_while_a_name_is_looked_up_and_says_so(make_client, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    try:
        with make_client("embeddings.test:5500", deadline_s=0.4) as client:
            with (
                Timer() as timer,
                pytest.raises(DeadlineError, match=r"deadline_s=0.4 .*embeddings\.test was looked up"),
            ):
                client.embed([b"a"])
        assert timer.seconds <= 3
    finally:
        over.set()


def test_close_ends_calls_in_flight_and_every_thread(make_client, fake, no_thread_left):
    fake.faults.black_hole = True
    client = make_client(fake.endpoint, deadline_s=60)
    outcomes = []

    def call(images):
        try:
            client.embed([b"a"] * images)
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=call, args=(images,)) for images in (1, 1, 400)]
    client._core.model_known = True  # so that the calls hang in Predict
    for thread in threads:
        thread.start()
    limit = time.monotonic() + 10
    while fake.calls < 8 and time.monotonic() < limit:
        threading.Event().wait(0.01)
    with Timer() as timer:
        client.close()
        for thread in threads:
            thread.join(5)
    assert timer.seconds < 5
    assert [type(outcome) for outcome in outcomes] == [ClosedError] * 3
    with pytest.raises(ClosedError):
        client.embed([b"a"])
    client.close()
    fake.stop()


def test_a_client_that_nobody_closed_leaves_no_thread(fake, no_thread_left):
    client = EmbeddingClient(fake.endpoint)
    client.embed([b"a"] * 500)
    del client
    fake.stop()


def test_an_abandoned_stream_stops_sending(make_client, fake):
    fake.faults.delay_s = 0.01
    with make_client(fake.endpoint, batch_size=10) as client:
        stream = client.embed_iter(IMAGES)
        next(stream)
        stream.close()
        assert client.embed([b"a"]).ok.all()
    assert fake.images < 500


def test_a_status_that_a_broken_connection_has_in_some_versions_is_survived(make_client, fake):
    for status, details in (("INTERNAL", "Received RST_STREAM with error code 2"), ("UNKNOWN", "Stream removed")):
        fake.faults = Faults(status=status, details=details, calls=1)
        with make_client(fake.endpoint, deadline_s=5) as client:
            assert np.isfinite(client.embed([b"a"]).embeddings).all()
