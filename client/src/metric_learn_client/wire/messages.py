"""The messages and enumerations, made at import from wire.desc, which client/proto gives (client/proto/generate.py).

They live in a descriptor pool of their own, and so work with every protobuf from 3.20 on, and beside MindSpore
Serving's own generated module in one process: that one registers the same message names in the default pool.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()
_FILES = descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("wire.desc").read_bytes()).file
for _file in _FILES:
    POOL.AddSerializedFile(_file.SerializeToString())


def _class(full_name: str) -> Any:
    descriptor = POOL.FindMessageTypeByName(full_name)
    factory: Any = message_factory
    if hasattr(factory, "GetMessageClass"):  # protobuf >= 4.22
        return factory.GetMessageClass(descriptor)
    return factory.MessageFactory(POOL).GetPrototype(descriptor)


def service_names() -> tuple[str, ...]:
    """Full names of the services of all .proto files."""
    return tuple(f"{file.package}.{service.name}" for file in _FILES for service in file.service)


_ENUMS = [each for file in _FILES for holder in (file, *file.message_type) for each in holder.enum_type]
_MADE = {m.name: _class(f"{file.package}.{m.name}") for file in _FILES for m in file.message_type}
_MADE.update({e.name: enum.IntEnum(e.name, {v.name: v.number for v in e.value}, module=__name__) for e in _ENUMS})
globals().update(_MADE)
__all__ = ["POOL", "service_names", *_MADE]
