# SPDX-License-Identifier: Apache-2.0
"""Tensors on their way into ONNX Runtime and out of it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

from concord_server.model import OutputTooLargeError, SessionError
from concord_server.ort.api import Api
from concord_server.tensor import FRAMED_STRING, DType, Tensor, dtype_name

__all__ = ["Values"]

_NOTHING = ctypes.create_string_buffer(1)
_NOWHERE = ctypes.addressof(_NOTHING)
"""An address for no bytes."""

_POINTER_SIZE = ctypes.sizeof(c_void_p)
_DTYPES = {dtype.value: dtype for dtype in DType}
_KINDS = {dtype: dtype.storage.str for dtype in DType}


class Values:
    """Several of ONNX Runtime's values, side by side as it takes and gives them; freed together."""

    def __init__(self, api: Api, count: int) -> None:
        self._api = api
        self.count = count
        self.pointers = (c_void_p * count)()
        self._kept: list[Any] = []

    def __enter__(self) -> Values:
        return self

    def __exit__(self, *_: object) -> None:
        for pointer in self.pointers:
            if pointer:
                self._api.ReleaseValue(pointer)

    def put(self, at: int, tensor: Tensor, allocator: int | None = None) -> None:
        """Makes value `at` of a tensor. Numbers stay where they are, unless they are copied to an allocator's memory.

        Strings are copied.
        """
        array = tensor.array
        shape = (c_int64 * array.ndim)(*array.shape)
        place = byref(self.pointers, at * _POINTER_SIZE)
        api = self._api
        if tensor.dtype is DType.STRING:
            api.check(api.CreateTensorAsOrtValue(api.allocator, shape, array.ndim, DType.STRING.value, place))
            self._fill(self.pointers[at] or 0, array.reshape(-1).tolist())
            return
        if not array.flags.c_contiguous:
            array = array.copy()
        if allocator is not None:
            api.check(api.CreateTensorAsOrtValue(allocator, shape, array.ndim, tensor.dtype.value, place))
            memory = c_void_p()
            api.check(api.GetTensorMutableData(self.pointers[at] or 0, byref(memory)))
            if array.nbytes:
                ctypes.memmove(memory.value or 0, array.ctypes.data, array.nbytes)
            return
        self._kept.append(array)
        # Not .ctypes, which imports and makes an object for each array.
        address = array.__array_interface__["data"][0] if array.size else _NOWHERE
        api.check(
            api.CreateTensorWithDataAsOrtValue(
                api.cpu_memory, address, array.nbytes, shape, array.ndim, tensor.dtype.value, place
            )
        )

    def _fill(self, value: int, strings: Sequence[bytes]) -> None:
        api = self._api
        count = len(strings)
        if not any(0 in string for string in strings):
            if count:
                api.check(api.FillStringTensor(value, (c_char_p * count)(*strings), count))
            return
        # C strings end at the first NUL: such strings are copied one by one.
        buffer = c_void_p()
        for i, string in enumerate(strings):
            api.check(api.GetResizedStringTensorElementBuffer(value, i, len(string), byref(buffer)))
            if string:
                ctypes.memmove(buffer.value or 0, string, len(string))

    def within(self, most: int) -> None:
        """Raises OutputTooLargeError where the values hold more bytes than that, as Tensor.nbytes counts them."""
        size = sum(self._size(value) for value in self.pointers)
        if size > most:
            raise OutputTooLargeError(size, most)

    def _size(self, value: int | None) -> int:
        api = self._api
        if not value:
            return 0
        number, lengths, rank = c_int(), POINTER(c_int64)(), c_size_t()
        api.check(api.GetTensorElementTypeAndShapeDataReference(value, byref(number), byref(lengths), byref(rank)))
        count: int = math.prod(lengths[: rank.value])
        dtype = _DTYPES.get(number.value)
        if dtype is DType.STRING:
            return api.count("GetStringTensorDataLength", value) + FRAMED_STRING * count
        return count * int(dtype.storage.itemsize) if dtype else 0

    def take(self, at: int) -> Tensor:
        """The tensor that value `at` holds; from now on it owns the value, and shares its memory."""
        api = self._api
        value = self.pointers[at]
        if not value:
            raise SessionError("an output is no tensor")
        number, lengths, rank = c_int(), POINTER(c_int64)(), c_size_t()
        failed = api.GetTensorElementTypeAndShapeDataReference(value, byref(number), byref(lengths), byref(rank))
        if failed:
            api.check(failed)
        dtype = _DTYPES.get(number.value)
        if dtype is None:
            raise SessionError(f"an output is of type {dtype_name(number.value)}, which is not served")
        shape = tuple(lengths[: rank.value]) if rank.value else ()
        if dtype is DType.STRING:
            return Tensor(dtype, self._strings(value, shape))
        if 0 in shape:
            return Tensor(dtype, np.empty(shape, dtype.storage))
        address = c_void_p()
        api.check(api.GetTensorMutableData(value, byref(address)))
        memory = _Memory(api, value, address.value or 0, shape, _KINDS[dtype])
        self.pointers[at] = None
        return Tensor(dtype, np.asarray(memory))

    def _strings(self, value: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        api = self._api
        array = np.empty(shape, dtype=object)
        if array.size:
            content = np.empty(api.count("GetStringTensorDataLength", value), np.uint8)
            offsets = np.empty(array.size + 1, np.uintp)
            offsets[-1] = content.size
            address = content.ctypes.data if content.size else _NOWHERE
            api.check(api.GetStringTensorContent(value, address, content.size, offsets.ctypes.data, array.size))
            data, ends = content.tobytes(), offsets.tolist()
            # Through a list numpy would look into the bytes.
            flat = array.reshape(-1)
            for i in range(len(flat)):
                flat[i] = data[ends[i] : ends[i + 1]]
        return array


class _Memory:
    """A value's memory as an array's: numpy keeps it, and so the value, for as long as the array lives."""

    def __init__(self, api: Api, value: int, address: int, shape: tuple[int, ...], kind: str) -> None:
        self._release = api.ReleaseValue
        self._value = value
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": kind, "version": 3}

    def __del__(self) -> None:
        self._release(self._value)
