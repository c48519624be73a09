"""One declarative table -> protobuf message classes, in a private descriptor pool. No generated code.

The classes work with every protobuf from 3.20 on, and beside MindSpore Serving's own generated module in one
process: that module registers the same message names in the default pool, which is never touched here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from metric_learn_client.wire.contract import DataType, ServingStatus

# A field is "number type name", with "repeated", "map<key,value>" or a trailing "oneof NAME" as in a .proto file.
Fields = Sequence[str]

# MindSpore Serving 2.0.2, mindspore_serving/proto/ms_service.proto (the messages of the public port).
MINDSPORE_SERVING: Mapping[str, Fields] = {
    "PredictRequest": ("1 ServableSpec servable_spec", "2 repeated Instance instances"),
    "PredictReply": (
        "1 ServableSpec servable_spec",
        "3 repeated Instance instances",
        "4 repeated ErrorMsg error_msg",
    ),
    "ErrorMsg": ("1 int64 error_code", "2 bytes error_msg"),
    "Instance": ("1 map<string,Tensor> items", "2 map<string,ShmTensorData> output_buffers"),
    "Tensor": (
        "1 TensorShape shape",
        "2 DataType dtype",
        # protobuf 3.20 wants the members of a oneof side by side; on the wire the numbers decide the order.
        "3 bytes data oneof tensor_data",
        "5 ShmTensorData shm_data oneof tensor_data",
        "4 repeated bytes bytes_val",
    ),
    "TensorShape": ("1 repeated int64 dims",),
    "ShmTensorData": (
        "1 string memory_key",
        "2 uint64 bytes_size",
        "3 uint64 data_offset",
        "4 uint64 data_size",
    ),
    "ServableSpec": ("1 string name", "2 string method_name", "3 uint64 version_number"),
}

# https://github.com/grpc/grpc/blob/master/doc/health-checking.md
GRPC_HEALTH: Mapping[str, Fields] = {
    "HealthCheckRequest": ("1 string service",),
    "HealthCheckResponse": ("1 ServingStatus status",),
}

# Our own: what the gateway says about the model it serves.
METRIC_LEARN: Mapping[str, Fields] = {
    "GetModelRequest": ("1 string name", "2 uint64 version"),
    "GetModelReply": (
        "1 string name",
        "2 uint64 version",
        "3 string fingerprint",
        "4 uint32 dim",
        "5 string weights",
        "6 string preprocessing",
        "7 uint32 max_instances",
        "8 uint64 max_request_bytes",
        "9 uint64 max_image_bytes",
        "10 uint64 max_image_px",
        "11 repeated string methods",
        "12 string server_version",
        "13 repeated uint64 versions",
    ),
}

_FIELD = re.compile(
    r"(?P<number>\d+) (?P<repeated>repeated )?(?P<type>\w+|map<(?P<key>\w+),(?P<value>\w+)>) (?P<name>\w+)"
    r"(?: oneof (?P<oneof>\w+))?"
)
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}


def build_classes() -> dict[str, Any]:
    """Message classes by short name, each from the table above, all in one pool of their own."""
    pool = descriptor_pool.DescriptorPool()
    classes: dict[str, Any] = {}
    for package, messages, enums in (
        ("mindspore.serving.proto", MINDSPORE_SERVING, (DataType,)),
        ("grpc.health.v1", GRPC_HEALTH, (ServingStatus,)),
        ("metric_learn.v1", METRIC_LEARN, ()),
    ):
        pool.AddSerializedFile(_file_proto(package, messages, enums).SerializeToString())
        for name in messages:
            classes[name] = _message_class(pool, f"{package}.{name}")
    return classes


def _message_class(pool: Any, full_name: str) -> Any:
    descriptor = pool.FindMessageTypeByName(full_name)
    factory: Any = message_factory
    if hasattr(factory, "GetMessageClass"):  # protobuf >= 4.22
        return factory.GetMessageClass(descriptor)
    return factory.MessageFactory(pool).GetPrototype(descriptor)


def _file_proto(package: str, messages: Mapping[str, Fields], enums: Sequence[type[enum.IntEnum]]) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for enum_class in enums:
        enum_proto = file.enum_type.add(name=enum_class.__name__)
        for member in enum_class:
            enum_proto.value.add(name=member.name, number=int(member))
    enum_names = {enum_class.__name__ for enum_class in enums}
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for text in fields:
            _add_field(message, text, package, enum_names)
    return file


def _add_field(message: Any, text: str, package: str, enum_names: set[str]) -> None:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f"not a field declaration: {text!r} in {message.name}")
    field = message.field.add(name=match["name"], number=int(match["number"]))
    field.label = _Field.LABEL_REPEATED if match["repeated"] or match["key"] else _Field.LABEL_OPTIONAL
    if match["key"]:
        # On the wire a map is a repeated nested message {1: key, 2: value} with the map_entry option.
        entry = message.nested_type.add(name=_entry_name(match["name"]))
        entry.options.map_entry = True
        _add_field(entry, f"1 {match['key']} key", package, enum_names)
        _add_field(entry, f"2 {match['value']} value", package, enum_names)
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{package}.{message.name}.{entry.name}"
    elif match["type"] in _SCALARS:
        field.type = _SCALARS[match["type"]]
    else:
        field.type = _Field.TYPE_ENUM if match["type"] in enum_names else _Field.TYPE_MESSAGE
        field.type_name = f".{package}.{match['type']}"
    if match["oneof"]:
        names = [oneof.name for oneof in message.oneof_decl]
        if match["oneof"] not in names:
            message.oneof_decl.add(name=match["oneof"])
            names.append(match["oneof"])
        field.oneof_index = names.index(match["oneof"])


def _entry_name(field_name: str) -> str:
    """`output_buffers` -> `OutputBuffersEntry`, the name that protoc gives."""
    return "".join(part.capitalize() for part in field_name.split("_")) + "Entry"
