"""gRPC server reflection: off by configuration, and what tools ask for when it is on."""

import contextlib
import threading

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from servable.gateway.http2.grpc_server import REFLECTION_CALLS_EACH
from tests.integration.servable.gateway.harness import Harness, config_of, predict, request


def asked(harness, **question):
    with harness.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=5)
        return answer


@pytest.fixture
def reflecting(tmp_path):
    with Harness(tmp_path, config_of(server={"reflection": True})) as harness:
        yield harness


def test_it_lists_the_services(reflecting):
    services = asked(reflecting, list_services="").list_services_response.service
    assert {service.name for service in services} == {
        "grpc.health.v1.Health",
        "inference.GRPCInferenceService",
        "metric_learn.v1.ModelService",
        "mindspore.serving.proto.MSService",
    }


def test_it_gives_the_messages_of_a_service(reflecting):
    answer = asked(reflecting, file_containing_symbol="mindspore.serving.proto.MSService")
    (file,) = answer.file_descriptor_response.file_descriptor_proto
    assert b"PredictRequest" in file


def test_calls_are_answered_as_before(reflecting):
    with reflecting.channel() as channel:
        reply, _ = predict(channel, request(b"x"))
    assert len(reply.instances) == 1


def test_it_is_off_by_configuration(tmp_path):
    with Harness(tmp_path) as harness, pytest.raises(grpc.RpcError) as caught:
        asked(harness, list_services="")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_connection_has_a_few_such_calls_open_and_no_more(reflecting):
    with reflecting.channel() as channel, contextlib.ExitStack() as stack:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        done = threading.Event()
        stack.callback(done.set)
        calls = [stub.ServerReflectionInfo(then_waiting(done)) for _ in range(REFLECTION_CALLS_EACH)]
        assert all(next(call).list_services_response.service for call in calls)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.ServerReflectionInfo(then_waiting(done)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def then_waiting(done):
    yield reflection_pb2.ServerReflectionRequest(list_services="")
    done.wait(10)


def test_no_long_message_is_taken(reflecting):
    with pytest.raises(grpc.RpcError) as caught:
        asked(reflecting, file_containing_symbol="a" * 5000)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "4096" in caught.value.details()
