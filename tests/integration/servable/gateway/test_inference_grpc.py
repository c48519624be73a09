"""The Open Inference Protocol over gRPC, beside Predict: the same rows, the same limits, its own messages."""

import struct

import grpc
import numpy as np
import pytest

from metric_learn_client import wire
from metric_learn_client.wire import messages
from servable.config.sections import DeadlinesSection, LimitsSection, SecuritySection
from tests.integration.servable.gateway.fake_serving import FakeBackend, embedding_of
from tests.integration.servable.gateway.harness import Harness, config_of, predict, request, rows, until

SERVICE = "inference.GRPCInferenceService"
TOKEN = "0123456789abcdef-first"


def ask(channel, name, message=None, *, timeout=10, metadata=()):
    """(reply, trailing metadata) of one of the service's calls. Raises grpc.RpcError."""
    body = b"" if message is None else message.SerializeToString()
    reply = getattr(messages, f"{name}Response")
    call = channel.unary_unary(f"/{SERVICE}/{name}", response_deserializer=reply.FromString)
    reply, done = call.with_call(body, timeout=timeout, metadata=metadata)
    return reply, dict(done.trailing_metadata())


def infer_request(*images, **fields):
    message = messages.ModelInferRequest(model_name="metric_learn", **fields)
    message.inputs.add(name="image", datatype="BYTES", shape=[len(images)])
    message.raw_input_contents.append(b"".join(struct.pack("<I", len(each)) + each for each in images))
    return message


def refused(channel, name, message=None, **options):
    with pytest.raises(grpc.RpcError) as caught:
        ask(channel, name, message, **options)
    error = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata() or ())


@pytest.mark.parametrize("count", [1, 2, 17, 256])
def test_the_rows_are_those_of_predict_bit_for_bit(channel, count):
    images = [b"image %d" % index for index in range(count)]
    reply, _ = ask(channel, "ModelInfer", infer_request(*images))
    expected, _ = predict(channel, request(*images))
    assert list(reply.outputs[0].shape) == [count, 2048]
    assert reply.raw_output_contents[0] == rows(expected).tobytes()


def test_a_reply_names_the_version_the_fingerprint_and_both_ids(running, channel):
    reply, metadata = ask(
        channel, "ModelInfer", infer_request(b"x", id="mine", model_version="1"), metadata=[("x-request-id", "abc-123")]
    )
    assert (reply.model_name, reply.model_version, reply.id) == ("metric_learn", "1", "mine")
    assert metadata[wire.METADATA_REQUEST_ID] == "abc-123"
    assert metadata[wire.METADATA_VERSION] == "1"
    assert metadata[wire.METADATA_FINGERPRINT] == running.backend.fingerprint


