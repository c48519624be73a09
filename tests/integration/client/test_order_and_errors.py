"""Rows belong to their inputs, images fail alone, and every error is one of the documented ones."""

import io
import random

import cv2
import grpc
import numpy as np
import PIL.Image
import pytest

from metric_learn_client import (
    EmbeddingResult,
    IdentityError,
    ImageFailure,
    ImagesFailedError,
    OverloadedError,
    ReplyError,
    UnreachableError,
    errors,
)
from metric_learn_client.inputs import read_image
from metric_learn_client.testing import FakeServable, Faults, Limits, fake_embeddings
from tests.patience import patient


@pytest.fixture
def client(make_client, fake):
    with make_client(fake.endpoint, deadline_s=patient(1.5), retries=1) as made:
        yield made


def mixed_images(count, folder):
    """All kinds of input, each with bytes of its own; and the bytes that are sent for it."""
    made = []
    for number in range(count):
        content = b"image %d" % number
        array = np.full((2, 2, 3), number % 251, np.uint8)
        array[0, 0] = number % 7, number // 251 % 251, 3
        kind = number % 6
        if kind == 0:
            path = folder / f"{number}.jpg"
            path.write_bytes(content)
            made.append((str(path) if number % 4 else path, content))
        elif kind == 1:
            made.append((content, content))
        elif kind == 2:
            made.append((io.BytesIO(content), content))
        elif kind == 3:
            made.append((memoryview(content) if number % 4 else bytearray(content), content))
        elif kind == 4:
            made.append((array, read_image(array, 10**6)))
        else:
            made.append((PIL.Image.fromarray(array), read_image(array[:, :, ::-1], 10**6)))
    return made


def test_ten_thousand_mixed_inputs_answered_out_of_order_have_their_own_rows(make_client, fake, tmp_path):
    fake.faults.out_of_order = True
    pairs = mixed_images(10_000, tmp_path)
    with make_client(fake.endpoint, deadline_s=120, max_in_flight=16) as client:
        result = client.embed([given for given, _ in pairs])
    assert fake.peak_in_flight > 2
    assert (result.embeddings == fake_embeddings([sent for _, sent in pairs])).all()
    assert not result.errors and result.ok.all()
    assert (result.fingerprint, result.version) == (fake.fingerprint, 1)


def test_seventeen_corrupt_of_a_thousand_fail_alone_and_change_no_neighbour(client):
    images = [b"image %d" % number for number in range(1000)]
    clean = client.embed(images).embeddings
    bad = sorted(random.Random(17).sample(range(1000), 17))
    for index in bad:
        images[index] = b"corrupt %d" % index
    result = client.embed(images, on_error="return")
    assert [(error.index, error.code) for error in result.errors] == [(index, "E_DECODE") for index in bad]
    good = np.setdiff1d(np.arange(1000), bad)
    assert len(good) == 983 and (result.embeddings[good] == clean[good]).all()
    assert np.isnan(result.embeddings[bad]).all() and (np.flatnonzero(~result.ok) == bad).all()
    with pytest.raises(ImagesFailedError, match=rf"image {bad[0]}: E_DECODE.*16 more") as caught:
        client.embed(images)
    assert caught.value.errors == result.errors


def test_an_image_is_sent_once_though_its_neighbour_is_bad(fake, client):
    client.embed([b"corrupt", b"a", b"b"], on_error="return")
    assert (fake.calls, fake.images) == (1, 3)


def test_files_that_cannot_be_read_are_failures_at_their_index(client, tmp_path):
    result = client.embed([b"a", tmp_path / "none.jpg", tmp_path, "nul\0.jpg", b"b"], on_error="return")
    assert [(error.index, error.code) for error in result.errors] == [(1, "E_READ"), (2, "E_READ"), (3, "E_READ")]
    assert "none.jpg" in result.errors[0].message
    assert (result.embeddings[[0, 4]] == fake_embeddings([b"a", b"b"])).all()


def test_files_alone_that_cannot_be_read_cost_no_call(fake, client, tmp_path):
    assert len(client.embed([tmp_path / "none.jpg"] * 40, on_error="return").errors) == 40
    assert fake.calls == 0


def test_a_result_is_used_as_an_array(client):
    result = client.embed([b"a", b"b"])
    assert isinstance(result, EmbeddingResult) and len(result) == 2
    assert np.asarray(result) is result.embeddings and np.array(result) is not result.embeddings
    assert np.asarray(result, np.float64).dtype == np.float64
    assert (result[1] == result.embeddings[1]).all() and (np.stack(list(result)) == result.embeddings).all()
    assert np.allclose(np.asarray(result) @ np.asarray(result).T, np.asarray(result) @ result.embeddings.T)
    assert (client.embed_one(b"b") == result[1]).all()


