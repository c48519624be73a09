"""Images that end a backend, or hold it up, and those that were beside them."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging

import grpc
import numpy as np
import pytest

from metric_learn_client import wire
from servable.config.sections import ReadinessSection
from servable.engine.packed_batch import OF_THE_WORKER
from servable.gateway.queue import dispatcher
from tests.integration.servable.gateway.fake_serving import FakeBackend, embedding_of
from tests.integration.servable.gateway.harness import (
    Harness,
    config_of,
    noticing_hangs_soon,
    predict,
    predict_future,
    request,
    until,
)
from tests.patience import patient

CRASHED = "E_CRASH: the image ended or held up the process that worked on it"


def settings_of(**server):
    return config_of(server=server, readiness=noticing_hangs_soon())


@pytest.fixture
def running(tmp_path):
    with Harness(tmp_path, settings_of()) as harness:
        yield harness


@pytest.fixture
def channel(running):
    with running.channel() as channel:
        yield channel


def outcomes_of(reply, count):
    """An array for an embedding, a text for an error."""
    if len(reply.error_msg) == 1 and not reply.instances:
        return [reply.error_msg[0].error_msg.decode()] * count
    errors = [error.error_msg.decode() for error in reply.error_msg] or [""] * count
    rows = [np.frombuffer(each.items[wire.ITEM_EMBEDDING].data, "<f4") for each in reply.instances]
    return [error or row for error, row in zip(errors, rows)]


def assert_answered(reply, images, crashed=()):
    for image, outcome in zip(images, outcomes_of(reply, len(images))):
        if image in crashed:
            assert outcome == CRASHED
        else:
            assert np.array_equal(outcome, embedding_of(image))


def replace(harness, reason="it ended"):
    """As the supervisor does: the old one is gone, the new one listens on the same path."""
    had_images = harness.call(harness.backends.set_down, harness.backend, reason)
    harness.serving.silent = False
    harness.backend = dataclasses.replace(harness.backend)
    harness.call(harness.backends.set_ready, harness.backend)
    return had_images


def probes_passed(harness):
    text = harness.http("/metrics")[1]
    return float(text.partition('metric_learn_readiness_probes_total{result="ok"} ')[2].split()[0])


def suspects(harness):
    return dict(harness.backends.default.suspect_images)


@contextlib.contextmanager
def with_trials(folder, answers, **server):
    """A gateway that tries suspects first. answers: image -> whether it ends its process; an OSError is raised."""
    tried = []

    @contextlib.asynccontextmanager
    async def trial():
        async def ends(method, image):
            assert method == "embed"
            tried.append(bytes(image))
            answer = answers(bytes(image))
            if isinstance(answer, OSError):
                raise answer
            return answer

        yield ends

    with Harness(folder, settings_of(**server), trial=trial) as harness, harness.channel() as channel:
        yield harness, channel, tried


def poisonous(image):
    return b"poison" in image


def test_an_image_that_ends_a_process_of_its_own_too_costs_one_end(tmp_path):
    with with_trials(tmp_path, poisonous) as (harness, channel, tried):
        harness.serving.poison = {b"poison"}
        images = [b"0", b"1", b"poison", b"2", b"3"]
        futures = [predict_future(channel, request(*images)) for _ in range(10)]
        for future in futures:
            assert_answered(future.result(10), images, crashed=[b"poison"])
        assert harness.serving.crashes == 1
        assert suspects(harness)["failed"] == 1 and suspects(harness)["remembered"] == 9
        assert set(images) <= set(tried) and tried.count(b"poison") == 1


def test_one_whose_caller_has_gone_is_tried_all_the_same(tmp_path):
    with with_trials(tmp_path, poisonous, when_down="fail") as (harness, channel, _):
        harness.serving.poison = {b"poison"}
        with pytest.raises(grpc.RpcError):
            predict(channel, request(b"poison"))
        until(lambda: suspects(harness)["failed"] == 1, "the verdict")
        reply, _ = predict(channel, request(b"poison"))
        assert_answered(reply, [b"poison"], crashed=[b"poison"])
        assert harness.serving.crashes == 1


@pytest.mark.parametrize("answer", [False, OSError("no process")], ids=["survives", "no process"])
def test_what_a_trial_does_not_show_a_second_end_does(tmp_path, answer):
    with with_trials(tmp_path, lambda image: answer) as (harness, channel, _):
        harness.serving.poison = {b"poison"}
        reply, _ = predict(channel, request(b"0", b"poison"))
        assert_answered(reply, [b"0", b"poison"], crashed=[b"poison"])
        assert harness.serving.crashes == 2
        assert suspects(harness) == {"cleared": 1, "failed": 1, "remembered": 0}


def test_an_image_that_ends_the_worker_fails_and_the_rest_of_its_call_is_answered(running, channel, caplog):
    running.serving.poison = {b"poison"}
    images = [b"0", b"1", b"poison", b"2", b"3"]
    with caplog.at_level(logging.ERROR):
        reply, _ = predict(channel, request(*images), metadata=(("x-request-id", "the-caller"),))
    assert_answered(reply, images, crashed=[b"poison"])
    assert running.serving.crashes == 2
    assert suspects(running) == {"cleared": 4, "failed": 1, "remembered": 0}
    (record,) = [record for record in caplog.records if "E_CRASH" in record.message]
    fields = record.fields
    assert fields["request_id"] == "the-caller" and fields["bytes"] == 6 and len(fields["sha256"]) == 16


def test_an_image_whose_backend_ends_in_a_run_of_a_device_is_never_found_guilty(running, channel, caplog):
    running.serving.poison = {b"poison"}  # ends it whenever it comes: once among others, twice alone
    alone, images = [], [b"0", b"poison", b"1"]

    def ran_since(at):
        if running.backends.default.alone:
            alone.append(at)
        if len(alone) > 1:
            running.serving.poison = set()  # the device recovers
        return True

    object.__setattr__(running.backend, "ran_since", ran_since)
    reply, _ = predict(channel, request(*images))
    assert_answered(reply, images)
    assert running.serving.crashes >= 2 and alone and suspects(running)["failed"] == 0
    assert "the image is not to blame" in caplog.text


def test_callers_that_were_there_by_chance_are_answered(running, channel):
    running.serving.poison = {b"poison"}
    futures = [predict_future(channel, request(b"%d" % index)) for index in range(5)]
    poisoned = predict_future(channel, request(b"poison"))
    futures += [predict_future(channel, request(b"%d" % index)) for index in range(5, 10)]
    assert_answered(poisoned.result(10), [b"poison"], crashed=[b"poison"])
    for index, future in enumerate(futures):
        assert_answered(future.result(10), [b"%d" % index])


def test_ten_callers_with_the_same_image_cost_two_ends(running, channel):
    running.serving.poison = {b"poison"}
    futures = [predict_future(channel, request(b"poison", b"%d" % index)) for index in range(10)]
    for index, future in enumerate(futures):
        assert_answered(future.result(10), [b"poison", b"%d" % index], crashed=[b"poison"])
    assert running.serving.crashes == 2
    assert suspects(running)["failed"] == 1 and suspects(running)["remembered"] == 9


def test_afterwards_it_is_answered_from_memory_also_while_nothing_serves(running, channel):
    running.serving.poison = {b"poison"}
    predict(channel, request(b"poison"))
    running.call(running.backends.set_down, running.backend, "gone")
    reply, _ = predict(channel, request(b"poison"), timeout=1)
    assert_answered(reply, [b"poison"], crashed=[b"poison"])
    assert running.serving.crashes == 2
    assert "metric_learn_suspect_images_total" in running.http("/metrics")[1]


def test_new_killers_again_and_again_fail_nobody_else(running, channel):
    innocent = []
    for number in range(6):
        poison = b"poison %d" % number
        running.serving.poison = {poison}
        innocent += [predict_future(channel, request(b"%d" % index)) for index in range(3)]
        reply, _ = predict(channel, request(poison))
        assert_answered(reply, [poison], crashed=[poison])
    for place, future in enumerate(innocent):
        assert_answered(future.result(10), [b"%d" % (place % 3)])


def test_two_killers_in_one_call_both_fail(running, channel):
    images = [b"poison 1", b"0", b"poison 2"]
    running.serving.poison = {b"poison 1", b"poison 2"}
    reply, _ = predict(channel, request(*images))
    assert_answered(reply, images, crashed=[b"poison 1", b"poison 2"])
    assert running.serving.crashes == 3


def test_an_end_that_no_image_caused_blames_none(running, channel):
    running.serving.silent = True
    images = [[b"%d %d" % (call, index) for index in range(16)] for call in range(2)]
    futures = [predict_future(channel, request(*each)) for each in images]
    until(lambda: sum(running.serving.batches) == 32, "the parts")
    running.serving.batches.clear()
    assert replace(running, "killed by the operator") is True
    for future, each in zip(futures, images):
        assert_answered(future.result(10), each)
    assert running.serving.batches == [1] * 32
    assert suspects(running) == {"cleared": 32, "failed": 0, "remembered": 0}
    predict(channel, request(*images[0]))
    assert max(running.serving.batches) == 16  # and from now on together


def test_an_idle_backend_ends_without_images_whatever_was_before(running, channel):
    running.serving.poison = {b"poison"}
    predict(channel, request(b"poison"))  # its worker comes back by itself
    predict(channel, request(b"0"))
    assert replace(running) is False
    assert running.backends.default.deaths_with_suspects == 0


def test_a_suspect_waits_for_what_is_there_before_it(running, channel):
    """One of several workers failed: the others have images, which would be with the suspect in the next end."""
    running.serving.hangs_one_of_two = b"slow"
    slow = predict_future(channel, request(b"slow"))
    until(lambda: running.serving.batches == [1], "the slow part")
    running.serving.image_errors[b"0"] = "worker is not available"
    suspect = predict_future(channel, request(b"0"))
    until(lambda: len(running.serving.batches) == 2, "the part that fails")
    until(lambda: running.backends.default.serving and probes_passed(running) >= 2, "ready again")
    running.serving.image_errors.clear()
    later = predict_future(channel, request(b"1"))
    until(lambda: running.gateway._admission.images == 3, "the later one")
    assert len(running.serving.batches) == 2
    running.serving.hangs_one_of_two = None
    replace(running)
    for future, image in ((slow, b"slow"), (suspect, b"0"), (later, b"1")):
        assert_answered(future.result(10), [image])


def test_a_suspect_has_the_backend_to_itself(running, channel):
    running.serving.silent = True
    suspected = predict_future(channel, request(b"0", b"1", b"2"))
    until(lambda: running.serving.batches, "the part")
    running.serving.batches.clear()
    running.call(running.backends.set_down, running.backend, "gone")
    images = [b"later %d" % n for n in range(40)]
    others = [predict_future(channel, request(*images)) for _ in range(3)]
    until(lambda: running.gateway._admission.images == 123, "the others")
    running.serving.delay_s = 0.05  # long enough for one to meet another
    replace(running)
    assert_answered(suspected.result(10), [b"0", b"1", b"2"])
    for future in others:
        assert_answered(future.result(10), images)
    assert running.serving.batches[:3] == [1, 1, 1] and min(running.serving.batches[3:]) > 1


@pytest.mark.parametrize("hangs", [False, True], ids=["ends", "hangs"])
def test_a_killer_whose_caller_has_gone_goes_alone_when_it_comes_again(running, channel, hangs):
    if hangs:
        running.serving.hangs_on = b"poison"
    else:
        running.serving.poison = {b"poison"}
    with pytest.raises(grpc.RpcError):
        predict(channel, request(b"poison", b"0"), timeout=0.02)
    if hangs:
        until(lambda: running.unhealthy, "the report")
        replace(running)
    else:
        until(lambda: running.serving.crashes == 1, "the end")
    until(lambda: running.http("/readyz")[0] == 200, "the successor")
    running.serving.batches.clear()
    images = [b"1", b"poison", b"0"]
    future = predict_future(channel, request(*images))
    if hangs:
        until(lambda: len(running.unhealthy) == 2, "the second report")
        replace(running)
    assert_answered(future.result(10), images, crashed=[b"poison"])
    assert set(running.serving.batches) == {1}  # b"0" was there, so it went alone too
    assert suspects(running) == {"cleared": 1, "failed": 1, "remembered": 0}


def test_an_image_that_hangs_fails_and_the_golden_image_behind_it_is_not_blamed(running, channel):
    running.serving.hangs_on = b"poison"
    images = [b"0", b"poison", b"1"]
    future = predict_future(channel, request(*images))
    until(lambda: running.unhealthy, "the first report")
    assert replace(running) is True
    until(lambda: len(running.unhealthy) == 2, "the second report")
    assert replace(running) is True
    assert_answered(future.result(10), images, crashed=[b"poison"])
    assert running.backends.default.deaths_with_suspects == 2


def test_a_worker_that_hangs_beside_others_is_noticed_by_its_images(tmp_path):
    quick = ReadinessSection(interval_s=0.05, deadline_s=patient(0.1), forced_interval_s=0.3)
    backend = FakeBackend(f"unix:{tmp_path}/b.sock", workers=2, most_batches=6)
    with Harness(tmp_path, config_of(readiness=quick), backend=backend) as harness, harness.channel() as channel:
        harness.serving.hangs_one_of_two = b"poison"
        images = [b"0", b"poison", b"1"]
        future = predict_future(channel, request(*images))

        def others_go_on_until(reports):
            reply, _ = predict(channel, request(b"2"))
            assert_answered(reply, [b"2"])
            return len(harness.unhealthy) == reports

        until(lambda: others_go_on_until(1), "the first report")
        replace(harness)
        until(lambda: len(harness.unhealthy) == 2, "the second report")
        replace(harness)
        assert_answered(future.result(10), images, crashed=[b"poison"])
        assert {reason for _, reason in harness.unhealthy} == {"one of the workers does not answer"}


def test_with_when_down_fail_the_call_is_sent_again_and_its_killer_goes_alone_then(tmp_path):
    with Harness(tmp_path, settings_of(when_down="fail")) as harness, harness.channel() as channel:
        harness.serving.poison = {b"poison"}
        images = [b"0", b"poison", b"1"]
        codes = []
        for _ in range(3):
            until(lambda: harness.http("/readyz")[0] == 200, "ready")
            try:
                reply, _ = predict(channel, request(*images))
            except grpc.RpcError as error:
                codes.append(error.code())
            else:
                break
        assert set(codes) == {grpc.StatusCode.UNAVAILABLE} and len(codes) == 2
        assert_answered(reply, images, crashed=[b"poison"])
        assert harness.serving.crashes == 2


def test_a_backend_that_is_stopped_in_order_makes_no_suspects(running, channel):
    running.serving.silent = True
    futures = [predict_future(channel, request(b"%d" % index)) for index in range(2)]
    until(lambda: len(running.serving.batches) == 2, "the parts")
    running.call(running.backends.set_ending, 1)
    running.run(running.serving.stop())
    for future in futures:
        with pytest.raises(grpc.RpcError) as caught:
            future.result(10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert suspects(running) == {"cleared": 0, "failed": 0, "remembered": 0}


def test_a_reply_that_is_none_is_no_end_and_nobodys_fault(running, channel):
    running.serving.raw_reply, running.serving.golden_right = b"\xff\xff", True
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, request(b"0", b"1"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert running.serving.batches == [2, 1]  # together, then alone
    assert suspects(running) == {"cleared": 0, "failed": 0, "remembered": 0}
    assert replace(running) is False


def test_a_callers_deadline_is_kept_while_it_waits_to_be_tried(running, channel):
    running.serving.silent = True
    future = predict_future(channel, request(b"0"), timeout=0.5)
    until(lambda: running.serving.batches, "the part")
    running.call(running.backends.set_down, running.backend, "gone")
    with pytest.raises((grpc.RpcError, concurrent.futures.TimeoutError)) as caught:
        future.result(2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_trials_that_take_long_keep_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher, "TRIAL_S", 0.2)
    never = asyncio.Event

    @contextlib.asynccontextmanager
    async def trial():
        async def ends(method, image):
            await never().wait()

        yield ends

    with Harness(tmp_path, settings_of(), trial=trial) as harness, harness.channel() as channel:
        harness.serving.poison = {b"poison"}
        reply, _ = predict(channel, request(b"0", b"poison"))
        assert_answered(reply, [b"0", b"poison"], crashed=[b"poison"])


def test_a_worker_that_says_it_cannot_decode_convicts_no_image(running, channel):
    running.serving.image_errors[b"0"] = OF_THE_WORKER + "cannot decode: no process"
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, request(b"0"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    running.serving.image_errors.clear()
    reply, _ = predict(channel, request(b"0"))
    assert_answered(reply, [b"0"])
    assert suspects(running)["failed"] == 0
