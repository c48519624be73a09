"""Requests and replies without a socket."""

import grpc
import numpy as np
import pytest

import metric_learn_client
from metric_learn_client import ImagesFailedError, ReplyError, errors, wire
from metric_learn_client.client import EmbeddingClient
from metric_learn_client.codec import decode_reply, encode_request

PREFIX = "Call Function 'metric_learn.preprocess' Failed, method: 'embed', stage index(begin with 1): 1, error msg: "


def reply(*entries):
    made = wire.PredictReply()
    for entry in entries:
        instance = made.instances.add()
        error = made.error_msg.add()
        if isinstance(entry, str):
            error.error_code, error.error_msg = 3, entry.encode()
        else:
            instance.items["embedding"].data = np.full(2048, entry, "<f4").tobytes()
    return made


def test_every_row_is_at_its_own_index():
    rows = [row for row, _ in decode_reply(reply(1.0, 2.0, 3.0), 3, 0)]
    assert [row[0] for row in rows] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("text", ["E_DECODE: broken", PREFIX + "E_DECODE: broken"])
def test_an_images_error_keeps_its_code_with_and_without_servings_words(text):
    (_, none), (row, failure) = decode_reply(reply(1.0, text), 2, 10)
    assert none is None and row is None
    assert (failure.index, failure.code, failure.message) == (11, "E_DECODE", "broken")


def test_one_error_without_instances_stands_for_all():
    made = wire.PredictReply()
    made.error_msg.add(error_code=3, error_msg=b"E_EMPTY: no bytes")
    assert [failure.index for _, failure in decode_reply(made, 3, 5)] == [5, 6, 7]


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (1, "enqueued requests count exceeds the limit 10000", errors.OverloadedError),
        (2, "method is not available", errors.RejectedError),
        (4, "worker stopping", errors.UnreachableError),
        (5, "no worker", errors.UnreachableError),
    ],
)
def test_errors_of_the_whole_call_inside_a_reply_are_raised(code, text, kind):
    made = wire.PredictReply()
    made.error_msg.add(error_code=code, error_msg=text.encode())
    with pytest.raises(kind):
        decode_reply(made, 2, 0)


def test_a_missing_row_or_a_short_embedding_is_refused():
    with pytest.raises(ReplyError):
        decode_reply(reply(1.0), 2, 0)
    short = reply(1.0)
    short.instances[0].items["embedding"].data = b"1234"
    with pytest.raises(ReplyError):
        decode_reply(short, 1, 0)


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_every_grpc_status_has_an_error_that_names_it(status):
    error = errors.from_status(status, "why", "host:1", 2.0)
    assert isinstance(error, errors.EndpointError) and error.code == status.name and "host:1" in str(error)


def test_a_request_parses_back_to_what_was_given():
    parsed = wire.PredictRequest.FromString(encode_request([b"one", b"two"]).SerializeToString())
    assert [bytes(item.items["image"].bytes_val[0]) for item in parsed.instances] == [b"one", b"two"]
    assert (parsed.servable_spec.name, parsed.servable_spec.method_name) == ("metric_learn", "embed")


def test_a_server_that_is_not_there_is_an_error_within_the_deadline():
    with EmbeddingClient("127.0.0.1:1", deadline_s=5.0) as client, pytest.raises(errors.UnreachableError):
        client.embed([b"image"])


def test_no_images_give_no_rows_and_one_image_needs_a_list():
    with EmbeddingClient("127.0.0.1:1", deadline_s=5.0) as client:
        assert client.embed([]).embeddings.shape == (0, 2048)
        for ambiguous in ("a.jpg", b"bytes"):
            with pytest.raises(TypeError):
                client.embed(ambiguous)
        with pytest.raises(TypeError):
            client.embed([3])


def test_the_public_names_are_sorted_and_exist():
    assert metric_learn_client.__all__ == sorted(metric_learn_client.__all__)
    assert all(hasattr(metric_learn_client, name) for name in metric_learn_client.__all__)
    assert "image 4" in str(ImagesFailedError([metric_learn_client.ImageFailure(4, "E_EMPTY", "no bytes")]))
