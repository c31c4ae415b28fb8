# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime in this process: CPU, one thread, telemetry off."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from concord_export.errors import ConversionError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

__all__ = ["Session", "TensorInfo"]

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
}


class TensorInfo:
    """Name, dtype and shape of an input or output; an open axis is None, and so is a dtype that NumPy does not have."""

    def __init__(self, info: Any) -> None:
        self.name: str = info.name
        self.type: str = info.type
        self.dtype: np.dtype[Any] | None = np.dtype(_ELEMENT_TYPES[info.type]) if info.type in _ELEMENT_TYPES else None
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
            values = self._session.run(names, dict(inputs))
        except Exception as error:
            raise ConversionError(f"ONNX Runtime fails on a row: {error}") from error
        return dict(zip(names, values, strict=True))
