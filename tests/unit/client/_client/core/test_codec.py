"""Requests and replies without a socket."""

import pickle
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

import metric_learn_client
from metric_learn_client import ImageFailure, ImagesFailedError, ReplyError, errors, wire
from metric_learn_client._client.client import EmbeddingClient
from metric_learn_client._client.core.codec import decode_reply as decode_into
from metric_learn_client._client.core.steps import Failure

PREFIX = "Call Function 'metric_learn.preprocess' Failed, method: 'embed', stage index(begin with 1): 1, error msg: "


def decode_reply(body, count):
    rows = np.zeros((count, 2048), np.float32)
    found = decode_into(body, rows)
    return found if isinstance(found, Failure) else SimpleNamespace(rows=rows, failures=tuple(found))


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
    made = reply(1.0, 2.0, 3.0)
    assert list(decode_reply(made.SerializeToString(), 3).rows[:, 0]) == [1.0, 2.0, 3.0]
    made.ClearField("error_msg")  # both forms of "all well" are MindSpore Serving's: code 0 each, or none at all
    assert list(decode_reply(made.SerializeToString(), 3).rows[:, 0]) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("text", ["E_DECODE: broken", PREFIX + "E_DECODE: broken"])
def test_an_images_error_keeps_its_code_with_and_without_servings_words(text):
    decoded = decode_reply(reply(1.0, text).SerializeToString(), 2)
    assert decoded.rows[0, 0] == 1.0 and np.isnan(decoded.rows[1]).all()
    assert decoded.failures == (ImageFailure(1, "E_DECODE", "broken"),)


def test_one_error_without_instances_stands_for_all():
    made = wire.PredictReply()
    made.error_msg.add(error_code=3, error_msg=b"E_EMPTY: no bytes")
    decoded = decode_reply(made.SerializeToString(), 3)
    assert [failure.index for failure in decoded.failures] == [0, 1, 2] and np.isnan(decoded.rows).all()


@pytest.mark.parametrize(
    ("code", "text", "status"),
    [
        (1, "enqueued requests count exceeds the limit 10000", "RESOURCE_EXHAUSTED"),
        (2, "method is not available", "INVALID_ARGUMENT"),
        (2, "servable is not available", "UNAVAILABLE"),
        (4, "worker stopping", "UNAVAILABLE"),
        (5, "no worker", "UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("each", [False, True])
def test_errors_of_the_whole_call_inside_a_reply_amount_to_a_status(code, text, status, each):
    made = wire.PredictReply()
    made.error_msg.add(error_code=code, error_msg=text.encode())
    if each:
        made.error_msg.add()
        made.instances.add(), made.instances.add()
    found = decode_reply(made.SerializeToString(), 2)
    assert (found.code, found.details) == (status, text)


@pytest.mark.parametrize("code", [1, 3, 77])
def test_an_error_of_one_image_without_a_code_of_ours_is_internal(code):
    made = wire.PredictReply()
    made.error_msg.add(error_code=code, error_msg=b"something else")
    assert decode_reply(made.SerializeToString(), 1).failures == (ImageFailure(0, "E_INTERNAL", "something else"),)


def test_a_missing_row_or_a_short_embedding_is_refused():
    with pytest.raises(ReplyError):
        decode_reply(reply(1.0).SerializeToString(), 2)
    short = reply(1.0)
    short.instances[0].items["embedding"].data = b"1234"
    with pytest.raises(ReplyError):
        decode_reply(short.SerializeToString(), 1)
    with pytest.raises(ReplyError, match="no PredictReply"):
        decode_reply(b"\xff\xff\xff", 1)


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_every_grpc_status_has_an_error_that_names_it(status):
    assert set(errors.BY_STATUS) == {each.name for each in grpc.StatusCode}
    error = errors.from_status(status.name, "why", "host:1", 2.0)
    assert isinstance(error, errors.EndpointError) and error.code == status.name and "host:1" in str(error)
    assert type(error).__name__ in errors.__doc__ and status.name in errors.__doc__ + "OK"


@pytest.mark.parametrize("details", ["Socket closed", "recvmsg:Connection reset by peer (104)"])
def test_a_connection_that_ends_at_once_may_want_a_client_certificate(details):
    assert "check cert_file" in str(errors.from_status("UNAVAILABLE", details, "host:1", 2.0))


@pytest.mark.parametrize(
    "error",
    [
        errors.from_status("UNAVAILABLE", "why", "host:1", 2.0),
        ImagesFailedError([ImageFailure(4, "E_EMPTY", "no bytes")]),
        ReplyError("r"),
    ],
)
def test_errors_travel_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


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
