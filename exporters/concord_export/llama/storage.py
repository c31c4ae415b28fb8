# SPDX-License-Identifier: Apache-2.0
"""Where a graph's constants go: into the graph, or one after the other into a file beside it."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["DATA_FILE", "Constants"]

DATA_FILE = "model.onnx.data"

# Pages: ONNX Runtime may then map them as they are.
_ALIGNMENT = 1 << 12


class Constants:
    """A graph's constants. With a stream, those of `least_bytes` or more are written there at once and not kept."""

    def __init__(self, stream: BinaryIO | None, *, least_bytes: int = 1 << 10) -> None:
        self._stream = stream
        self._least_bytes = least_bytes
        self._end = 0
        self.tensors: list[onnx.TensorProto] = []

    def add(self, name: str, value: npt.NDArray[Any]) -> str:
        """Adds one; its name again. Raises OSError where the stream takes no more."""
        array = np.ascontiguousarray(value)
        if self._stream is None or array.nbytes < self._least_bytes:
            self.tensors.append(numpy_helper.from_array(array, name))
            return name
        # Small ones lie side by side.
        alignment = _ALIGNMENT if array.nbytes >= _ALIGNMENT else array.itemsize
        start = -(-self._end // alignment) * alignment
        self._stream.write(b"\0" * (start - self._end))
        self._stream.write(array.data)
        self._end = start + array.nbytes
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, text in (("location", DATA_FILE), ("offset", str(start)), ("length", str(array.nbytes))):
            tensor.external_data.add(key=key, value=text)
        self.tensors.append(tensor)
        return name