def test_no_images_give_no_rows_without_a_call(fake, client):
    for nothing in ([], (), iter([])):
        assert client.embed(nothing).embeddings.shape == (0, 2048)
    assert client.embed_pixels(np.zeros((0, 224, 224, 3), np.uint8)).embeddings.shape == (0, 2048)
    assert fake.calls == 0


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ("a.jpg", "embed_one"),
        (b"bytes", "embed_one"),
        (io.BytesIO(b"x"), "embed_one"),
        (np.zeros((4, 4, 3), np.uint8), "one image or many"),
        ({"a.jpg"}, "order"),
        ({"a.jpg": 1}, "order"),
        (3, "not int"),
        ([3], "image 0 is int"),
        ([b"a", None], "image 1 is NoneType"),
        ([["a.jpg"]], "image 0 is list"),
        ([np.zeros((4, 4, 3), np.float32)], "float32"),
        ([io.StringIO("text")], "binary"),
    ],
)
def test_what_is_ambiguous_is_a_type_error(client, images, says):
    with pytest.raises(TypeError, match=says):
        client.embed(images)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (4, 4, 5), (0, 4, 3), (1, 4, 4, 3)])
def test_an_array_of_another_shape_is_a_value_error(client, shape):
    with pytest.raises(ValueError, match="image 1: an array of shape"):
        client.embed([b"a", np.zeros(shape, np.uint8)])


def test_pixels_are_sent_as_they_are(client):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 224, 224, 3), np.uint8)
    expected = fake_embeddings(list(pixels))
    assert (client.embed_pixels(pixels).embeddings == expected).all()
    assert (client.embed_pixels([pixels[0], pixels[5][:, ::-1][:, ::-1]]).embeddings == expected[[0, 5]]).all()
    with pytest.raises(ValueError, match="224"):
        client.embed_pixels(pixels[:, :100])
    with pytest.raises(TypeError, match="float64"):
        client.embed_pixels([np.zeros((224, 224, 3))])


def test_batches_keep_below_the_servers_limits_by_count_and_by_bytes(make_client):
    limits = Limits(max_instances=10, max_request_bytes=2_000, max_image_bytes=700)
    sizes = [1, 700, 701, 650, 300, 5, 5, 5] * 20
    images = [
        b"%04d" % number + b"x" * (size - 4) if size > 4 else b"%d" % (number % 10) for number, size in enumerate(sizes)
    ]
    with FakeServable(limits=limits) as server, make_client(server.endpoint, retries=0) as client:
        result = client.embed(images, on_error="return")
        assert {error.index for error in result.errors} == {index for index, size in enumerate(sizes) if size == 701}
        assert {error.code for error in result.errors} == {"E_TOO_LARGE"}
        assert (result.embeddings[result.ok] == fake_embeddings(images)[result.ok]).all()
        assert server.images == 140 and server.calls < 80


def test_a_server_that_takes_smaller_messages_than_it_says_gets_smaller_ones(fake, client):
    """gRPC's own limit shows as RESOURCE_EXHAUSTED and is no overload."""
    refused = []

    def embed(images):
        return fake_embeddings(images)

    original = fake._answer

    def answer(body, context, faults, in_flight):
        if len(body) > 3_000:
            refused.append(len(body))
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max ({len(body)} vs. 3000)"
            )
        return original(body, context, faults, in_flight)

    fake._answer = answer
    images = [b"%d" % number + b"x" * 400 for number in range(32)]
    images[5] = b"y" * 4_000
    result = client.embed(images, on_error="return")
    assert [(error.index, error.code) for error in result.errors] == [(5, "E_TOO_LARGE")]
    assert (result.embeddings[result.ok] == fake_embeddings(images)[result.ok]).all() and refused


ALL_BUT_OK = [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK]


@pytest.mark.parametrize("status", ALL_BUT_OK, ids=lambda status: status.name)
def test_every_status_is_its_documented_error_and_only_those_that_can_pass_are_retried(make_client, fake, status):
    fake.faults = Faults(status=status.name)
    with make_client(fake.endpoint, deadline_s=patient(1.5), retries=1) as client:
        with pytest.raises(errors.EndpointError) as caught:
            client.embed([b"a"])
    assert type(caught.value) is errors.BY_STATUS[status.name] and caught.value.code == status.name
    retried = {"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"}
    assert (fake.calls > 1) == (status.name in retried)


