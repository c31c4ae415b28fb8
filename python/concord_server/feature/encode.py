# SPDX-License-Identifier: Apache-2.0
"""Output tensors of one row to predictions and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import inference_service_pb2, model_pb2

from concord_server.fault import quote
from concord_server.tensor import DType, Spec, Tensor, dtype_name, float32_of, shape_text

__all__ = ["EncodeError", "OutputSource", "PredictionSource", "encode"]

PredictResponse = inference_service_pb2.PredictResponse
FeatureValue = inference_service_pb2.FeatureValue

_MAX_INT64 = (1 << 63) - 1


class EncodeError(Exception):
    """The graph gave something that its plan has no place for; the text says what."""


@dataclass(frozen=True, slots=True)
class PredictionSource:
    """One element of an output's row, as a float32."""

    public: model_pb2.Prediction
    output: int
    """Index among the wanted outputs."""
    index: int
    """Of the element in the row."""


@dataclass(frozen=True, slots=True)
class OutputSource:
    """One element of an output's row, or all of it."""

    public: model_pb2.Output
    output: int
    """Index among the wanted outputs."""
    index: int
    """Of the element in the row; an array is the whole row."""
    scalar: bool


def encode(
    specs: Sequence[Spec],
    batch_axis: Sequence[bool],
    predictions: Sequence[PredictionSource],
    outputs: Sequence[OutputSource],
    tensors: Sequence[Tensor],
    answer: PredictResponse,
) -> None:
    """Fills `answer` from the wanted outputs of one row, whose specs and batch axes are given.

    Raises EncodeError where the graph broke its word.
    """
    for spec, rows, tensor in zip(specs, batch_axis, tensors, strict=True):
        shape = tensor.array.shape
        if rows and not spec.unranked and (not shape or shape[0] != 1):
            raise EncodeError(f"output {quote(spec.name)}: expected 1 row, got shape {shape_text(shape)}")
        if tensor.dtype != spec.dtype:
            got = dtype_name(tensor.dtype)
            raise EncodeError(f"output {quote(spec.name)}: expected {dtype_name(spec.dtype)}, got {got}")

    flat = [tensor.array.reshape(-1) for tensor in tensors]
    floats: dict[int, npt.NDArray[np.float32]] = {}
    for prediction in predictions:
        at, index = prediction.output, prediction.index
        if index >= len(flat[at]):
            raise _short(specs[at], index, flat[at])
        if at not in floats:
            floats[at] = float32_of(Tensor(tensors[at].dtype, flat[at]))
        number = floats[at].item(index)
        if number == number:
            answer.predictions[prediction.public.name] = number
        else:
            # A float of Python is a double: on the way through it a signalling NaN would turn quiet.
            answer.MergeFromString(_entry(prediction.public.name, floats[at][index : index + 1].tobytes()))
    for output in outputs:
        at = output.output
        dtype, array = tensors[at].dtype, flat[at]
        if output.scalar and output.index >= len(array):
            raise _short(specs[at], output.index, array)
        value = answer.outputs[output.public.name]
        try:
            if output.scalar:
                _put_scalar(value, dtype, array[output.index : output.index + 1])
            else:
                _put_array(value, dtype, array)
        except EncodeError as error:
            raise EncodeError(f"output {quote(specs[at].name)}: {error}") from None


def _entry(name: str, number: bytes) -> bytes:
    """An entry of PredictResponse.predictions as it goes over the wire."""
    key = name.encode()
    entry = b"\x0a" + _varint(len(key)) + key + b"\x15" + number
    return b"\x12" + _varint(len(entry)) + entry


def _put_scalar(value: FeatureValue, dtype: DType, element: npt.NDArray[Any]) -> None:
    if dtype is DType.DOUBLE:
        value.double_value = element.item()
    elif dtype.is_float:
        number = float32_of(Tensor(dtype, element))
        if number[0] == number[0]:
            value.float_value = number.item()
        else:
            value.MergeFromString(b"\x0d" + number.tobytes())
    elif dtype.is_integer:
        value.int64_value = _integers(element)[0]
    elif dtype is DType.BOOL:
        value.bool_value = element.item()
    else:
        value.string_value = _text(element[0])


def _put_array(value: FeatureValue, dtype: DType, array: npt.NDArray[Any]) -> None:
    if dtype.is_float:
        data = float32_of(Tensor(dtype, array)).tobytes()
        packed = b"\x0a" + _varint(len(data)) + data if data else b""
        value.MergeFromString(b"\x1a" + _varint(len(packed)) + packed)
    elif dtype.is_integer or dtype is DType.BOOL:
        value.int64_array.values.extend(_integers(array))
        value.int64_array.SetInParent()
    else:
        value.string_array.values.extend(map(_text, array.tolist()))
        value.string_array.SetInParent()


def _integers(array: npt.NDArray[Any]) -> list[int]:
    integers: list[int] = array.astype(np.int64).tolist() if array.dtype == np.bool_ else array.tolist()
    if array.dtype == np.uint64:
        for integer in integers:
            if integer > _MAX_INT64:
                raise EncodeError(f"expected at most 2^63 - 1, got {integer}")
    return integers


def _text(string: bytes) -> str:
    try:
        return string.decode()
    except UnicodeDecodeError:
        raise EncodeError("expected UTF-8, got other bytes") from None


def _short(spec: Spec, index: int, array: npt.NDArray[Any]) -> EncodeError:
    text = f"output {quote(spec.name)}: expected an element {index} in the row, got {len(array)} elements"
    return EncodeError(text)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
