# SPDX-License-Identifier: Apache-2.0
"""Lanes: memory for one small request's inputs and outputs, made once, and runs of just these.

A run of microseconds would otherwise spend most of its time on making ONNX Runtime's values and letting them go.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

from concord_server.model import SessionError
from concord_server.ort.api import Api
from concord_server.tensor import DType, Spec, Tensor

__all__ = ["Lane", "Lanes"]

_MAX_BYTES = 64 << 10
_MAX_TEXT = 1 << 10
_POINTER_SIZE = ctypes.sizeof(c_void_p)

Shapes = tuple[tuple[int, ...], ...]


class Lane:
    """One shape of a session's inputs and a choice of its outputs. One thread at a time has it."""

    def __init__(self, api: Api, session: int, inputs: Sequence[Spec], shapes: Shapes, outputs: Sequence[Spec]) -> None:
        """The shapes of the outputs are those of one row: see Lanes."""
        self._api = api
        self._values: list[c_void_p] = []
        self._inputs = [np.zeros(shape, spec.dtype.storage) for spec, shape in zip(inputs, shapes, strict=True)]
        self._outputs: list[npt.NDArray[Any] | None] = []
        self._dtypes = [spec.dtype for spec in outputs]
        given = (c_void_p * len(inputs))()
        got = (c_void_p * len(outputs))()
        for at, (spec, array) in enumerate(zip(inputs, self._inputs, strict=True)):
            self._over(array, spec.dtype, given, at)
        for at, spec in enumerate(outputs):
            if spec.dtype is DType.STRING:
                self._outputs.append(None)  # ONNX Runtime makes it anew each time
                continue
            array = np.zeros([max(length, 1) for length in spec.shape], spec.dtype.storage)
            self._outputs.append(array)
            self._over(array, spec.dtype, got, at)
        self._texts = [at for at, array in enumerate(self._outputs) if array is None]
        self._got = got
        self._address, self._length = c_void_p(), c_size_t()
        self._text = ctypes.create_string_buffer(_MAX_TEXT)
        self._offset = c_size_t()
        self._arguments = (session, 0, _names(inputs), given, len(inputs), _names(outputs), len(outputs), got)

    def _over(self, array: npt.NDArray[Any], dtype: DType, values: Any, at: int) -> None:
        """Makes a value over an array's memory."""
        shape = (c_int64 * array.ndim)(*array.shape)
        place = byref(values, at * _POINTER_SIZE)
        api = self._api
        address = array.__array_interface__["data"][0]
        made = api.CreateTensorWithDataAsOrtValue(
            api.cpu_memory, address, array.nbytes, shape, array.ndim, dtype.value, place
        )
        api.check(made)
        self._values.append(c_void_p(values[at]))

    def __del__(self) -> None:
        for value in self._values:
            self._api.ReleaseValue(value)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """As Session.run, of inputs of the lane's shapes, on the event loop: nobody else gets a turn.

        Raises SessionError, also where an output has another shape than the lane's.
        """
        for own, tensor in zip(self._inputs, inputs, strict=True):
            own[...] = tensor.array
        status = self._api.RunNow(*self._arguments)
        try:
            if status:
                self._api.check(status)
            return [
                Tensor(dtype, self._string(at) if array is None else array.copy())
                for at, (dtype, array) in enumerate(zip(self._dtypes, self._outputs, strict=True))
            ]
        finally:
            for at in self._texts:
                if self._got[at]:
                    self._api.ReleaseValue(self._got[at])
                    self._got[at] = None

    def _string(self, at: int) -> npt.NDArray[Any]:
        """The one string of an output."""
        api, value, length = self._api, self._got[at], self._length
        api.check(api.GetStringTensorDataLength(value, byref(length)))
        size = length.value
        if size > _MAX_TEXT:
            raise SessionError("a text is longer than the lane's")
        # Fails where there are more strings than one, or none.
        api.check(api.GetStringTensorContent(value, self._text, size, byref(self._offset), 1))
        array = np.empty((1,), dtype=object)
        array[0] = self._text.raw[:size]
        return array


class Lanes:
    """The lanes of a session."""

    def __init__(self, api: Api, session: int, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> None:
        self._api = api
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._lanes: dict[tuple[tuple[int, ...], Shapes], Lane | None] = {}
        self._failed: tuple[tuple[int, ...], Shapes] | None = None
        self._possible = bool(inputs) and not any(spec.dtype is DType.STRING or spec.unranked for spec in inputs)

    def run(self, inputs: Sequence[Tensor], wanted: Sequence[int]) -> list[Tensor] | None:
        """Runs one request where there is a lane for it, else gives None; also where a run on a lane failed.

        Then the general way has the word, and who fails there knows why.
        """
        if not self._possible:
            return None
        self._failed = None
        key = (tuple(wanted), tuple([tensor.array.shape for tensor in inputs]))
        try:
            lane = self._lanes[key]
        except KeyError:
            lane = self._make(*key)
        if lane is None:
            return None
        try:
            return lane.run(inputs)
        except SessionError:
            self._failed = key
            return None

    def ran(self) -> None:
        """Tells that the general way answered a request: a lane that failed at it is left for good.

        Its graph gives outputs of other shapes than it says, or long texts.
        """
        if self._failed is not None:
            self._lanes[self._failed] = None
            self._failed = None

    def _make(self, wanted: tuple[int, ...], shapes: Shapes) -> Lane | None:
        if len(self._lanes) >= _MOST:
            return None  # there may be any number of shapes
        lane = None
        outputs = [self._outputs[at] for at in wanted]
        if wanted and all(map(_is_one, shapes)) and all(map(_is_row, outputs)):
            sizes = [
                math.prod(shape) * spec.dtype.storage.itemsize for spec, shape in zip(self._inputs, shapes, strict=True)
            ]
            sizes += [math.prod(spec.shape[1:]) * spec.dtype.storage.itemsize for spec in outputs]
            if 0 not in sizes and sum(sizes) <= _MAX_BYTES:
                lane = Lane(self._api, self._session, self._inputs, shapes, outputs)
        self._lanes[wanted, shapes] = lane
        return lane


_MOST = 8


def _is_one(shape: tuple[int, ...]) -> bool:
    """Whether an input holds one row."""
    return bool(shape) and shape[0] == 1


def _is_row(spec: Spec) -> bool:
    """Whether an output of one row has a shape that is known: strings are one."""
    if spec.unranked or not spec.shape or spec.shape[0] not in (-1, 1) or -1 in spec.shape[1:]:
        return False
    return spec.dtype is not DType.STRING or len(spec.shape) == 1


def _names(specs: Sequence[Spec]) -> Any:
    return (c_char_p * len(specs))(*(spec.name.encode() for spec in specs))
