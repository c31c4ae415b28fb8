# SPDX-License-Identifier: Apache-2.0
"""Compares values of expected and given responses, bit for bit unless a tolerance says otherwise.

All messages are those of `bits`: floats are integers here.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from concord_proto.inference.v1 import tensor_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from concord_conformance.bits import double_value, float_value

__all__ = [
    "Closeness",
    "clip",
    "double_problem",
    "feature_map_problems",
    "float_map_problems",
    "float_problem",
    "json_problems",
    "plain",
    "tensor_map_problems",
]

_MOST_PROBLEMS = 5


@dataclass(frozen=True)
class Closeness:
    """How near a number must be; all zero is the same bits."""

    absolute: float = 0.0
    relative: float = 0.0
    any_nan: bool = False

    def holds(self, expected: float, got: float) -> bool:
        """Whether a number that has other bits will do."""
        if math.isnan(expected):
            return self.any_nan and math.isnan(got)
        if self.absolute == 0 and self.relative == 0:
            return False
        if math.isnan(got) or math.isinf(expected) or math.isinf(got):
            return expected == got
        return abs(got - expected) <= self.absolute + self.relative * abs(expected)


def float_problem(path: str, expected: int, got: int, closeness: Closeness) -> list[str]:
    """Compares two 32-bit floats by their bits."""
    if expected == got or closeness.holds(float_value(expected), float_value(got)):
        return []
    return [f"{path}: expected {_float(expected)}, got {_float(got)}"]


def double_problem(path: str, expected: int, got: int, closeness: Closeness) -> list[str]:
    """Compares two 64-bit floats by their bits."""
    if expected == got or closeness.holds(double_value(expected), double_value(got)):
        return []
    return [f"{path}: expected {_double(expected)}, got {_double(got)}"]


def float_map_problems(
    path: str, expected: Mapping[str, int], got: Mapping[str, int], closeness: Closeness
) -> list[str]:
    """Compares two maps of 32-bit floats: the same keys, and every value."""
    problems = _key_problems(path, expected, got)
    for key in sorted(set(expected) & set(got)):
        problems += float_problem(f'{path}["{key}"]', expected[key], got[key], closeness)
    return _shortened(problems)


def feature_map_problems(
    path: str, expected: Mapping[str, Any], got: Mapping[str, Any], closeness: Closeness
) -> list[str]:
    """Compares two maps of FeatureValue: the same keys, the same kinds, and every value."""
    problems = _key_problems(path, expected, got)
    for key in sorted(set(expected) & set(got)):
        problems += _feature_problems(f'{path}["{key}"]', expected[key], got[key], closeness)
    return _shortened(problems)


def tensor_map_problems(
    path: str, expected: Mapping[str, Any], got: Mapping[str, Any], closeness: Closeness
) -> list[str]:
    """Compares two maps of Tensor: the same keys, dtypes and shapes, and every element."""
    problems = _key_problems(path, expected, got)
    for key in sorted(set(expected) & set(got)):
        wanted, given = expected[key], got[key]
        here = f'{path}["{key}"]'
        if wanted.dtype != given.dtype:
            problems.append(f"{here}.dtype: expected {_shown(wanted.dtype)}, got {_shown(given.dtype)}")
            continue
        for name in ("shape", "strings"):
            problems += _equal_problem(f"{here}.{name}", list(getattr(wanted, name)), list(getattr(given, name)))
        if wanted.data != given.data:
            problems += _data_problems(f"{here}.data", wanted.dtype, wanted.data, given.data, closeness)
    return _shortened(problems)


# How an element of a DataType is read from its bytes, where a tolerance has a meaning; a bfloat16 is half a float32.
_FLOATS: dict[int, str] = {
    tensor_pb2.DATA_TYPE_FLOAT: "f",
    tensor_pb2.DATA_TYPE_DOUBLE: "d",
    tensor_pb2.DATA_TYPE_FLOAT16: "e",
    tensor_pb2.DATA_TYPE_BFLOAT16: "f",
}


def _data_problems(path: str, dtype: int, expected: bytes, got: bytes, closeness: Closeness) -> list[str]:
    """Compares the bytes of two tensors that differ: floats may be near enough."""
    if len(expected) != len(got) or dtype not in _FLOATS or closeness == Closeness():
        return [f"{path}: expected {_hex(expected)}, got {_hex(got)}"]
    width = 2 if dtype == tensor_pb2.DATA_TYPE_BFLOAT16 else struct.calcsize(_FLOATS[dtype])
    if len(expected) % width:
        return [f"{path}: expected whole elements of {width} bytes, got {len(got)} bytes"]
    problems = []
    for start in range(0, len(expected), width):
        a, b = expected[start : start + width], got[start : start + width]
        if a != b and not closeness.holds(wanted := _element(dtype, a), given := _element(dtype, b)):
            problems.append(f"{path}[{start // width}]: expected {wanted!r} (0x{a.hex()}), got {given!r} (0x{b.hex()})")
        if len(problems) > _MOST_PROBLEMS:
            break
    return problems


def _element(dtype: int, data: bytes) -> float:
    widened = b"\0\0" + data if dtype == tensor_pb2.DATA_TYPE_BFLOAT16 else data
    value: float = struct.unpack("<" + _FLOATS[dtype], widened)[0]
    return value


def _feature_problems(path: str, expected: Any, got: Any, closeness: Closeness) -> list[str]:
    wanted, given = expected.WhichOneof("value"), got.WhichOneof("value")
    if wanted != given:
        return [f"{path}: expected a {wanted}, got {'a ' + given if given else 'no value'}"]
    if wanted is None:
        return []
    expected_value, got_value = getattr(expected, wanted), getattr(got, wanted)
    match wanted:
        case "float_value":
            return float_problem(path, expected_value, got_value, closeness)
        case "double_value":
            return double_problem(path, expected_value, got_value, closeness)
        case "float_array":
            return _list_problems(
                path,
                list(expected_value.values),
                list(got_value.values),
                lambda where, a, b: float_problem(where, a, b, closeness),
            )
        case "int64_array" | "string_array":
            return _list_problems(path, list(expected_value.values), list(got_value.values), _equal_problem)
        case _:
            return _equal_problem(path, expected_value, got_value)


def _list_problems(
    path: str, expected: Sequence[Any], got: Sequence[Any], compare: Callable[[str, Any, Any], list[str]]
) -> list[str]:
    if len(expected) != len(got):
        return [f"{path}: expected {len(expected)} values, got {len(got)}"]
    if expected == got:
        return []
    problems: list[str] = []
    for index, (a, b) in enumerate(zip(expected, got, strict=True)):
        problems += compare(f"{path}[{index}]", a, b)
        if len(problems) > _MOST_PROBLEMS:
            break
    return problems


def _equal_problem(path: str, expected: Any, got: Any) -> list[str]:
    return [] if expected == got else [f"{path}: expected {_shown(expected)}, got {_shown(got)}"]


def _key_problems(path: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> list[str]:
    problems = [f"{path}: {key!r} is missing" for key in sorted(set(expected) - set(got))]
    problems += [f"{path}: {key!r} is not expected" for key in sorted(set(got) - set(expected))]
    return problems


def _shortened(problems: list[str]) -> list[str]:
    if len(problems) <= _MOST_PROBLEMS:
        return problems
    return [*problems[:_MOST_PROBLEMS], f"and {len(problems) - _MOST_PROBLEMS} more"]


def _float(bits: int) -> str:
    return f"{float_value(bits)!r} (0x{bits:08x})"


def _double(bits: int) -> str:
    return f"{double_value(bits)!r} (0x{bits:016x})"


def _hex(data: bytes) -> str:
    return f"{len(data)} bytes {data[:32].hex(' ', 4)}{'...' if len(data) > 32 else ''}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}... ({len(value)} long)"


def plain(message: Message) -> Any:
    """The message as JSON values with the proto's field names."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def json_problems(path: str, wanted: Any, got: Any) -> list[str]:
    """Where two JSON values differ."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        problems = []
        for key in sorted(set(wanted) | set(got)):
            if key not in got:
                problems.append(f"{path}.{key}: expected {clip(wanted[key])}, got nothing")
            elif key not in wanted:
                problems.append(f"{path}.{key}: expected nothing, got {clip(got[key])}")
            else:
                problems += json_problems(f"{path}.{key}", wanted[key], got[key])
        return problems
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        return [
            problem
            for index, (a, b) in enumerate(zip(wanted, got, strict=True))
            for problem in json_problems(f"{path}[{index}]", a, b)
        ]
    return [] if wanted == got else [f"{path}: expected {clip(wanted)}, got {clip(got)}"]


def clip(value: Any) -> str:
    """The value as JSON, shortened for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} long)"
