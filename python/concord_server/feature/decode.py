# SPDX-License-Identifier: Apache-2.0
"""Features to tensors: one request is one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import inference_service_pb2, model_pb2

from concord_server.fault import Reason, Violation, quote
from concord_server.tensor import DType, Tensor, bits_of_bfloat16, bits_of_float16

if TYPE_CHECKING:
    from concord_server.feature.plan import Input

__all__ = ["Row", "Source", "missing", "unknown"]

FeatureValue = inference_service_pb2.FeatureValue

_FLOAT = model_pb2.FEATURE_TYPE_FLOAT
_DOUBLE = model_pb2.FEATURE_TYPE_DOUBLE
_INT64 = model_pb2.FEATURE_TYPE_INT64
_BOOL = model_pb2.FEATURE_TYPE_BOOL
_STRING = model_pb2.FEATURE_TYPE_STRING

# The kinds of FeatureValue that a type takes.
_SCALAR_KINDS = {
    _FLOAT: ("float_value",),
    _DOUBLE: ("double_value", "float_value"),
    _INT64: ("int64_value",),
    _BOOL: ("bool_value",),
    _STRING: ("string_value",),
}
_ARRAY_KINDS = {
    _FLOAT: "float_array",
    _DOUBLE: "float_array",
    _INT64: "int64_array",
    _BOOL: "int64_array",
    _STRING: "string_array",
}
_NOUNS = {_FLOAT: "float", _DOUBLE: "double", _INT64: "integer", _BOOL: "bool", _STRING: "string"}

# What a row is filled in before it takes the tensor's own form: 16-bit floats are rounded all at once.
_STAGED = {DType.FLOAT16: np.dtype("<f4"), DType.BFLOAT16: np.dtype("<f4")}
_ROUNDED = {DType.FLOAT16: bits_of_float16, DType.BFLOAT16: bits_of_bfloat16}


class Row:
    """The tensors of one request while they are being filled. Every element is bound, so none is cleared first."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self._arrays: list[npt.NDArray[Any] | None] = [None] * len(inputs)
        self._flat: list[npt.NDArray[Any] | None] = [None] * len(inputs)
        for i, given in enumerate(inputs):
            if -1 not in given.shape:
                self.make(i, given.shape)

    def make(self, index: int, shape: Sequence[int]) -> npt.NDArray[Any]:
        """Makes an input's tensor and gives it flat."""
        dtype = self._inputs[index].spec.dtype
        array = np.empty(shape, _STAGED.get(dtype, dtype.storage))
        self._arrays[index] = array
        flat = self._flat[index] = array.reshape(-1)
        return flat

    def flat(self, index: int) -> npt.NDArray[Any]:
        """An input's tensor, flat."""
        flat = self._flat[index]
        if flat is None:
            raise AssertionError("an open input is made by the feature that fills it")
        return flat

    def tensors(self) -> list[Tensor]:
        """The filled tensors, one for each input."""
        made = []
        for given, array in zip(self._inputs, self._arrays, strict=True):
            if array is None:
                raise AssertionError("every input is filled by a feature")
            dtype = given.spec.dtype
            rounded = _ROUNDED.get(dtype)
            made.append(Tensor(dtype, rounded(array) if rounded else array))
        return made


