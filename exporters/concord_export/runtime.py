# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime in this process: CPU, one thread, telemetry off."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

from concord_export.errors import ConversionError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

__all__ = ["Memory", "Session", "TensorInfo", "is_float", "zeroed"]

Memory = Any
"""ONNX Runtime's OrtValue: a tensor that it reads and writes."""

_ELEMENT_TYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(string)": np.object_,
    "tensor(bool)": np.bool_,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
}


def is_float(dtype: npt.DTypeLike) -> bool:
    """Whether elements of this type are compared as numbers that may be a little off."""
    return np.dtype(dtype).kind == "f" or np.dtype(dtype) == ml_dtypes.bfloat16


class TensorInfo:
    """Name, dtype and shape of an input or output; an open axis is None, and so is a dtype that cannot be served.

    `axes` are the axes' names in the graph, or their lengths.
    """

    def __init__(self, info: Any) -> None:
        self.name: str = info.name
        self.type: str = info.type
        self.dtype: np.dtype[Any] | None = np.dtype(_ELEMENT_TYPES[info.type]) if info.type in _ELEMENT_TYPES else None
        self.axes: list[str] = [str(axis) for axis in info.shape]
        self.shape: list[int | None] = [axis if isinstance(axis, int) else None for axis in info.shape]


class Session:
    """A loaded graph. Raises ConversionError where ONNX Runtime does not take it."""

    def __init__(self, model: bytes | Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # Errors come as exceptions; what else it would log helps nobody.
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ConversionError(f"ONNX Runtime does not load the graph: {error}") from error
        self.inputs = {info.name: TensorInfo(info) for info in self._session.get_inputs()}
        self.outputs = {info.name: TensorInfo(info) for info in self._session.get_outputs()}

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """The outputs by name: those asked for, or all. Raises ConversionError where the run fails."""
        names = list(self.outputs) if outputs is None else list(outputs)
        try:
            values = self._run(names, inputs)
        except Exception as error:
            raise ConversionError(f"ONNX Runtime fails on a row: {error}") from error
        return dict(zip(names, values, strict=True))

    def run_in_place(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        memory: Mapping[tuple[str, str], Memory],
        output: str,
    ) -> npt.NDArray[Any]:
        """One output, of a graph of which each input and output of `memory` are the same memory.

        Raises ConversionError where the run fails.
        """
        try:
            binding = self._session.io_binding()
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            for (given, made), value in memory.items():
                binding.bind_ortvalue_input(given, value)
                binding.bind_ortvalue_output(made, value)
            binding.bind_output(output)
            self._session.run_with_iobinding(binding)
            # Outputs come in the order of their binding.
            values: npt.NDArray[Any] = binding.get_outputs()[len(memory)].numpy()
        except Exception as error:
            raise ConversionError(f"ONNX Runtime fails on a row: {error}") from error
        return values

    def _run(self, names: list[str], inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        bfloat16 = [info for info in (*self.inputs.values(), *self.outputs.values()) if info.type == "tensor(bfloat16)"]
        if not bfloat16:
            values: list[npt.NDArray[Any]] = self._session.run(names, dict(inputs))
            return values
        # NumPy has no bfloat16, so ONNX Runtime's Python takes and gives its bits only.
        given = {name: _value_of(np.ascontiguousarray(array)) for name, array in inputs.items()}
        return [_array_of(value) for value in self._session.run_with_ort_values(names, given)]


def zeroed(shape: Sequence[int], dtype: npt.DTypeLike) -> Memory:
    """Memory for Session.run_in_place, all zeros."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))


def _value_of(array: npt.NDArray[Any]) -> Any:
    if array.dtype != ml_dtypes.bfloat16:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    bits = array.view(np.uint16)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, onnx.TensorProto.BFLOAT16)


def _array_of(value: Any) -> npt.NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        array: npt.NDArray[Any] = value.numpy()
        return array
    shape = value.shape()
    count = int(np.prod(shape))
    bits: npt.NDArray[np.uint16] = np.empty(count, np.uint16)
    if count:
        bits[:] = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    return np.asarray(bits.view(ml_dtypes.bfloat16)).reshape(shape)
