# SPDX-License-Identifier: Apache-2.0
"""Tensors of the contract from arrays and back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import tensor_pb2

from concord_export.errors import PackageInvalidError

__all__ = ["read_tensor", "write_tensor"]

_DTYPES: dict[tensor_pb2.DataType, npt.DTypeLike] = {
    tensor_pb2.DATA_TYPE_FLOAT: "<f4",
    tensor_pb2.DATA_TYPE_UINT8: "<u1",
    tensor_pb2.DATA_TYPE_INT8: "<i1",
    tensor_pb2.DATA_TYPE_UINT16: "<u2",
    tensor_pb2.DATA_TYPE_INT16: "<i2",
    tensor_pb2.DATA_TYPE_INT32: "<i4",
    tensor_pb2.DATA_TYPE_INT64: "<i8",
    tensor_pb2.DATA_TYPE_BOOL: "?",
    tensor_pb2.DATA_TYPE_FLOAT16: "<f2",
    tensor_pb2.DATA_TYPE_DOUBLE: "<f8",
    tensor_pb2.DATA_TYPE_UINT32: "<u4",
    tensor_pb2.DATA_TYPE_UINT64: "<u8",
    tensor_pb2.DATA_TYPE_BFLOAT16: ml_dtypes.bfloat16,
}


def read_tensor(tensor: tensor_pb2.Tensor) -> npt.NDArray[Any]:
    """The array of a tensor in golden.binpb. Raises PackageInvalidError."""
    shape = list(tensor.shape)
    try:
        if tensor.dtype == tensor_pb2.DATA_TYPE_STRING:
            strings = np.empty(len(tensor.strings), dtype=object)
            strings[:] = [item.decode() for item in tensor.strings]
            return strings.reshape(shape)
        if tensor.dtype in _DTYPES:
            return np.frombuffer(tensor.data, _DTYPES[tensor.dtype]).reshape(shape)
    except ValueError as error:
        raise PackageInvalidError(f"golden.binpb: a tensor's data does not fit it: {error}") from None
    raise PackageInvalidError(f"golden.binpb: {tensor_pb2.DataType.Name(tensor.dtype)} cannot be run in this process")


def write_tensor(array: npt.NDArray[Any], tensor: tensor_pb2.Tensor) -> None:
    """Fills a tensor. Raises ValueError for a dtype that no tensor has."""
    tensor.shape.extend(array.shape)
    if array.dtype.kind in "OU":
        tensor.dtype = tensor_pb2.DATA_TYPE_STRING
        tensor.strings.extend(str(item).encode() for item in array.ravel())
        return
    for dtype, known in _DTYPES.items():
        if np.dtype(known) == array.dtype.newbyteorder("<"):
            tensor.dtype = dtype
            tensor.data = np.ascontiguousarray(array).astype(known).tobytes()
            return
    raise ValueError(f"{array.dtype} is no element type of a tensor")
