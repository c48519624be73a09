"""client/proto/inference.proto against the descriptors of other people's clients: the same names and numbers."""

import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from metric_learn_client.wire.messages import POOL

MODULES = {"tritonclient": "tritonclient.grpc.service_pb2", "kserve": "kserve.protocol.grpc.grpc_predict_v2_pb2"}
OURS = POOL.FindFileByName("inference.proto")
ADDED_LATER = {"double_param", "uint64_param"}  # to InferParameter; kserve 0.21 does not know them
# Each in a process of its own: both register the same names, and one process takes them once.
DESCRIPTORS = """
import importlib, sys
from google.protobuf import descriptor_pb2
files = descriptor_pb2.FileDescriptorSet()
def add(file):
    for each in file.dependencies:
        add(each)
    file.CopyToProto(files.file.add())
add(importlib.import_module(sys.argv[1]).DESCRIPTOR)
sys.stdout.buffer.write(files.SerializeToString())
"""


@pytest.fixture(scope="module", params=MODULES)
def public(request):
    """The client's own description of the package `inference`."""
    command = [sys.executable, "-c", DESCRIPTORS, MODULES[request.param]]
    output = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True).stdout
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(output).file:
        last = pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(last.name if last else file.name)


def fields_of(message):
    """Every field below `message`: its name -> what decides how it travels."""
    fields = {}
    for field in message.fields:
        kind = field.message_type.full_name if field.message_type else ""
        oneof = field.containing_oneof.name if field.containing_oneof else ""
        fields[field.full_name] = (field.number, field.type, field.label, kind, oneof)
    for nested in message.nested_types:
        fields.update(fields_of(nested))
    return fields


def test_every_message_has_the_fields_of_the_public_protocol(public):
    assert public.package == OURS.package == "inference"
    for name, message in OURS.message_types_by_name.items():
        ours, theirs = fields_of(message), fields_of(public.message_types_by_name[name])
        assert theirs.items() <= ours.items()
        assert {field.rpartition(".")[2] for field in set(ours) - set(theirs)} <= ADDED_LATER


def test_every_call_has_the_name_and_the_messages_of_the_public_protocol(public):
    (service,) = OURS.services_by_name.values()
    theirs = public.services_by_name[service.name].methods_by_name
    for call in service.methods:
        assert call.input_type.full_name == theirs[call.name].input_type.full_name
        assert call.output_type.full_name == theirs[call.name].output_type.full_name