@pytest.mark.parametrize(
    ("code", "text", "outcome"),
    [
        (1, "enqueued requests count exceeds the limit 10000", OverloadedError),
        (1, "model Predict failed", "E_INTERNAL"),
        (2, "servable is not available", UnreachableError),
        (2, "method is not available", errors.RejectedError),
        (2, "Input image missing", errors.RejectedError),
        (3, "Call Function 'x' Failed, error msg: E_SHAPE: wrong", "E_SHAPE"),
        (3, "system failure", "E_INTERNAL"),
        (4, "worker stopping", UnreachableError),
        (5, "no worker", UnreachableError),
        (99, "unheard of", "E_INTERNAL"),
    ],
)
def test_every_in_band_code_is_its_documented_error(make_client, fake, code, text, outcome):
    fake.faults = Faults(in_band=(code, text))
    with make_client(fake.endpoint, deadline_s=patient(1.5), retries=1) as client:
        if isinstance(outcome, str):
            assert {error.code for error in client.embed([b"a", b"b"], on_error="return").errors} == {outcome}
        else:
            with pytest.raises(outcome, match=text):
                client.embed([b"a"])


def test_an_image_that_ended_the_servers_process_is_never_sent_again(make_client, fake):
    text = "E_CRASH: the image ended or held up the process that worked on it"
    fake.faults = Faults(in_band=(3, text), calls=1)  # a second call would succeed
    with make_client(fake.endpoint, retries=5) as client:
        (failure,) = client.embed([b"a"], on_error="return").errors
    assert (failure.index, failure.code) == (0, "E_CRASH")


def test_transient_errors_in_band_and_by_status_are_survived(fake, client):
    for faults in (
        Faults(in_band=(5, "no worker"), calls=1),
        Faults(in_band=(1, "exceeds the limit"), calls=1),
        Faults(status="UNAVAILABLE", calls=1),
        Faults(status="RESOURCE_EXHAUSTED", retry_after_ms=30, calls=2),
    ):
        fake.faults = faults
        assert (client.embed([b"a", b"b"]).embeddings == fake_embeddings([b"a", b"b"])).all()
        assert faults.calls < 0


def test_a_reply_with_rows_missing_or_short_is_refused(fake, client):
    fake.faults = Faults(missing_rows=1)
    with pytest.raises(ReplyError, match="1 instances"):
        client.embed([b"a", b"b"])
    fake.faults = Faults(short_rows=True)
    with pytest.raises(ReplyError, match="8188"):
        client.embed([b"a", b"b"])


class Garbled(FakeServable):
    """Answers whatever it is asked with bytes that are no message."""

    def _get_model(self, *_):
        return b"\xff\xff\xff garbage"

    _predict = _check = _get_model


def test_replies_that_are_no_messages_are_refused_and_their_server_is_not_ready(make_client):
    with Garbled() as server, make_client(server.endpoint) as client:
        for ask in (client.model, lambda: client.embed([b"a"])):
            with pytest.raises(ReplyError, match="the reply of 11 bytes is no GetModelReply"):
                ask()
        client._core.model_known = True
        with pytest.raises(ReplyError, match="the reply of 11 bytes is no PredictReply"):
            client.embed([b"a"])
        assert not client.is_ready()
        with pytest.raises(UnreachableError, match="the reply of 11 bytes is no HealthCheckResponse"):
            client.wait_ready(0.3)


def test_another_fingerprint_than_before_is_refused_unless_allowed(make_client, fake, client):
    client.embed([b"a"])
    fake.faults = Faults(fingerprint="0" * 64)
    with pytest.raises(IdentityError, match=r"0000.*fa4e"):
        client.embed([b"a"])
    with make_client(fake.endpoint, allow_fingerprint_change=True) as relaxed:
        assert relaxed.embed([b"a"]).fingerprint == "0" * 64
        fake.faults = Faults()
        assert relaxed.embed([b"a"]).fingerprint == fake.fingerprint
        fake.faults = Faults(fingerprint="0" * 64, calls=3)
        with pytest.raises(IdentityError, match="changed during the call"):
            relaxed.embed([b"a"] * 1000)


def test_a_stream_holds_the_rows_of_one_model_also_where_the_fingerprint_may_change(make_client, fake):
    def images():
        yield b"a"
        yield b"b"
        fake.faults = Faults(fingerprint="0" * 64)
        yield b"c"

    rows = []
    with make_client(fake.endpoint, batch_size=1, max_in_flight=1, allow_fingerprint_change=True) as client:
        with pytest.raises(IdentityError, match="changed during the call"):
            rows.extend(client.embed_iter(images(), window=1))
        assert len(rows) == 2
        assert len(list(client.embed_iter([b"c", b"d"]))) == 2


