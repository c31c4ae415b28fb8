# SPDX-License-Identifier: Apache-2.0
"""The contract's messages with every float replaced by its bits.

A float read as a number loses the payload of a NaN, and comparing numbers cannot tell -0.0 from 0.0. On the wire a
32-bit float is a fixed32 and a double a fixed64, so a message type in which every float is a fixed32 reads and writes
the same bytes and holds integers, which are exact. `bits_class` gives that type for a message type of the contract.
"""

from __future__ import annotations

import functools
import struct
from typing import cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

__all__ = ["bits_class", "double_bits", "double_value", "float_bits", "float_value", "to_bits"]

_POOL = descriptor_pool.DescriptorPool()
_FIELD = descriptor_pb2.FieldDescriptorProto


def bits_class(message_class: type[Message]) -> type[Message]:
    """The type that reads and writes the same bytes as `message_class` and has integers for floats."""
    descriptor = message_class.DESCRIPTOR
    return _class(descriptor.file, descriptor.full_name)


def to_bits(message: Message) -> Message:
    """The same message with bits for floats."""
    return bits_class(type(message)).FromString(message.SerializeToString(deterministic=True))


def float_bits(value: float) -> int:
    """Bits of the 32-bit float next to `value`; too large a value is infinity."""
    try:
        return cast(int, struct.unpack("<I", struct.pack("<f", value))[0])
    except OverflowError:
        return 0x7F800000 if value > 0 else 0xFF800000


def float_value(bits: int) -> float:
    """The number that a 32-bit float of these bits is."""
    return cast(float, struct.unpack("<f", struct.pack("<I", bits))[0])


def double_bits(value: float) -> int:
    """Bits of a 64-bit float."""
    return cast(int, struct.unpack("<Q", struct.pack("<d", value))[0])


def double_value(bits: int) -> float:
    """The number that a 64-bit float of these bits is."""
    return cast(float, struct.unpack("<d", struct.pack("<Q", bits))[0])


@functools.cache
def _class(file: FileDescriptor, full_name: str) -> type[Message]:
    _add(file)
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(full_name))


@functools.cache
def _add(file: FileDescriptor) -> None:
    for dependency in file.dependencies:
        _add(dependency)
    definition = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(definition)
    # google's own messages are used as they are: no floats of ours in them.
    if not file.name.startswith("google/"):
        for message in definition.message_type:
            _replace_floats(message)
    _POOL.Add(definition)


def _replace_floats(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        if field.type == _FIELD.TYPE_FLOAT:
            field.type = _FIELD.TYPE_FIXED32
        elif field.type == _FIELD.TYPE_DOUBLE:
            field.type = _FIELD.TYPE_FIXED64
    for nested in message.nested_type:
        _replace_floats(nested)
