# SPDX-License-Identifier: Apache-2.0
"""Tensors in memory: types, shapes, sizes, and the way from and to the wire."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import tensor_pb2

from concord_server.fault import Reason, Violation

__all__ = [
    "FRAMED_STRING",
    "DType",
    "Spec",
    "Tensor",
    "bits_of_bfloat16",
    "bits_of_float16",
    "dtype_name",
    "elements",
    "float32_of",
    "from_wire",
    "join",
    "shape_text",
    "to_wire",
]

# No model has more axes than this, and no array of numpy.
_MAX_RANK = 64
_MAX_ELEMENTS = (1 << 63) - 1
# What a string counts in a shape's bytes.
_STRING_SIZE = 8
FRAMED_STRING = 2
"""The least that frames a string on the wire: its tag and its length."""


class DType(enum.IntEnum):
    """The types of elements that are served; the numbers are those of inference.v1.DataType and of ONNX."""

    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    BFLOAT16 = 16

    @property
    def storage(self) -> np.dtype[Any]:
        """The numpy type that holds the elements: 16-bit floats as their bits, strings as objects (bytes)."""
        return _STORAGE[self]

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point number."""
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether it is an integer, signed or not."""
        return self in _INTEGERS


# 16-bit floats are kept as bits: numpy has no bfloat16, and its float16 would quieten NaNs.
_STORAGE: dict[DType, np.dtype[Any]] = {
    DType.FLOAT: np.dtype("<f4"),
    DType.UINT8: np.dtype("u1"),
    DType.INT8: np.dtype("i1"),
    DType.UINT16: np.dtype("<u2"),
    DType.INT16: np.dtype("<i2"),
    DType.INT32: np.dtype("<i4"),
    DType.INT64: np.dtype("<i8"),
    DType.STRING: np.dtype(object),
    DType.BOOL: np.dtype("?"),
    DType.FLOAT16: np.dtype("<u2"),
    DType.DOUBLE: np.dtype("<f8"),
    DType.UINT32: np.dtype("<u4"),
    DType.UINT64: np.dtype("<u8"),
    DType.BFLOAT16: np.dtype("<u2"),
}
_FLOATS = frozenset({DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE})
_INTEGERS = frozenset(
    {
        DType.UINT8,
        DType.INT8,
        DType.UINT16,
        DType.INT16,
        DType.INT32,
        DType.INT64,
        DType.UINT32,
        DType.UINT64,
    }
)

_NAMES = {
    0: "undefined", 1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string",
    9: "bool", 10: "float16", 11: "double", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
    16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4",
    22: "int4", 23: "float4e2m1", 24: "uint2", 25: "int2",
}  # fmt: skip


def dtype_name(number: int) -> str:
    """ONNX's name of a type, served or not."""
    return _NAMES.get(number, f"type {number}")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense array of any rank. Rank 0 is one element; an axis of length 0 makes it empty."""

    dtype: DType
    array: npt.NDArray[Any]
    """Of the dtype's storage type."""

    @property
    def nbytes(self) -> int:
        """The least that the elements take on the wire: the data of numbers, the bytes of strings with 2 for each."""
        if self.dtype is not DType.STRING:
            return self.array.nbytes
        # Not through .flat, which has no more than 32 axes.
        return sum(map(len, self.array.reshape(-1).tolist())) + FRAMED_STRING * self.array.size


@dataclass(frozen=True, slots=True)
class Spec:
    """What a graph says of one of its inputs or outputs."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    """-1 where the graph leaves a length open."""
    unranked: bool = False
    """Not even the rank is known; the shape is empty."""
    longest: tuple[int, ...] = ()
    """Greatest length of each axis of an input, 0 where nothing says; empty where nothing is said of any."""

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape fits."""
        if self.unranked:
            return True
        if len(shape) != len(self.shape):
            return False
        if self.longest and any(most and length > most for length, most in zip(shape, self.longest, strict=True)):
            return False
        return all(wanted in (-1, length) for length, wanted in zip(shape, self.shape, strict=True))

    def open_shape(self) -> str:
        """The shape in a message, with "?" for an open axis and "<=512" for one that is limited."""
        longest = self.longest or (0,) * len(self.shape)
        lengths = [
            str(length) if length != -1 else f"<={most}" if most else "?"
            for length, most in zip(self.shape, longest, strict=True)
        ]
        return f"[{', '.join(lengths)}]"

    def describe(self) -> str:
        """The spec in a message: `float [-1, 30]`."""
        name = dtype_name(self.dtype)
        return f"{name} of unknown rank" if self.unranked else f"{name} {shape_text(self.shape)}"


