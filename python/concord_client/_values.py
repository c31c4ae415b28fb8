# SPDX-License-Identifier: Apache-2.0
"""Python values <-> FeatureValue.

The kind of a FeatureValue follows from the feature's type where the value can become it without changing its meaning:
an int for a FLOAT or DOUBLE, an integral float for an INT64. Any other value goes as its own kind, and the server says
what it expected: it alone knows the model for sure, and it lists everything that is wrong with a request at once.
Refused here is only what cannot be sent at all, or what the flat arrays of the wire would silently disfigure (ragged or
transposed ones).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from concord_proto.inference.v1 import inference_service_pb2, model_pb2

FeatureValue = inference_service_pb2.FeatureValue

_FLOAT = model_pb2.FEATURE_TYPE_FLOAT
_DOUBLE = model_pb2.FEATURE_TYPE_DOUBLE
_INT64 = model_pb2.FEATURE_TYPE_INT64
_BOOL = model_pb2.FEATURE_TYPE_BOOL
_STRING = model_pb2.FEATURE_TYPE_STRING

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_INT64_RANGE = f"an integer from {_INT64_MIN} to {_INT64_MAX}"
# numpy has at most 64 axes; deeper nesting is a list that holds itself.
_MAX_AXES = 64
_PLAIN: frozenset[type] = frozenset((str, bool, int, float))


class SupportsToList(Protocol):
    """numpy's scalars and arrays, pandas' and polars' series, array.array, torch's tensors on the CPU."""

    def tolist(self) -> Any:
        """The elements as Python values."""


Value: TypeAlias = FeatureValue | str | bool | int | float | SupportsToList | Sequence["Value"]
"""What a feature takes. A FeatureValue is sent untouched."""

Features: TypeAlias = Mapping[str, Value]
"""One row: a value for each feature, by name."""


class Slot(NamedTuple):
    """What a model expects of one feature: a FeatureType and a shape, () for a scalar."""

    type: int
    shape: tuple[int, ...]


_UNKNOWN = Slot(model_pb2.FEATURE_TYPE_UNSPECIFIED, ())


class RefusedError(Exception):
    """A value that cannot be sent: an ErrorReason's name and what was expected and came."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text


def write_value(target: FeatureValue, value: Value, slot: Slot | None) -> None:
    """Sets target to value, as the feature described by slot (None: unknown) wants it. Raises RefusedError."""
    if isinstance(value, FeatureValue):
        target.CopyFrom(value)
        return
    if not isinstance(value, (str, int, float)):
        if getattr(value, "shape", None) == ():
            value = _element(value)
        else:
            _write_array(target, value, slot or _UNKNOWN)
            return
    # A scalar of an array's type is no array: it goes as its own kind and the server refuses it.
    wanted = slot.type if slot is not None and not slot.shape else _UNKNOWN.type
    if isinstance(value, str):
        target.string_value = _text(value)
    elif isinstance(value, bool):
        target.bool_value = value
    elif wanted == _DOUBLE:
        target.double_value = _float(value)
    elif wanted == _FLOAT:
        target.float_value = _float(value)
    elif isinstance(value, int):
        target.int64_value = _int64(value)
    elif wanted == _INT64 and _is_int64(value):
        target.int64_value = int(value)
    else:
        target.float_value = value


