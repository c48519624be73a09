"""Calls through the gateway to a fake MindSpore Serving: right answers, and the right status for the rest."""

import random
import re

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from metric_learn_client import wire
from tests.integration.servable.gateway.fake_serving import FakeBackend, FakeServing, embedding_of
from tests.integration.servable.gateway.harness import Harness, predict, predict_future, request, rows, until


@pytest.fixture
def serving(running):
    """The module's fake, put back into order afterwards."""
    yield running.serving
    fresh = FakeServing()
    for name in ("delay_s", "silent", "error", "status", "raw_reply", "image_errors", "poison", "keep_requests"):
        setattr(running.serving, name, getattr(fresh, name))
    running.serving.requests.clear()
    running.wait_serving()


def failure(channel, message, **options):
    """(code, details, trailing metadata) of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, message, **options)
    error = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata() or ())


def details_of(metadata):
    """The richer error model's details, unpacked."""
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    found = {}
    for detail in status.details:
        for kind in (error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            if detail.Is(kind.DESCRIPTOR):
                found[kind] = kind.FromString(detail.value)
    return found


@pytest.mark.parametrize("count", [1, 2, 16, 17, 100, 256])
def test_embeddings_come_back_in_the_order_of_the_images(channel, count):
    images = [b"image %d" % index for index in range(count)]
    reply, _ = predict(channel, request(*images))
    assert np.array_equal(rows(reply), np.stack([embedding_of(image) for image in images]))
    assert not reply.error_msg


def test_pixels_go_through_as_they_are(channel):
    data = np.random.default_rng(1).integers(0, 256, wire.PIXELS_SHAPE, np.uint8).tobytes()
    message = wire.PredictRequest()
    message.servable_spec.name, message.servable_spec.method_name = "metric_learn", "embed_pixels"
    tensor = message.instances.add().items["pixels"]
    tensor.dtype, tensor.data = wire.DataType.MS_UINT8, data
    tensor.shape.dims.extend(wire.PIXELS_SHAPE)
    reply, _ = predict(channel, message)
    assert np.array_equal(rows(reply), [embedding_of(data)])


def test_a_large_call_is_split_into_batches_within_the_window(channel, serving):
    serving.batches.clear()
    serving.delay_s = 0.02
    serving.most_in_flight = 0
    predict(channel, request(*[b"%d" % index for index in range(100)]))
    assert serving.batches == [16] * 6 + [4]
    assert serving.most_in_flight <= 48


def test_every_reply_says_which_model_made_it_and_repeats_the_request_id(running, channel):
    _, metadata = predict(channel, request(b"x"), metadata=[("x-request-id", "abc-123")])
    assert metadata[wire.METADATA_FINGERPRINT] == running.backend.fingerprint
    assert metadata[wire.METADATA_VERSION] == "1"
    assert metadata[wire.METADATA_REQUEST_ID] == "abc-123"


def test_the_reply_names_the_version_that_answered(channel):
    reply, _ = predict(channel, request(b"x"))
    spec = reply.servable_spec
    assert (spec.name, spec.method_name, spec.version_number) == ("metric_learn", "embed", 1)


def test_a_request_id_is_made_where_none_or_an_ugly_one_came(channel):
    for given in ([], [("x-request-id", "two words")], [("x-request-id", "x" * 300)]):
        _, metadata = predict(channel, request(b"x"), metadata=given)
        assert re.fullmatch("[0-9a-f]{32}", metadata[wire.METADATA_REQUEST_ID])


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (request(), "instances"),
        (request(b"x", name="other"), "servable_spec.name"),
        (request(b"x", method="other"), "servable_spec.method_name"),
        (request(*[b"x"] * 257), "instances"),
        (b"nonsense", "request"),
        (bytes(200_001), "request"),
    ],
)
def test_a_wrong_request_is_invalid_argument_with_the_field(channel, message, field):
    code, details, metadata = failure(channel, message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(f"{field}: ")
    violations = details_of(metadata)[error_details_pb2.BadRequest].field_violations
    assert [violation.field for violation in violations] == [field]
    assert metadata[wire.METADATA_REQUEST_ID]


def test_a_body_far_over_the_limit_is_refused_before_it_has_come(channel):
    code, details, _ = failure(channel, bytes(40_000_000))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "40000000 bytes; the most is 200000" in details


def test_an_unknown_version_is_not_found_with_those_served(channel):
    code, details, _ = failure(channel, request(b"x", version=9))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "servable_spec.version_number" in details and "9 is not served; served: 1" in details


def test_an_unknown_call_is_unimplemented(channel):
    for path in ("/mindspore.serving.proto.MSService/Other", "/grpc.reflection.v1.ServerReflection/Info"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


SERVINGS_WORDS = (
    "Call Function 'metric_learn.preprocess' Failed, method: 'embed', stage index(begin with 1): 1, error msg: "
)


def test_one_failed_image_among_others_keeps_its_place_and_loses_servings_words(channel, serving):
    serving.image_errors = {b"bad": SERVINGS_WORDS + "E_DECODE: the JPEG is cut off: it has no end"}
    reply, _ = predict(channel, request(b"a", b"bad", b"c"))
    assert [error.error_code for error in reply.error_msg] == [0, 3, 0]
    assert reply.error_msg[1].error_msg == b"E_DECODE: the JPEG is cut off: it has no end"
    assert len(reply.instances) == 3 and not reply.instances[1].items
    assert reply.instances[2].items["embedding"].data == embedding_of(b"c").tobytes()


def test_images_that_all_fail_alike_are_one_error_as_serving_does_it(channel, serving):
    serving.image_errors = {b"bad": SERVINGS_WORDS + "E_EMPTY: the image has no bytes"}
    for count in (1, 40):
        reply, _ = predict(channel, request(*[b"bad"] * count))
        assert not reply.instances
        assert [(error.error_code, error.error_msg) for error in reply.error_msg] == [
            (3, b"E_EMPTY: the image has no bytes")
        ]


def test_images_that_fail_differently_keep_an_error_each(channel, serving):
    serving.image_errors = {b"a": "E_EMPTY: no bytes", b"b": "E_DECODE: broken"}
    reply, _ = predict(channel, request(b"a", b"b"))
    assert [error.error_msg for error in reply.error_msg] == [b"E_EMPTY: no bytes", b"E_DECODE: broken"]
    assert len(reply.instances) == 2


@pytest.mark.parametrize(
    "text",
    [
        "OpenCV(4.8.1) /io/opencv/modules/imgproc/src/resize.cpp:4062: error: (-215:Assertion failed) !ssize.empty()",
        'Traceback (most recent call last):\n  File "/srv/stages.py", line 3',
        "E_NOT_OURS: something",
        "\xff\xfe",
    ],
)
def test_no_words_of_a_library_reach_a_caller(channel, serving, text):
    serving.image_errors = {b"bad": SERVINGS_WORDS + text}
    reply, _ = predict(channel, request(b"bad", b"good"))
    assert reply.error_msg[0].error_msg == b"E_INTERNAL: the image could not be embedded; see the server's log"


def test_a_sentence_with_a_path_is_replaced_by_the_codes_own(channel, serving):
    serving.image_errors = {b"bad": "E_DECODE: cannot read /home/user/x.jpg"}
    reply, _ = predict(channel, request(b"bad"))
    assert reply.error_msg[0].error_msg == b"E_DECODE: the image is broken or cut off"


def test_an_image_over_the_limit_fails_alone_and_is_not_sent_on(channel, serving):
    serving.batches.clear()
    reply, _ = predict(channel, request(b"a", bytes(1001)))
    assert reply.error_msg[1].error_msg == b"E_TOO_LARGE: 1001 bytes; the limit is 1000"
    assert reply.instances[0].items["embedding"].data == embedding_of(b"a").tobytes()
    assert serving.batches == [1]
    reply, _ = predict(channel, request(bytes(1001)))
    assert len(reply.error_msg) == 1 and not reply.instances


def test_serving_at_its_limit_is_resource_exhausted_with_a_hint(channel, serving):
    serving.error = (1, "Serving Error: enqueued requests count exceeds the limit 10000")
    code, details, metadata = failure(channel, request(b"x"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "10000" not in details
    hint = int(metadata[wire.METADATA_RETRY_AFTER_MS])
    assert details_of(metadata)[error_details_pb2.RetryInfo].retry_delay.ToMilliseconds() == hint > 0


@pytest.mark.parametrize(
    "fault",
    [
        {"error": (5, "servable worker is not available")},
        {"error": (2, "Request servable metric_learn, servable is not available")},
        {"error": (4, "worker is stopping")},
        {"status": grpc.StatusCode.UNAVAILABLE},
        {"status": grpc.StatusCode.INTERNAL},
        {"raw_reply": b"\xff\xff"},
        {"raw_reply": b""},
    ],
)
def test_a_fault_of_the_backend_holds_the_call_until_it_is_over(running, channel, serving, fault):
    """The golden picture fails too, so the version is not ready; the call waits, and succeeds on recovery."""
    for name, value in fault.items():
        setattr(serving, name, value)
    future = predict_future(channel, request(b"held"))
    until(lambda: running.http("/readyz")[0] == 503, "not ready")
    assert not future.done()
    for name in fault:
        setattr(serving, name, None)
    assert np.array_equal(rows(future.result(10)), [embedding_of(b"held")])


def test_500_random_bodies_all_get_a_status_and_the_next_good_call_succeeds(channel):
    """Seeded mutations of good requests, and noise; 10,000 of them in test_fuzz.py."""
    chance = random.Random(3)
    good = request(b"abcdef", b"ghi").SerializeToString()
    codes = set()
    for number in range(500):
        body = bytearray(good) if number % 5 else bytearray(chance.randbytes(chance.randint(0, 80)))
        for _ in range(chance.randint(1, 4)):
            if body:
                body[chance.randrange(len(body))] = chance.randrange(256)
        try:
            predict(channel, bytes(body))
            codes.add(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            codes.add(error.code())
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    reply, _ = predict(channel, request(b"good"))
    assert np.array_equal(rows(reply), [embedding_of(b"good")])


def test_small_calls_are_not_held_up_by_a_large_one(tmp_path):
    """One image, sent after 256 of another caller, comes back before they are done."""
    with Harness(tmp_path, backend=FakeBackend(f"unix:{tmp_path}/b.sock", most_batches=1)) as harness:
        harness.serving.delay_s = 0.05
        with harness.channel() as channel:
            large = predict_future(channel, request(*[b"%d" % index for index in range(256)]))
            until(lambda: harness.serving.batches, "the large call's first batch")
            predict(channel, request(b"small"))
            assert not large.done()
            assert len(large.result(10).instances) == 256


def test_many_small_calls_share_batches(tmp_path):
    """64 calls of one image that arrive while the backend is busy go out as four batches of 16."""
    with Harness(tmp_path, backend=FakeBackend(f"unix:{tmp_path}/b.sock", most_batches=1)) as harness:
        harness.call(harness.serving.hold)
        with harness.channel() as channel:
            first = predict_future(channel, request(*[b"first %d" % index for index in range(16)]))
            until(lambda: harness.serving.batches, "the first batch")
            others = [predict_future(channel, request(b"%d" % index)) for index in range(64)]
            until(lambda: harness.gateway._admission.images == 80, "all calls")
            harness.loop.call_soon_threadsafe(harness.serving.release)
            for index, future in enumerate(others):
                assert np.array_equal(rows(future.result(10)), [embedding_of(b"%d" % index)])
            first.result(10)
        assert harness.serving.batches == [16] * 5