def shape_text(shape: Sequence[int]) -> str:
    """A shape in a message: `[2, 3]`."""
    return "[" + ", ".join(str(length) for length in shape) + "]"


def elements(shape: Sequence[int]) -> int | None:
    """The product of a shape's lengths, 1 for rank 0; None where a length is negative or the product 2^63 or more."""
    product, empty = 1, False
    for length in shape:
        if length < 0:
            return None
        if length == 0:
            empty = True
            continue
        product *= length
        if product > _MAX_ELEMENTS:
            return None
    return 0 if empty else product


def join(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Rows one below the other along axis 0; all have the same inputs, types and shapes, and length 1 on axis 0."""
    return [
        Tensor(head.dtype, np.concatenate([row[i].array for row in rows], axis=0)) for i, head in enumerate(rows[0])
    ]


def bits_of_float16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds to the nearest binary16, ties to even. What is too large becomes an infinity; NaN stays NaN.

    Written in integers: numpy's own conversion raises warnings and may keep a NaN signalling.
    """
    bits = array.view(np.uint32)
    sign = (bits >> 16) & 0x8000
    magnitude = bits & 0x7FFFFFFF
    fraction = bits & 0x7FFFFF

    # Normal results: the exponent is moved from bias 127 to 15 before rounding. A carry into it is the right answer.
    rebased = np.maximum(magnitude, 0x38800000) - 0x38000000
    normal = _round_even(rebased >> 13, rebased & 0x1FFF, np.uint32(0x1000))

    # Subnormal results: the implicit one becomes explicit and moves down.
    exponent = magnitude >> 23
    shift = np.clip(126 - exponent.astype(np.int64), 14, 31).astype(np.uint32)
    explicit = fraction | 0x800000
    one = np.uint32(1)
    subnormal = _round_even(explicit >> shift, explicit & ((one << shift) - one), one << (shift - one))

    half = np.where(magnitude >= 0x38800000, normal, subnormal)
    half = np.where(magnitude < 0x33000000, 0, half)  # less than half of the least subnormal
    half = np.where(magnitude >= 0x47800000, 0x7C00, half)  # 2^16 and more
    half = np.where(magnitude > 0x7F800000, 0x7E00 | (fraction >> 13), half)  # quiet, with the payload's upper bits
    # numpy makes a scalar of what it computes from rank 0.
    return np.asarray(sign | half, np.uint16)


def bits_of_bfloat16(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds to the nearest bfloat16, ties to even. What is too large becomes an infinity; NaN stays NaN."""
    bits = array.view(np.uint32)
    rounded = _round_even(bits >> 16, bits & 0xFFFF, np.uint32(0x8000))
    quiet = (bits >> 16) | 0x40
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, quiet, rounded).astype(np.uint16)


def _round_even(
    kept: npt.NDArray[Any], rest: npt.NDArray[Any], half: npt.NDArray[Any] | np.uint32
) -> npt.NDArray[np.uint32]:
    up = (rest > half) | ((rest == half) & ((kept & 1) == 1))
    return np.asarray(kept + up, dtype=np.uint32)


def float32_of(tensor: Tensor) -> npt.NDArray[np.float32]:
    """A numeric tensor's values as float32: exact from the narrower floats, else rounded to nearest, ties to even."""
    array = tensor.array
    if tensor.dtype is DType.FLOAT:
        return array
    if tensor.dtype is DType.BFLOAT16:
        return np.asarray(array.astype(np.uint32) << 16).view(np.float32)
    if tensor.dtype is DType.FLOAT16:
        return _float32_of_float16(array)
    with np.errstate(over="ignore", invalid="ignore"):  # a large double becomes an infinity, as it must
        return array.astype(np.float32)


def _float32_of_float16(half: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    bits = half.astype(np.uint32)
    sign = (bits & 0x8000) << 16
    exponent = (bits >> 10) & 0x1F
    fraction = bits & 0x3FF
    normal = ((exponent + (127 - 15)) << 23) | (fraction << 13)
    special = 0x7F800000 | (fraction << 13)
    subnormal = (fraction.astype(np.float32) / np.float32(1 << 24)).view(np.uint32)
    widened = np.where(exponent == 0x1F, special, np.where(exponent == 0, subnormal, normal))
    return np.asarray(sign | widened, np.uint32).view(np.float32)


def from_wire(message: tensor_pb2.Tensor, spec: Spec) -> Tensor | Violation:
    """The tensor that a message holds for an input of the graph, or the first thing wrong with it.

    It is judged by itself first (dtype, then shape, then data, so that nothing is allocated before the lengths fit),
    then as this input. The violation's field is the part of the tensor, and its message does not name the input: the
    caller puts both before them.
    """
    bad = Violation

    wanted = _upper(spec.dtype)
    try:
        dtype = DType(message.dtype)
    except ValueError:
        got = str(message.dtype) if message.dtype else "no dtype"
        return bad(Reason.TENSOR_DTYPE_MISMATCH, ".dtype", f"expected dtype {wanted}, got {got}")
    shape = tuple(message.shape)
    if len(shape) > _MAX_RANK:
        return bad(Reason.TENSOR_SHAPE_MISMATCH, ".shape", f"expected at most {_MAX_RANK} axes, got {len(shape)}")
    if any(length < 0 for length in shape):
        return bad(Reason.TENSOR_SHAPE_MISMATCH, ".shape", f"expected lengths of at least 0, got {shape_text(shape)}")
    count = elements(shape)
    size = _STRING_SIZE if dtype is DType.STRING else dtype.storage.itemsize
    if count is None or not _holdable(shape, size):
        return bad(Reason.TENSOR_SHAPE_MISMATCH, ".shape", f"expected fewer elements, got {shape_text(shape)}")
    data = message.data  # a copy of the message's, made once
    if wrong := _wrong_data(dtype, data, message.strings, count, size):
        part, text = wrong
        return bad(Reason.TENSOR_DATA_INVALID, part, text)
    if dtype is not spec.dtype:
        return bad(Reason.TENSOR_DTYPE_MISMATCH, ".dtype", f"expected dtype {wanted}, got {_upper(dtype)}")
    if not spec.takes(shape):
        text = f"expected shape {spec.open_shape()}, got {shape_text(shape)}"
        return bad(Reason.TENSOR_SHAPE_MISMATCH, ".shape", text)
    if dtype is not DType.STRING:
        return Tensor(dtype, np.frombuffer(data, dtype.storage).reshape(shape))
    array = np.empty(count, dtype=object)
    array[:] = message.strings
    return Tensor(dtype, array.reshape(shape))


def _holdable(shape: Sequence[int], size: int) -> bool:
    """Whether an array of the shape, axes of length 0 left out, would have fewer than 2^63 bytes.

    numpy and ONNX Runtime multiply the lengths of an empty tensor, too.
    """
    for length in shape:
        size *= length or 1
    return size <= _MAX_ELEMENTS


def _wrong_data(dtype: DType, data: bytes, strings: Sequence[bytes], count: int, size: int) -> tuple[str, str] | None:
    """Which part of the data does not fit the tensor's own dtype and shape, and how."""
    if dtype is DType.STRING:
        if data:
            return ".data", f"expected no data with dtype STRING, got {len(data)} bytes"
        return (".strings", f"expected {count} strings, got {len(strings)}") if len(strings) != count else None
    if strings:
        return ".strings", f"expected no strings with dtype {_upper(dtype)}, got {len(strings)}"
    if len(data) != count * size:
        return ".data", f"expected {count * size} bytes of data, got {len(data)}"
    if dtype is DType.BOOL:
        found = np.frombuffer(data, np.uint8)
        if (found > 1).any():
            return ".data", f"expected bools of 0 or 1, got {found[found > 1][0]}"
    return None


def _upper(dtype: DType) -> str:
    """The type's name in inference.v1.DataType."""
    return dtype_name(dtype).upper()


def to_wire(tensor: Tensor, message: tensor_pb2.Tensor) -> None:
    """Fills an empty message with the tensor."""
    message.dtype = tensor.dtype.value  # type: ignore[assignment]
    message.shape.extend(tensor.array.shape)
    if tensor.dtype is DType.STRING:
        message.strings.extend(tensor.array.reshape(-1).tolist())
    else:
        message.data = tensor.array.tobytes()