def test_a_failed_image_is_an_invalid_argument_or_a_row_of_nan(running, channel):
    running.serving.image_errors[b"bad"] = "E_DECODE: the JPEG is cut off"
    message = infer_request(b"good", b"bad", b"x" * 1001)
    code, details, metadata = refused(channel, "ModelInfer", message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "image[1]: E_DECODE: the JPEG is cut off; 2 pictures failed, also [2] E_TOO_LARGE"
    assert metadata[wire.METADATA_VERSION] == "1"
    message.parameters["on_error"].string_param = "null"
    reply, _ = ask(channel, "ModelInfer", message)
    found = np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(3, 2048)
    assert np.array_equal(found[0], embedding_of(b"good")) and np.isnan(found[1:]).all()
    failures = {key: value.string_param for key, value in reply.outputs[0].parameters.items()}
    assert failures == {"1": "E_DECODE: the JPEG is cut off", "2": "E_TOO_LARGE: 1001 bytes; the limit is 1000"}


def test_a_wrong_request_names_its_field(channel):
    code, details, metadata = refused(channel, "ModelInfer", infer_request(*[b"x"] * 257))
    assert (code, details.partition(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "inputs[0].shape")
    assert "grpc-status-details-bin" in metadata


@pytest.mark.parametrize("version", ["2", "latest"])
@pytest.mark.parametrize("name", ["ModelInfer", "ModelReady", "ModelMetadata"])
def test_a_version_that_is_not_served_is_not_found(channel, name, version):
    message = infer_request(b"x", model_version=version)
    if name != "ModelInfer":
        message = getattr(messages, f"{name}Request")(name="metric_learn", version=version)
    assert refused(channel, name, message)[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", ["ModelReady", "ModelMetadata"])
def test_another_model_is_not_found(channel, name):
    code, details, _ = refused(channel, name, getattr(messages, f"{name}Request")(name="resnet"))
    assert code is grpc.StatusCode.NOT_FOUND and "'resnet'" in details


def test_a_question_that_is_no_message_is_refused(channel):
    call = channel.unary_unary(f"/{SERVICE}/ModelReady")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_live_ready_and_metadata_are_told(channel):
    assert ask(channel, "ServerLive")[0].live
    assert ask(channel, "ServerReady")[0].ready
    assert ask(channel, "ModelReady", messages.ModelReadyRequest(name="metric_learn", version="1"))[0].ready
    assert "binary_tensor_data" in ask(channel, "ServerMetadata")[0].extensions
    described, _ = ask(channel, "ModelMetadata", messages.ModelMetadataRequest(name="metric_learn"))
    assert list(described.versions) == ["1"]


def test_readiness_is_that_of_the_version_and_ends_with_the_drain(tmp_path):
    with Harness(tmp_path) as harness, harness.channel() as channel:
        harness.call(harness.backends.set_ready, FakeBackend(f"unix:{tmp_path}/nobody.sock", version=2))
        of = {version: messages.ModelReadyRequest(name="metric_learn", version=version) for version in ("", "1", "2")}
        assert {version: ask(channel, "ModelReady", of[version])[0].ready for version in of} == {
            "": True,
            "1": True,
            "2": False,
        }
        drained = harness.start(harness.gateway.drain(1.0))
        until(lambda: not ask(channel, "ServerReady")[0].ready, "not ready")
        assert not ask(channel, "ModelReady", of["1"])[0].ready and ask(channel, "ServerLive")[0].live
        drained.result(10)
        code, _, metadata = refused(channel, "ModelInfer", infer_request(b"x"))
        assert code is grpc.StatusCode.UNAVAILABLE and wire.METADATA_RETRY_AFTER_MS in metadata


def test_calls_and_metadata_need_the_token_and_readiness_does_not(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"{TOKEN}\n")
    with Harness(tmp_path, config_of(security=SecuritySection(tokens_file=tokens))) as harness:
        with harness.channel() as channel:
            model = messages.ModelMetadataRequest(name="metric_learn")
            for name, message in (
                ("ModelInfer", infer_request(b"x")),
                ("ServerMetadata", None),
                ("ModelMetadata", model),
            ):
                for metadata in ([], [("authorization", "Bearer " + "x" * 20)]):
                    code = refused(channel, name, message, metadata=metadata)[0]
                    assert code is grpc.StatusCode.UNAUTHENTICATED
                ask(channel, name, message, metadata=[("authorization", f"Bearer {TOKEN}")])
            assert ask(channel, "ServerReady")[0].ready
            assert ask(channel, "ModelReady", messages.ModelReadyRequest(name="metric_learn"))[0].ready


def test_overload_and_deadlines_are_those_of_every_call(tmp_path):
    settings = config_of(
        limits=LimitsSection(max_instances=4, max_in_flight_instances=4), deadlines=DeadlinesSection(default_s=0.3)
    )
    with Harness(tmp_path, settings) as harness, harness.channel() as channel:
        harness.serving.silent = True
        first = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(infer_request(*[b"x"] * 4).SerializeToString())
        until(lambda: harness.gateway._admission.images == 4, "the first call")
        code, _, metadata = refused(channel, "ModelInfer", infer_request(b"x"))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and int(metadata[wire.METADATA_RETRY_AFTER_MS]) > 0
        assert first.exception(10).code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_metrics_name_the_wire(running, channel):
    ask(channel, "ModelInfer", infer_request(b"x"))
    until(lambda: 'wire="oip-grpc"' in running.http("/metrics")[1], "the counter")