@dataclass(slots=True)
class Source:
    """A feature and where its values go."""

    public: model_pb2.Feature
    name: str
    type: model_pb2.FeatureType
    scalar: bool
    count: int
    """Values of an array; -1 where the shape is open."""
    unit: int
    """With an open shape: the product of the other lengths."""
    dtype: DType
    """Of the input."""
    input: int
    """Index of the graph's input."""
    column: int
    """The first element in the input's row."""
    default: FeatureValue | None
    shape: tuple[int, ...] = ()
    """Of the input's tensor for one row; -1 on the axis whose length the request gives."""
    plain: bool = field(init=False)
    """Whether it takes a float as it comes, into a tensor of floats."""

    def __post_init__(self) -> None:
        self.plain = self.scalar and self.type in (_FLOAT, _DOUBLE)

    most: int = 0
    """With an open shape: its greatest length, 0 where nothing says."""

    def put(self, value: FeatureValue, row: Row) -> Violation | None:
        """Writes a feature's value to its place, or says what is wrong with it."""
        kind = value.WhichOneof("value")
        if self.scalar:
            if kind not in _SCALAR_KINDS[self.type]:
                return self._mistyped(kind)
            return self._put_scalar(kind, value, row.flat(self.input))
        if kind != _ARRAY_KINDS[self.type]:
            return self._mistyped(kind)
        values = getattr(value, kind).values
        length = len(values)
        if self.count >= 0:
            if length != self.count:
                return self._violation(Reason.FEATURE_SHAPE_MISMATCH, f"expected {self.count} values, got {length}")
            flat = row.flat(self.input)
        else:
            if length % self.unit if self.unit else length:
                text = f"expected a multiple of {self.unit} values, got {length}"
                return self._violation(Reason.FEATURE_SHAPE_MISMATCH, text)
            open_length = length // self.unit if self.unit else 0
            if self.most and open_length > self.most:
                text = f"expected at most {self.most * self.unit} values, got {length}"
                return self._violation(Reason.FEATURE_SHAPE_MISMATCH, text)
            flat = row.make(self.input, [open_length if axis == -1 else axis for axis in self.shape])
        return self._put_array(value, flat[self.column : self.column + length])

    def _put_scalar(self, kind: str | None, value: FeatureValue, flat: npt.NDArray[Any]) -> Violation | None:
        if kind == "float_value":
            number = value.float_value
            if number == number or self.dtype is DType.DOUBLE:
                flat[self.column] = number
            else:
                # A float of Python is a double: on the way through it a NaN would turn quiet.
                bits = value.SerializeToString()[1:5]
                flat[self.column : self.column + 1].view(np.uint32)[0] = int.from_bytes(bits, "little")
        elif kind == "int64_value":
            integer = value.int64_value
            low, high = _LIMITS[self.dtype]
            if not low <= integer <= high:
                return self._out_of_range(integer)
            flat[self.column] = integer
        elif kind == "double_value":
            flat[self.column] = value.double_value
        elif kind == "bool_value":
            flat[self.column] = value.bool_value
        else:
            flat[self.column] = value.string_value.encode()
        return None

    def _put_array(self, value: FeatureValue, target: npt.NDArray[Any]) -> Violation | None:
        if self.type in (_FLOAT, _DOUBLE):
            with np.errstate(invalid="ignore"):  # a signalling NaN may be widened like any value
                target[:] = _floats(value.float_array)
        elif self.type == _STRING:
            target[:] = [text.encode() for text in value.string_array.values]
        else:
            integers = np.fromiter(value.int64_array.values, np.int64, len(target))
            low, high = _LIMITS[self.dtype]
            # Bounds beyond 64 bits bound nothing here.
            outside = (integers < low) | (integers > min(high, _MAX_INT64))
            if outside.any():
                return self._out_of_range(int(integers[outside][0]))
            target[:] = integers
        return None

    def expected(self) -> str:
        """What the feature takes, in a message: "a float", "64 floats", "floats"."""
        noun = _NOUNS[self.type]
        if self.scalar:
            return f"an {noun}" if noun == "integer" else f"a {noun}"
        return f"{noun}s" if self.count < 0 else f"{self.count} {noun}s"

    def _mistyped(self, kind: str | None) -> Violation:
        return self._violation(Reason.FEATURE_TYPE_MISMATCH, f"expected {self.expected()}, got {kind or 'no value'}")

    def _out_of_range(self, integer: int) -> Violation:
        low, high = _LIMITS[self.dtype]
        text = f"expected an integer from {low} to {high}, got {integer}"
        return self._violation(Reason.FEATURE_OUT_OF_RANGE, text)

    def _violation(self, reason: Reason, text: str) -> Violation:
        return _violation(self.name, reason, text)


def missing(source: Source) -> Violation:
    """A required feature that the request does not hold."""
    return _violation(source.name, Reason.FEATURE_MISSING, f"expected {source.expected()}, got nothing")


def unknown(name: str) -> Violation:
    """A feature that the model does not have."""
    return _violation(name, Reason.FEATURE_UNKNOWN, "the model has no such feature")


def _violation(name: str, reason: Reason, text: str) -> Violation:
    quoted = quote(name)
    return Violation(reason, f"features[{quoted}]", f"feature {quoted}: {text}")


def _floats(array: inference_service_pb2.FloatArray) -> npt.NDArray[np.float32]:
    """The values, bit for bit: taken from the packed wire form, not through Python's doubles."""
    length = 4 * len(array.values)
    data = array.SerializeToString()
    tag = 1 + (max(length.bit_length(), 1) + 6) // 7 if length else 0
    if len(data) != tag + length:
        # Fields that a newer client added came along.
        array = inference_service_pb2.FloatArray.FromString(data)
        array.DiscardUnknownFields()
        data = array.SerializeToString()
    return np.frombuffer(data, np.dtype("<f4"), offset=len(data) - length)


_MAX_INT64 = (1 << 63) - 1


def _limits(dtype: DType) -> tuple[int, int]:
    if dtype is DType.BOOL:
        return 0, 1
    information = np.iinfo(dtype.storage)
    return int(information.min), int(information.max)


# The smallest and largest integers that a tensor type holds.
_LIMITS = {dtype: _limits(dtype) for dtype in DType if dtype.is_integer or dtype is DType.BOOL}