def test_the_expected_fingerprint_is_demanded_of_the_very_first_reply(make_client, fake):
    with make_client(fake.endpoint, expected_fingerprint=fake.fingerprint) as client:
        client.embed([b"a"])
    with make_client(fake.endpoint, expected_fingerprint="1" * 64) as client:
        with pytest.raises(IdentityError, match="expected_fingerprint is 1111"):
            client.embed([b"a"])


def test_a_stream_is_embedded_in_order_with_failures_in_their_place(make_client, fake):
    fake.faults.out_of_order = True
    images = [b"corrupt" if number % 100 == 7 else b"%d" % number for number in range(1000)]
    with make_client(fake.endpoint, deadline_s=30) as client:
        answers = list(client.embed_iter(iter(images), on_error="return"))
        rows = fake_embeddings(images)
        for index, answer in enumerate(answers):
            if images[index] == b"corrupt":
                assert isinstance(answer, ImageFailure) and (answer.index, answer.code) == (index, "E_DECODE")
            else:
                assert (answer == rows[index]).all()
        seen = []
        with pytest.raises(ImagesFailedError, match="image 7"):
            seen.extend(client.embed_iter(images))
        assert list(client.embed_iter([])) == []
        with pytest.raises(TypeError, match="image 40 is int"):
            list(client.embed_iter([b"a"] * 40 + [3]))


def test_a_stream_takes_no_more_than_its_window(make_client, fake):
    taken = 0

    def source():
        nonlocal taken
        for number in range(500):
            taken += 1
            yield b"%d" % number

    with make_client(fake.endpoint, batch_size=8) as client:
        for window in (1, 5, 20, 64):
            taken = 0
            for given, _ in enumerate(client.embed_iter(source(), window=window), 1):
                assert taken - given < window
            assert given == 500


@pytest.mark.parametrize("window", [0, 2.5, float("nan")])
def test_a_window_that_is_no_whole_number_of_at_least_one_is_refused(make_client, fake, window):
    with (
        make_client(fake.endpoint) as client,
        pytest.raises(ValueError, match=f"window={window} must be a whole number"),
    ):
        client.embed_iter([], window=window)


@pytest.mark.parametrize("sandbox", [False, True])
def test_server_exact_resize_sends_the_pixels_that_the_servable_would_make(make_client, sandbox):
    from metric_learn_client.preprocess import PREPROCESSING_ID, preprocess

    rng = np.random.default_rng(1)
    photos = [
        cv2.imencode(".jpg", rng.integers(0, 256, (300 + 10 * n, 400, 3), np.uint8))[1].tobytes() for n in range(5)
    ]
    photos[3] = photos[3][:500]
    with FakeServable() as server:
        with make_client(server.endpoint, resize="server-exact") as client:
            with pytest.raises(IdentityError, match="preprocesses by 'fake'"):
                client.embed(photos)
        server.preprocessing = PREPROCESSING_ID
        with make_client(server.endpoint, resize="server-exact", sandbox=sandbox) as client:
            result = client.embed(photos, on_error="return")
            assert [(error.index, error.code) for error in result.errors] == [(3, "E_DECODE")]
            good = [0, 1, 2, 4]
            assert (result.embeddings[good] == fake_embeddings([preprocess(photos[n]) for n in good])).all()
            array = cv2.imdecode(np.frombuffer(photos[0], np.uint8), cv2.IMREAD_COLOR)
            assert (client.embed_one(array) == result.embeddings[0]).all()


def test_the_model_says_what_is_served(fake, client):
    fake.limits.max_instances = 33
    model = client.model()
    assert (model.name, model.version, model.fingerprint, model.dim) == ("metric_learn", 1, fake.fingerprint, 2048)
    assert model.limits.max_instances == 33 and "embed_pixels" in model.methods


def test_ready_is_what_the_health_service_says(fake, client):
    assert client.is_ready()
    client.wait_ready(1.0)
    fake.ready = False
    assert not client.is_ready()
    with pytest.raises(UnreachableError, match=r"not ready within timeout_s=0.3.*not serving"):
        client.wait_ready(0.3)


@pytest.mark.parametrize("timeout_s", [0, -1.0, 1e10, float("inf")])
def test_a_timeout_that_cannot_be_is_refused_by_its_own_name(make_client, fake, timeout_s):
    with make_client(fake.endpoint) as client, pytest.raises(ValueError, match=f"timeout_s={timeout_s}: must be"):
        client.wait_ready(timeout_s)


def test_the_progress_bar_counts_the_images(client, capsys):
    client.embed([b"a"] * 100, show_progress=True)
    assert "100/100" in capsys.readouterr().err
