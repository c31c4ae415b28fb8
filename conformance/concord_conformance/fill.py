# SPDX-License-Identifier: Apache-2.0
"""Puts values into requests and expected responses that are too long, or impossible, to write in a case.

It works on the messages of `bits`, so that a float can be given by its bits.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any

from concord_proto.conformance.v1 import suite_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from concord_conformance.bits import float_bits

__all__ = ["FillError", "apply_fill", "hex_bytes", "parse_path"]

_SEGMENT = re.compile(r'(?P<dot>\.)?(?P<name>[a-z][a-z0-9_]*)|\[(?P<index>\d+)\]|\[(?P<key>"(?:[^"\\]|\\.)*")\]')


class FillError(ValueError):
    """A fill that does not fit the message."""


class _Key(str):
    """A key of a map, to tell it from a field's name."""

    __slots__ = ()


def parse_path(path: str) -> list[str | int | _Key]:
    """The segments of a path: field names, indexes and keys. Raises FillError."""
    segments: list[str | int | _Key] = []
    position = 0
    while position < len(path):
        match = _SEGMENT.match(path, position)
        if match is None or (match["name"] is not None and (match["dot"] is None) != (position == 0)):
            raise FillError(f"path {path!r}: cannot be read from character {position} on")
        if match["name"] is not None:
            segments.append(match["name"])
        elif match["index"] is not None:
            segments.append(int(match["index"]))
        else:
            segments.append(_Key(json.loads(match["key"])))
        position = match.end()
    if not segments:
        raise FillError("path: is empty")
    return segments


def apply_fill(message: Message, fill: suite_pb2.Fill, index: int) -> None:
    """Sets what `fill` says in a message of `bits`. `index` is that of the request or call. Raises FillError."""
    kind = fill.WhichOneof("value")
    if kind is None:
        raise FillError(f"fill of {fill.path!r}: has no value")
    if kind == "padding_to_message_bytes":
        _pad(message, fill)
    else:
        _set(message, fill.path, *_value(fill, kind, index))


# Where a FeatureValue is filled, the kind of value decides which member of the oneof is set.
_MEMBERS = {
    "text": "string_value",
    "int64": "int64_value",
    "float": "float_value",
    "double": "double_value",
    "floats": "float_array",
    "int64s": "int64_array",
}


def _value(fill: suite_pb2.Fill, kind: str, index: int) -> tuple[str, Any]:
    """What the value is ("text", "float", ...) and the value, floats as bits."""
    match kind:
        case "text":
            return "text", fill.text.text * fill.text.count
        case "indexed_text":
            return "text", fill.indexed_text.replace("{index}", str(index))
        case "indexed_float":
            return "float", float_bits(fill.indexed_float.start + index * fill.indexed_float.step)
        case "indexed_int64":
            return "int64", fill.indexed_int64.start + index * fill.indexed_int64.step
        case "floats":
            values = fill.floats
            return "floats", [float_bits(values.start + i * values.step) for i in range(values.count)]
        case "int64s":
            integers = fill.int64s
            return "int64s", [integers.start + i * integers.step for i in range(integers.count)]
        case "float_bits":
            return "float", _hex_integer(fill.float_bits, 8)
        case "double_bits":
            return "double", _hex_integer(fill.double_bits, 16)
        case "float_array_bits":
            return "floats", [_hex_integer(value, 8) for value in fill.float_array_bits.values]
        case "hex":
            return "bytes", hex_bytes(fill.hex)
        case _:
            raise FillError(f"fill of {fill.path!r}: {kind} is not known to this runner")


def hex_bytes(text: str) -> bytes:
    """Bytes from hexadecimal digits; blanks are left out. Raises FillError."""
    try:
        return bytes.fromhex("".join(text.split()))
    except ValueError as error:
        raise FillError(f"hexadecimal: {error}") from None


def _hex_integer(text: str, digits: int) -> int:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
        raise FillError(f"bits: expected {digits} hexadecimal digits, got {text!r}")
    return int(text, 16)


def _pad(message: Message, fill: suite_pb2.Fill) -> None:
    wanted = fill.padding_to_message_bytes
    length = max(wanted - message.ByteSize(), 0)
    # The length of the text is itself encoded, in a few bytes at most: a few steps reach the fixed point.
    for _ in range(16):
        _set(message, fill.path, "text", "x" * length)
        excess = message.ByteSize() - wanted
        if excess == 0:
            return
        length -= excess
        if length < 0:
            break
    raise FillError(f"fill of {fill.path!r}: no text makes the message {wanted} bytes long")


def _set(message: Message, path: str, what: str, value: Any) -> None:
    segments = parse_path(path)
    target: Any = message
    field: Any = None
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if isinstance(segment, (_Key, int)):
            if field is None:
                raise FillError(f"path {path!r}: an index follows no field")
            element = _element_field(field)
            if element.message_type is None:
                if not last:
                    raise FillError(f"path {path!r}: goes on below a value")
                target[segment] = _converted(path, element, what, value)
                return
            target = target[segment]
            field = None
        else:
            if not isinstance(target, Message):
                raise FillError(f"path {path!r}: {segment} is no field there")
            field = target.DESCRIPTOR.fields_by_name.get(segment)
            if field is None:
                raise FillError(f"path {path!r}: {target.DESCRIPTOR.name} has no field {segment}")
            if last and field.message_type is None and not field.is_repeated:
                setattr(target, segment, _converted(path, field, what, value))
                return
            target = getattr(target, segment)
    if not isinstance(target, Message) or target.DESCRIPTOR.name != "FeatureValue":
        raise FillError(f"path {path!r}: does not end at a value")
    if what not in _MEMBERS:
        raise FillError(f"path {path!r}: a FeatureValue holds no {what}")
    member = _MEMBERS[what]
    if what in ("floats", "int64s"):
        target.ClearField(member)
        array = getattr(target, member)
        array.SetInParent()
        array.values.extend(value)
    else:
        setattr(target, member, value)


def _element_field(field: FieldDescriptor) -> FieldDescriptor:
    """What an index into `field` gives: a map's value, or the field itself where it is a list."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return field.message_type.fields_by_name["value"]
    return field


# What is put into a field of bytes: texts as UTF-8, numbers as a tensor holds them (floats are bits here).
_PACKED = {"float": "<I", "double": "<Q", "int64": "<q", "floats": "<{}I", "int64s": "<{}q"}


def _packed(what: str, value: Any) -> bytes:
    if what == "bytes":
        data: bytes = value
        return data
    if what == "text":
        return str(value).encode()
    values = value if isinstance(value, list) else [value]
    return struct.pack(_PACKED[what].format(len(values)), *values)


def _converted(path: str, field: FieldDescriptor, what: str, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _packed(what, value)
    fits = {
        FieldDescriptor.TYPE_STRING: ("text",),
        FieldDescriptor.TYPE_FIXED32: ("float",),
        FieldDescriptor.TYPE_FIXED64: ("double",),
        FieldDescriptor.TYPE_INT64: ("int64",),
        FieldDescriptor.TYPE_INT32: ("int64",),
        FieldDescriptor.TYPE_UINT64: ("int64",),
    }.get(field.type, ())
    if what not in fits:
        raise FillError(f"path {path!r}: {field.name} cannot hold a {what}")
    return value
