"""Replies of MindSpore Serving: what may leave, and what is the backend's own fault."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_learn_client import wire
from servable.engine.packed_batch import OF_THE_WORKER, pack_rows
from servable.gateway.call.reply import FailedImage, Fault, encode_reply, read_reply

DIM = 4
ROW = b"\x00\x00\x80?" * DIM
TWO_BATCHES = wire.PredictReply(instances=[wire.Instance(), wire.Instance()]).SerializeToString()
NO_BATCH = wire.PredictReply(instances=[wire.Instance()]).SerializeToString()


def reply_of(*outcomes):
    """One batch's reply. bytes: an embedding's data; text: that image's error."""
    rows = np.stack(
        [np.frombuffer(each, "<f4") if isinstance(each, bytes) else np.zeros(DIM, "<f4") for each in outcomes]
    )
    packed = pack_rows(rows, [each if isinstance(each, str) else None for each in outcomes])
    reply = wire.PredictReply()
    tensor = reply.instances.add().items["embedding"]
    tensor.dtype, tensor.data = wire.DataType.MS_UINT8, packed.tobytes()
    return reply.SerializeToString()


def failed(code, text):
    """The reply where all of the batch failed."""
    reply = wire.PredictReply()
    reply.error_msg.add(error_code=code, error_msg=text.encode())
    return reply.SerializeToString()


@pytest.mark.parametrize("code", list(wire.ImageErrorCode))
def test_an_error_that_could_hold_a_path_leaves_with_a_sentence_of_its_code(code):
    (outcome,) = read_reply(reply_of(f"{code.value}: open('/etc/passwd') failed"), 1, DIM)
    assert isinstance(outcome, FailedImage)
    assert outcome.text.startswith(f"{code.value}: ") and "/" not in outcome.text


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (2, "Request servable metric_learn, servable is not available", Fault),
        (4, "", Fault),
        (5, "", Fault),
        (3, "Worker has stopped", Fault),
        (1, "Serving Error: enqueued requests count exceeds the limit 10000", Fault),
        (3, "E_DECODE: broken", FailedImage),
        (2, "E_SHAPE: wrong", FailedImage),
        (1, "Model predict failed", FailedImage),
        (3, "KeyError", FailedImage),
    ],
)
def test_an_error_is_the_images_or_the_backends(code, text, kind):
    whole = read_reply(failed(code, text), 2, DIM)
    assert len(whole) == 2 and all(isinstance(outcome, kind) for outcome in whole)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("E_DECODE: broken", FailedImage), ("KeyError", FailedImage), ("this worker cannot decode: no memory", Fault)],
)
def test_one_of_a_batch_fails_alone(text, kind):
    good, bad = read_reply(reply_of(ROW, text), 2, DIM)
    assert good == ROW and isinstance(bad, kind)


def test_what_a_worker_says_of_itself_accuses_no_image():
    _, said = read_reply(reply_of(ROW, OF_THE_WORKER + "cannot decode: no memory"), 2, DIM)
    assert said.lives


@pytest.mark.parametrize(
    "body", [b"", b"\xff", reply_of(ROW), reply_of(ROW, ROW, ROW), reply_of(ROW[:-4], ROW[:-4]), TWO_BATCHES, NO_BATCH]
)
def test_a_reply_that_does_not_fit_two_images_is_a_fault(body):
    assert isinstance(read_reply(body, 2, DIM)[1], Fault)


def test_random_replies_never_raise():
    chance = random.Random(5)
    body = reply_of(ROW, "E_EMPTY: none")
    for _ in range(5000):
        broken = bytearray(body)
        for _ in range(chance.randint(1, 5)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        assert len(read_reply(bytes(broken), 2, DIM)) == 2


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_whatever_serving_says_one_short_safe_line_leaves(text):
    for said in (text, "E_DECODE: " + text):
        (outcome,) = read_reply(reply_of(said or "x"), 1, DIM)
        if isinstance(outcome, FailedImage):
            assert outcome.text.isprintable() and outcome.text.isascii() and len(outcome.text) <= 200
            assert outcome.text.startswith("E_") and "/" not in outcome.text


@pytest.mark.parametrize("dim", [DIM, wire.EMBEDDING_DIM])
def test_written_replies_are_what_clients_read(dim):
    row, error = memoryview(b"\x00\x00\x80?" * dim), FailedImage(3, "E_EMPTY: the image has no bytes")
    for outcomes in ([row], [row, row], [row, error], [error, row, row], [error], [error, error]):
        reply = wire.PredictReply.FromString(encode_reply("embed", 7, outcomes, dim))
        assert reply.servable_spec.version_number == 7
        if outcomes == [error] * len(outcomes):
            assert not reply.instances and len(reply.error_msg) == 1
            continue
        assert len(reply.instances) == len(outcomes) and len(reply.error_msg) == (
            len(outcomes) if error in outcomes else 0
        )
        for index, outcome in enumerate(outcomes):
            good = outcome is row
            data = reply.instances[index].items["embedding"].data if good else reply.error_msg[index].error_msg
            assert data == (bytes(row) if good else error.text.encode())