def read_value(value: FeatureValue) -> Any:
    """The Python value of a FeatureValue: bool, int, float, str or a list of them; None where none is set."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    held = getattr(value, kind)
    return list(held.values) if kind.endswith("_array") else held


def quote(name: str) -> str:
    """A name as messages show it: quoted as in JSON, at most 64 characters of it."""
    shown = name if len(name) <= 64 else name[:64] + "..."
    return json.dumps(shown, ensure_ascii=False)


def _write_array(target: FeatureValue, value: Any, slot: Slot) -> None:
    flat, shape = _flatten(value, 0)
    if len(shape) > 1 and slot.shape and not _fits(shape, slot.shape):
        raise RefusedError(
            "FEATURE_SHAPE_MISMATCH", f"expected values of shape {list(slot.shape)}, got shape {list(shape)}"
        )
    kinds: set[type] = set(map(type, flat))
    if not kinds <= _PLAIN:  # numpy's scalars in a list, enums
        flat = [_element(element) for element in flat]
        kinds = {_kind(element) for element in flat}
    if len(kinds) > 1 and kinds != {int, float}:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise RefusedError("FEATURE_TYPE_MISMATCH", f"expected values of one type, got {names} together")
    if kinds == {str} or (not kinds and slot.type == _STRING):
        target.string_array.SetInParent()
        target.string_array.values.extend(map(_text, flat))
    elif _goes_as_integers(flat, kinds, slot.type):
        target.int64_array.SetInParent()  # also where there is no element
        target.int64_array.values.extend(_int64(int(element)) for element in flat)
    else:
        target.float_array.SetInParent()
        target.float_array.values.extend(map(_float, flat))


def _goes_as_integers(flat: list[Any], kinds: set[type], wanted: int) -> bool:
    if not kinds:
        return wanted in (_INT64, _BOOL)
    if kinds == {int}:
        return wanted not in (_FLOAT, _DOUBLE)
    # An array of booleans is one of 0 and 1 on the wire.
    return kinds == {bool} or (wanted == _INT64 and all(map(_is_int64, flat)))


def _flatten(value: Any, depth: int) -> tuple[list[Any], tuple[int, ...]]:
    """The elements of an array, row-major, and its shape."""
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if hasattr(value, "reshape") and hasattr(value, "tolist"):
        return value.reshape(-1).tolist(), tuple(value.shape)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)) or depth >= _MAX_AXES:
        raise RefusedError("FEATURE_TYPE_MISMATCH", f"expected a value that can be sent, got {_type_name(value)}")
    if not any(_is_array(element) for element in value):
        return list(value), (len(value),)
    parts = [_flatten(element, depth + 1) if _is_array(element) else ([], ()) for element in value]
    shapes = {shape for _, shape in parts}
    if len(shapes) > 1:
        raise RefusedError("FEATURE_SHAPE_MISMATCH", "expected an array, got lists of different lengths")
    return [element for flat, _ in parts for element in flat], (len(value), *shapes.pop())


def _is_array(value: Any) -> bool:
    if isinstance(value, (str, int, float)) or getattr(value, "shape", None) == ():
        return False
    return isinstance(value, Sequence) or hasattr(value, "tolist") or hasattr(value, "to_numpy")


def _element(value: Any) -> str | bool | int | float:
    if isinstance(value, (str, int, float)):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        plain = value.item()
        if isinstance(plain, (str, int, float)):
            return plain
    raise RefusedError("FEATURE_TYPE_MISMATCH", f"expected a value that can be sent, got {_type_name(value)}")


def _kind(value: str | bool | int | float) -> type:
    for kind in (str, bool, int):
        if isinstance(value, kind):
            return kind
    return float


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if len(shape) == len(wanted):
        return all(want in (-1, length) for length, want in zip(shape, wanted, strict=True))
    # Axes of length 1 change no order: the row X[:1] of a matrix is as good as X[0].
    return [n for n in shape if n != 1] == [n for n in wanted if n != 1]


def _is_int64(value: float) -> bool:
    # A float of 2**63 is the first one too large.
    return isinstance(value, int) or (value.is_integer() and _INT64_MIN <= value < 2.0**63)


def _int64(value: int) -> int:
    if _INT64_MIN <= value <= _INT64_MAX:
        return int(value)
    raise RefusedError("FEATURE_OUT_OF_RANGE", f"expected {_INT64_RANGE}, got {_show(value)}")


def _float(value: float) -> float:
    try:
        # protobuf rounds to the nearest float32, as numpy does; beyond its range that is an infinity.
        return float(value)
    except OverflowError:
        raise RefusedError("FEATURE_OUT_OF_RANGE", f"expected a float, got {_show(int(value))}") from None


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RefusedError("FEATURE_TYPE_MISMATCH", "expected text, got surrogates that are none") from None
    # Not str(value): an enum that is a str would give its name.
    return str.__str__(value)


def _show(value: int) -> str:
    return str(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"


def _type_name(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
