"""Backends that come, go, lie and hang; versions that change; a server that stops."""

import contextlib
import dataclasses
import time

import grpc
import numpy as np
import pytest

from metric_learn_client import wire
from servable.config.sections import ReadinessSection
from servable.gateway import Golden
from tests.integration.servable.gateway.fake_serving import GOLDEN_IMAGE, FakeBackend, FakeServing, embedding_of
from tests.integration.servable.gateway.harness import (
    Harness,
    config_of,
    noticing_hangs_soon,
    predict,
    predict_future,
    request,
    rows,
    until,
)


def embeds(channel, image=b"x", salt=b"", **options):
    reply, metadata = predict(channel, request(image), **options)
    assert np.array_equal(rows(reply), [embedding_of(image, salt)])
    return metadata


def failure(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_before_the_first_backend_calls_wait_and_then_succeed(tmp_path):
    with Harness(tmp_path, start_backend=False) as harness, harness.channel() as channel:
        assert harness.http("/readyz") == (503, "not ready: version 1 is down: starting\n")
        future = predict_future(channel, request(b"x"))
        until(lambda: harness.gateway._admission.images == 1, "the call")
        harness.call(harness.backends.set_ready, harness.backend)
        assert np.array_equal(rows(future.result(10)), [embedding_of(b"x")])
        assert harness.http("/readyz") == (200, "ready\n")


def test_with_when_down_fail_calls_are_unavailable_at_once_with_a_hint(tmp_path):
    with Harness(tmp_path, config_of(server={"when_down": "fail"}), start_backend=False) as harness:
        with harness.channel() as channel:
            error = failure(lambda: predict(channel, request(b"x")))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert int(dict(error.trailing_metadata())[wire.METADATA_RETRY_AFTER_MS]) > 0


def test_with_when_down_fail_a_call_in_flight_fails_when_the_backend_goes(tmp_path):
    with Harness(tmp_path, config_of(server={"when_down": "fail"})) as harness, harness.channel() as channel:
        harness.serving.silent = True
        future = predict_future(channel, request(b"x"))
        until(lambda: harness.serving.batches, "the part")
        harness.call(harness.backends.set_down, harness.backend, "it ended")
        error = failure(lambda: future.result(10))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert wire.METADATA_RETRY_AFTER_MS in dict(error.trailing_metadata())


def test_a_call_in_flight_is_answered_by_the_successor_on_the_same_socket(tmp_path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        harness.serving.silent = True
        future = predict_future(channel, request(*[b"%d" % index for index in range(60)]))
        until(lambda: sum(harness.serving.batches) == 32, "the window")
        harness.run(harness.serving.stop())  # the process is gone
        harness.call(harness.backends.set_down, harness.backend, "it ended")
        assert harness.http("/readyz")[1] == "not ready: version 1 is down: it ended\n"
        harness.serving = FakeServing()
        harness.run(harness.serving.start(harness.backend.target[len("unix:") :]))
        harness.call(harness.backends.set_ready, FakeBackend(harness.backend.target))
        assert np.array_equal(rows(future.result(10)), [embedding_of(b"%d" % index) for index in range(60)])


def test_a_version_whose_golden_embedding_is_wrong_never_takes_a_call(tmp_path):
    wrong = Golden(GOLDEN_IMAGE, embedding_of(b"another image"))
    backend = FakeBackend(f"unix:{tmp_path}/b.sock", golden=wrong)
    with Harness(tmp_path, backend=backend, start_backend=False) as harness, harness.channel() as channel:
        harness.call(harness.backends.set_ready, backend)
        until(lambda: harness.unhealthy, "the report")
        assert "off by" in harness.unhealthy[0][1] and len(harness.unhealthy) == 1
        assert "off by" in harness.http("/readyz")[1]
        assert failure(lambda: predict(channel, request(b"x"), timeout=0.3)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not harness.serving.batches


def test_a_distance_within_float16_is_right(tmp_path):
    expected = embedding_of(GOLDEN_IMAGE) + np.float32(5e-3) * embedding_of(b"noise")
    backend = FakeBackend(f"unix:{tmp_path}/b.sock", golden=Golden(GOLDEN_IMAGE, expected))
    with Harness(tmp_path, backend=backend) as harness, harness.channel() as channel:
        embeds(channel)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_hung_backend_is_reported_once_and_its_calls_go_to_the_successor(tmp_path, loaded):
    with Harness(tmp_path, config_of(readiness=noticing_hangs_soon())) as harness, harness.channel() as channel:
        harness.serving.silent = True
        futures = [predict_future(channel, request(b"held"))] if loaded else []
        until(lambda: harness.unhealthy, "the report")
        assert len(harness.unhealthy) == 1 and "golden picture" in harness.unhealthy[0][1]
        assert harness.http("/readyz")[0] == 503
        harness.call(harness.backends.set_down, harness.backend, "replaced")
        harness.serving.silent = False
        harness.call(harness.backends.set_ready, FakeBackend(harness.backend.target))
        for future in futures:
            assert np.array_equal(rows(future.result(10)), [embedding_of(b"held")])
        embeds(channel)


def test_images_that_wait_for_an_answer_make_one_golden_image_enough_to_tell_a_hang(tmp_path):
    """It was asked after a first silence, which counts like a golden picture that failed."""
    seldom = ReadinessSection(interval_s=0.1, deadline_s=0.5, max_cost_share=1e-9)
    with Harness(tmp_path, config_of(readiness=seldom)) as harness, harness.channel() as channel:
        harness.serving.silent = True
        held = predict_future(channel, request(b"held"))
        until(lambda: harness.unhealthy, "the report")
        assert 'metric_learn_readiness_probes_total{result="failed"} 1.0' in harness.http("/metrics")[1]
        assert not held.done()


def test_a_busy_backend_is_not_called_dead(tmp_path):
    """Golden pictures take longer than their deadline, but answers keep coming."""
    with Harness(tmp_path, config_of(readiness=noticing_hangs_soon())) as harness, harness.channel() as channel:
        harness.serving.golden_silent, harness.serving.delay_s = True, 0.05
        end = time.monotonic() + 2
        while time.monotonic() < end:
            embeds(channel)
        assert not harness.unhealthy and harness.http("/readyz")[0] == 200


def test_two_versions_are_served_and_the_default_switches_under_load(tmp_path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        second = FakeServing(salt=b"2")
        target = harness.run(second.start(f"{tmp_path}/second.sock"))
        golden = Golden(GOLDEN_IMAGE, embedding_of(GOLDEN_IMAGE, b"2"))
        backend = FakeBackend(target, version=2, fingerprint="e" * 64, golden=golden)
        futures = []

        def send(count):
            futures.extend(predict_future(channel, request(b"x")) for _ in range(count))

        send(50)
        harness.call(harness.backends.set_ready, backend)
        harness.wait_serving(2)
        assert embeds(channel)[wire.METADATA_VERSION] == "1"
        send(50)
        harness.call(harness.backends.set_default, 2)
        send(50)
        metadata = embeds(channel, salt=b"2")
        assert (metadata[wire.METADATA_VERSION], metadata[wire.METADATA_FINGERPRINT]) == ("2", "e" * 64)
        _reply, metadata = predict(channel, request(b"x", version=1))
        assert metadata[wire.METADATA_FINGERPRINT] == "f" * 64
        assert harness.run(harness.backends.retire(harness.backend, 5))
        assert failure(lambda: predict(channel, request(b"x", version=1))).code() is grpc.StatusCode.NOT_FOUND
        for future in futures:
            version = dict(future.trailing_metadata())[wire.METADATA_VERSION]
            salt = {"1": b"", "2": b"2"}[version]
            assert np.array_equal(rows(future.result(10)), [embedding_of(b"x", salt)])
        harness.run(second.stop())


@contextlib.contextmanager
def second_version(folder):
    """A gateway that serves version 2 too, by a MindSpore Serving of its own."""
    with Harness(folder) as harness, harness.channel() as channel:
        second = FakeServing()
        backend = FakeBackend(harness.run(second.start(f"{folder}/second.sock")), version=2)
        harness.call(harness.backends.set_ready, backend)
        harness.wait_serving(2)
        yield harness, channel, second, backend
        harness.run(second.stop())


def test_retiring_waits_for_calls_in_flight(tmp_path):
    with second_version(tmp_path) as (harness, channel, second, backend):
        second.delay_s = 0.4
        future = predict_future(channel, request(b"x", version=2))
        until(lambda: second.batches, "the call")
        assert harness.run(harness.backends.retire(backend, 5)) is True
        assert future.result(1).instances


def test_a_version_whose_backend_ends_while_it_is_retired_gets_a_successor_and_goes(tmp_path):
    with second_version(tmp_path) as (harness, channel, second, backend):
        second.silent = True
        future = predict_future(channel, request(b"x", version=2))
        until(lambda: second.batches, "the call")
        retired = harness.start(harness.backends.retire(backend, 10))
        until(lambda: len(harness.backends.all()) == 1, "the beginning")
        harness.call(harness.backends.set_down, backend, "it ended")
        second.silent = False
        harness.call(harness.backends.set_ready, dataclasses.replace(backend))
        assert future.result(10).instances and retired.result(10) is True
        assert [served.version for served in harness.backends.all()] == [1]


def test_an_end_counts_once_however_often_it_is_told(tmp_path):
    with Harness(tmp_path) as harness:
        harness.backends.default.images_in_it = True
        for reason in ("it ended", "compiling model 1 of 9", "compiling model 2 of 9"):
            harness.call(harness.backends.set_down, harness.backend, reason)
        assert harness.backends.default.deaths_with_suspects == 1


def test_retiring_fails_calls_that_outlast_the_grace_and_keeps_none_waiting(tmp_path):
    with second_version(tmp_path) as (harness, channel, second, backend):
        second.silent = True
        future = predict_future(channel, request(b"x", version=2))
        until(lambda: second.batches, "the call")
        assert harness.run(harness.backends.retire(backend, 0.1)) is False
        error = failure(lambda: future.result(3))
        assert error.code() is grpc.StatusCode.UNAVAILABLE and "no longer served" in error.details()


def test_a_call_never_mixes_two_models(tmp_path):
    """The successor has another fingerprint: a call with halves from both is refused, not answered."""
    backend = FakeBackend(f"unix:{tmp_path}/b.sock", most_batches=1)
    with Harness(tmp_path, backend=backend) as harness, harness.channel() as channel:
        harness.serving.delay_s = 0.3
        future = predict_future(channel, request(*[b"%d" % index for index in range(64)]))
        until(lambda: len(harness.serving.batches) == 2, "the second part")
        harness.call(harness.backends.set_down, backend, "replaced")
        harness.call(harness.backends.set_ready, FakeBackend(backend.target, fingerprint="0" * 64))
        error = failure(lambda: future.result(10))
        assert error.code() is grpc.StatusCode.UNAVAILABLE and "model changed" in error.details()


def test_drain_refuses_new_calls_and_finishes_those_in_flight(tmp_path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        harness.serving.delay_s = 0.5
        future = predict_future(channel, request(b"x"))
        until(lambda: harness.serving.batches, "the call")
        drained = harness.start(harness.gateway.drain(5))
        until(lambda: harness.http("/readyz") == (503, "not ready: stopping\n"), "not ready")
        error = failure(lambda: predict(channel, request(b"y")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE and "stopping" in error.details()
        assert wire.METADATA_RETRY_AFTER_MS in dict(error.trailing_metadata())
        assert np.array_equal(rows(future.result(10)), [embedding_of(b"x")])
        assert drained.result(10) is True


def test_drain_gives_up_after_its_grace(tmp_path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        harness.serving.silent = True
        future = predict_future(channel, request(b"x"))
        until(lambda: harness.serving.batches, "the call")
        assert harness.run(harness.gateway.drain(0.2)) is False
        harness.run(harness.gateway.stop())
        assert failure(lambda: future.result(10)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_during_the_notice_calls_are_still_taken(tmp_path):
    with Harness(tmp_path, config_of(server={"drain_notice_s": 0.5})) as harness, harness.channel() as channel:
        drained = harness.start(harness.gateway.drain(5))
        until(lambda: harness.http("/readyz")[0] == 503, "not ready")
        embeds(channel)
        assert drained.result(10) is True


def test_stop_leaves_no_task_behind(tmp_path):
    import asyncio

    with Harness(tmp_path) as harness:
        with harness.channel() as channel:
            embeds(channel)
        harness.run(harness.gateway.stop())

        async def left():
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            return [task for task in tasks if "/servable/gateway/" in repr(task)]

        assert not harness.run(left())
