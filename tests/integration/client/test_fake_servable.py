"""The fake that users' tests, and ours, rest on."""

import threading

import grpc
import numpy as np
import pytest

from metric_learn_client import wire
from metric_learn_client.testing import FakeServable, Faults, fake_embeddings
from metric_learn_client.wire.rows import pack_rows, unpack_rows


def request_of(images):
    request = wire.PredictRequest()
    request.servable_spec.name, request.servable_spec.method_name = "metric_learn", "embed"
    for image in images:
        request.instances.add().items["image"].bytes_val.append(image)
    return request.SerializeToString()


def ask(endpoint, body, path=wire.PREDICT_PATH, timeout=5.0, metadata=()):
    with grpc.insecure_channel(endpoint) as channel:
        return channel.unary_unary(path).with_call(body, timeout=timeout, metadata=metadata)


def test_different_bytes_have_different_rows_of_unit_norm():
    rows = fake_embeddings([b"%d" % number for number in range(500)])
    assert rows.dtype == np.float32 and rows.shape == (500, 2048)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert len(np.unique(rows, axis=0)) == 500
    pixels = np.arange(12, dtype=np.uint8)
    assert (fake_embeddings([pixels]) == fake_embeddings([pixels.tobytes()])).all()


def test_a_reply_says_whose_row_it_is_and_which_model_made_it():
    with FakeServable(fingerprint="f" * 64, version=7) as server:
        body, call = ask(server.endpoint, request_of([b"a", b"b"]))
        rows = np.empty((2, 2048), np.float32)
        assert unpack_rows(body, rows) and (rows == fake_embeddings([b"a", b"b"])).all()
        trailing = dict(call.trailing_metadata())
        assert (trailing[wire.METADATA_FINGERPRINT], trailing[wire.METADATA_VERSION]) == ("f" * 64, "7")
        assert (server.calls, server.images) == (1, 2)


def test_what_the_fake_packs_is_what_protobuf_reads():
    rows = fake_embeddings([b"x", b"y", b"z"])
    reply = wire.PredictReply.FromString(pack_rows("embed", rows))
    assert len(reply.instances) == 3 and not reply.error_msg
    tensor = reply.instances[2].items["embedding"]
    assert list(tensor.shape.dims) == [2048] and tensor.dtype == wire.DataType.MS_FLOAT32
    assert tensor.data == rows[2].tobytes()


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"\x22\x00", lambda b: b.replace(b"edding", b"eddimg")]
)
def test_a_reply_of_any_other_form_is_left_to_protobuf(change):
    rows = np.zeros((2, 2048), np.float32)
    body = pack_rows("embed", fake_embeddings([b"x", b"y"]))
    assert not unpack_rows(change(body), rows) and not rows.any()
    assert unpack_rows(body, rows)


def test_bad_images_have_their_code_at_their_index():
    with FakeServable() as server:
        server.limits.max_image_bytes = 100
        body, _ = ask(server.endpoint, request_of([b"good", b"corrupt", b"", b"l" * 101]))
    errors = wire.PredictReply.FromString(body).error_msg
    assert [each.error_msg.split(b":")[0] for each in errors] == [b"", b"E_DECODE", b"E_EMPTY", b"E_TOO_LARGE"]


@pytest.mark.parametrize("status", [status.name for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
def test_every_status_can_be_had_with_a_retry_hint_for_so_many_calls(status):
    with FakeServable(faults=Faults(status=status, retry_after_ms=40, calls=1)) as server:
        with pytest.raises(grpc.RpcError) as caught:
            ask(server.endpoint, request_of([b"a"]))
        assert caught.value.code().name == status
        assert dict(caught.value.trailing_metadata())[wire.METADATA_RETRY_AFTER_MS] == "40"
        ask(server.endpoint, request_of([b"a"]))


def test_a_black_hole_ends_with_the_callers_deadline_and_leaves_no_thread():
    before = set(threading.enumerate())
    with FakeServable(faults=Faults(black_hole=True)) as server:
        for path in (wire.PREDICT_PATH, wire.HEALTH_CHECK_PATH):
            with pytest.raises(grpc.RpcError) as caught:
                ask(server.endpoint, request_of([b"a"]), path, timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert set(threading.enumerate()) <= before


def test_health_follows_ready_and_the_token_is_demanded():
    with FakeServable(token="right") as server:
        body, _ = ask(server.endpoint, b"", wire.HEALTH_CHECK_PATH)
        assert wire.HealthCheckResponse.FromString(body).status == wire.ServingStatus.SERVING
        server.ready = False
        body, _ = ask(server.endpoint, b"", wire.HEALTH_CHECK_PATH)
        assert wire.HealthCheckResponse.FromString(body).status == wire.ServingStatus.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            ask(server.endpoint, b"", wire.GET_MODEL_PATH, metadata=(("authorization", "Bearer wrong"),))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        ask(server.endpoint, b"", wire.GET_MODEL_PATH, metadata=(("authorization", "Bearer right"),))


def test_a_stopped_fake_starts_again_at_its_address():
    server = FakeServable().start()
    endpoint = server.endpoint
    server.stop()
    with server:
        assert server.endpoint == endpoint
        ask(endpoint, request_of([b"a"]))
