"""Deadlines, cancellation and back-pressure: places are bounded, and free again at once."""

import socket
import threading
import time

import grpc
import pytest

from metric_learn_client import wire
from servable.config.sections import DeadlinesSection, LimitsSection
from tests.integration.servable.gateway.fake_serving import FakeBackend
from tests.integration.servable.gateway.harness import Harness, config_of, predict, predict_future, request, until
from tests.integration.servable.gateway.http2_peer import WINDOW_UPDATE, Peer, data, message


def in_flight(harness):
    admission = harness.gateway._admission
    return admission.calls, admission.images, admission.bytes


def code_of(future, bound_s=10):
    with pytest.raises(grpc.RpcError) as caught:
        future.result(bound_s)
    return caught.value.code()


def test_the_callers_deadline_counts_and_its_place_is_free_afterwards(tmp_path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        harness.serving.silent = True
        began = time.monotonic()
        assert code_of(predict_future(channel, request(b"x"), timeout=0.3)) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 2
        until(lambda: in_flight(harness) == (0, 0, 0), "the place")


def test_without_a_deadline_the_servers_default_counts(tmp_path):
    settings = config_of(deadlines=DeadlinesSection(default_s=0.3))
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        harness.serving.silent = True
        with pytest.raises(grpc.RpcError) as caught:
            predict(channel, request(b"x"), timeout=None)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "default is 0.3 s" in caught.value.details()


def test_a_longer_deadline_than_the_maximum_is_cut_to_it(tmp_path):
    settings = config_of(deadlines=DeadlinesSection(default_s=0.3, max_s=0.3))
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        harness.serving.silent = True
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            predict(channel, request(b"x"), timeout=60)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - began < 3
        assert "maximum 0.3 s" in caught.value.details()


def test_a_cancelled_call_frees_its_place_and_its_unsent_images(tmp_path):
    backend = FakeBackend(f"unix:{tmp_path}/b.sock", most_batches=1)
    with Harness(tmp_path, backend=backend) as harness, harness.channel() as channel:
        harness.serving.delay_s = 0.2
        future = predict_future(channel, request(*[b"%d" % index for index in range(256)]))
        until(lambda: harness.serving.batches, "the first part")
        future.cancel()
        until(lambda: in_flight(harness) == (0, 0, 0), "the place")
        predict(channel, request(b"next"))
        assert sum(harness.serving.batches) <= 16 + 16 + 1


def test_beyond_the_images_in_flight_calls_are_refused_at_once_with_a_hint(tmp_path):
    settings = config_of(limits=LimitsSection(max_instances=10, max_in_flight_instances=20))
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        harness.serving.silent = True
        held = [predict_future(channel, request(*[b"x"] * 10)) for _ in range(2)]
        until(lambda: in_flight(harness)[1] == 20, "both calls")
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            predict(channel, request(b"x"))
        assert time.monotonic() - began < 1
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        metadata = dict(caught.value.trailing_metadata())
        assert 50 <= int(metadata[wire.METADATA_RETRY_AFTER_MS]) <= 5000
        for future in held:
            future.cancel()
        until(lambda: in_flight(harness) == (0, 0, 0), "the places")


def test_beyond_the_bytes_in_flight_calls_are_refused(tmp_path):
    settings = config_of(
        limits=LimitsSection(max_image_bytes=10_000, max_request_bytes=10_000, max_in_flight_bytes=15_000)
    )
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        harness.serving.silent = True
        held = predict_future(channel, request(bytes(9000)))
        until(lambda: in_flight(harness)[2] > 9000, "the call")
        assert code_of(predict_future(channel, request(bytes(9000)))) is grpc.StatusCode.RESOURCE_EXHAUSTED
        held.cancel()


def test_beyond_the_calls_in_flight_a_call_is_refused_before_its_body_is_read(tmp_path):
    settings = config_of(limits=LimitsSection(max_in_flight_calls=3))
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        harness.serving.silent = True
        held = [predict_future(channel, request(b"x")) for _ in range(3)]
        until(lambda: in_flight(harness)[0] == 3, "the calls")
        assert code_of(predict_future(channel, b"not even a request")) is grpc.StatusCode.RESOURCE_EXHAUSTED
        for future in held:
            future.cancel()


def test_a_body_that_does_not_arrive_ends_its_call(tmp_path):
    settings = config_of(deadlines=DeadlinesSection(read_body_s=0.3))
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        ended = threading.Event()
        call = channel.stream_unary(wire.PREDICT_PATH)
        with pytest.raises(grpc.RpcError) as caught:
            call((b"" for _ in range(1) if ended.wait(10)), timeout=10)  # a message that does not come
        ended.set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "body did not arrive within 0.3 s" in caught.value.details()


def test_slow_senders_do_not_keep_others_out(tmp_path):
    """They hold every place of their connection; calls that come later on it are served all the same."""
    settings = config_of(limits=LimitsSection(max_reading_calls=12))
    whole = message(request(bytes(400_000)).SerializeToString())
    first, rest = whole[:200_000], whole[200_000:]
    with Harness(tmp_path, settings) as harness:
        host, _, port = harness.address.rpartition(":")
        with socket.create_connection((host, int(port))) as connected:
            peer = Peer(connected)
            for stream in (1, 3, 5):
                peer.send(peer.head(stream, wire.PREDICT_PATH), data(stream, first))
            until(lambda: in_flight(harness)[0] == 3, "the slow calls")
            for stream in (7, 9):
                peer.send(peer.head(stream, wire.PREDICT_PATH), data(stream, first))
                peer.wait(lambda each, own=stream: each.kind == WINDOW_UPDATE and each.stream == own)
                peer.send(data(stream, rest, ends=True))
                assert peer.reply(stream).status == 0
            assert peer.reply(1).status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


def test_a_call_without_a_message_is_refused(tmp_path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(wire.PREDICT_PATH)(iter(()), timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no message" in caught.value.details()


def test_a_compressed_bomb_is_refused_and_not_unpacked(tmp_path):
    settings = config_of(limits=LimitsSection(max_image_bytes=1_000_000, max_request_bytes=1_000_000))
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        call = channel.unary_unary(wire.PREDICT_PATH)
        with pytest.raises(grpc.RpcError) as caught:
            call(bytes(200_000_000), timeout=10, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        predict(channel, request(b"good"))


def test_200_callers_at_twice_the_limit_are_served_or_refused_and_nothing_is_left(tmp_path):
    settings = config_of(limits=LimitsSection(max_in_flight_calls=100, max_streams_per_connection=1024))
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        harness.serving.delay_s = 0.2
        futures = [predict_future(channel, request(b"%d" % index)) for index in range(200)]
        codes = [future.code() for future in futures if future.exception(10) is not None or True]
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes.count(grpc.StatusCode.OK) >= 100
        until(lambda: in_flight(harness) == (0, 0, 0), "the places")
        predict(channel, request(b"after"))
