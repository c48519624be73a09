"""gRPC server reflection: off by configuration, and what tools ask for when it is on."""

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

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
