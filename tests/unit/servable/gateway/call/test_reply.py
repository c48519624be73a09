"""Replies of MindSpore Serving: what may leave, and what is the backend's own fault."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_learn_client import wire
from servable.gateway.call.reply import FailedImage, Fault, encode_reply, read_reply

DIM = 4
ROW = b"\x00\x00\x80?" * DIM


def reply_of(*outcomes):
    """bytes: an embedding's data; (code, text): an error."""
    reply = wire.PredictReply()
    for outcome in outcomes:
        instance = reply.instances.add()
        error = reply.error_msg.add()
        if isinstance(outcome, bytes):
            tensor = instance.items["embedding"]
            tensor.dtype, tensor.data = wire.DataType.MS_FLOAT32, outcome
        else:
            error.error_code, error.error_msg = outcome[0], outcome[1].encode()
    return reply.SerializeToString()


@pytest.mark.parametrize("code", list(wire.ImageErrorCode))
def test_an_error_that_could_hold_a_path_leaves_with_a_sentence_of_its_code(code):
    (outcome,) = read_reply(reply_of((1, f"{code.value}: open('/etc/passwd') failed")), 1, DIM)
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
    good, failed = read_reply(reply_of(ROW, (code, text)), 2, DIM)
    assert good == ROW and isinstance(failed, kind)
    assert read_reply(reply_of((code, text)), 1, DIM) == [failed]


@pytest.mark.parametrize("body", [b"", b"\xff", reply_of(ROW), reply_of(ROW, ROW, ROW), reply_of(ROW, ROW[:-1])])
def test_a_reply_that_does_not_fit_two_images_is_a_fault(body):
    assert isinstance(read_reply(body, 2, DIM)[1], Fault)


def test_random_replies_never_raise():
    chance = random.Random(5)
    body = reply_of(ROW, (3, "E_EMPTY: none"))
    for _ in range(5000):
        broken = bytearray(body)
        for _ in range(chance.randint(1, 5)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        assert len(read_reply(bytes(broken), 2, DIM)) == 2


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_whatever_serving_says_one_short_safe_line_leaves(text):
    for said in (text, "E_DECODE: " + text):
        (outcome,) = read_reply(reply_of((3, said)), 1, DIM)
        if isinstance(outcome, FailedImage):
            assert outcome.text.isprintable() and outcome.text.isascii() and len(outcome.text) <= 200
            assert outcome.text.startswith("E_") and "/" not in outcome.text


def test_written_replies_read_back():
    error = FailedImage(3, "E_EMPTY: the image has no bytes")
    for outcomes in ([ROW], [ROW, error], [error, ROW, ROW], [error], [error, error]):
        body = encode_reply("embed", 7, outcomes, DIM)
        assert read_reply(body, len(outcomes), DIM) == outcomes
        assert wire.PredictReply.FromString(body).servable_spec.version_number == 7
