# SPDX-License-Identifier: Apache-2.0
"""Output tensors of one row straight to the bytes of an answer, where that is plainly possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from concord_server.tensor import DType, Tensor, float32_of

if TYPE_CHECKING:
    from concord_server.feature.plan import Plan

__all__ = ["Answer"]

_PREDICTIONS, _OUTPUTS = b"\x12", b"\x2a"  # PredictResponse.predictions=2 and outputs=5
_KEY, _NUMBER, _VALUE = b"\x0a", b"\x15", b"\x12"
_INT64, _STRING = b"\x20", b"\x12"  # FeatureValue.int64_value=4 and string_value=2
_SMALL = 0x7F  # the largest length and the largest integer of one byte


class Answer:
    """How a plan's predictions and outputs are written: those that are one number, one text or one small integer."""

    def __init__(self, plan: Plan) -> None:
        self._checks = [
            (at, rows and not spec.unranked, spec.dtype)
            for at, (spec, rows) in enumerate(zip(plan.wanted_specs, plan.batch_axis, strict=True))
        ]
        self._predictions: list[tuple[int, int, bytes]] = []
        self._outputs: list[tuple[int, int, bytes]] = []
        self._possible = True
        for prediction in plan.predictions:
            name = prediction.public.name.encode()
            if len(name) > _SMALL - 8:
                self._possible = False
                continue
            entry = _PREDICTIONS + bytes([2 + len(name) + 5]) + _KEY + bytes([len(name)]) + name + _NUMBER
            self._predictions.append((prediction.output, prediction.index, entry))
        for output in plan.outputs:
            name = output.public.name.encode()
            if not output.scalar or len(name) > _SMALL // 2:
                self._possible = False
                continue
            self._outputs.append((output.output, output.index, _KEY + bytes([len(name)]) + name + _VALUE))

    def parts(self, tensors: Sequence[Tensor]) -> list[bytes] | None:
        """The bytes that Plan.encode's predictions and outputs have, in pieces; None: Plan.encode has the word."""
        if not self._possible:
            return None
        for at, rows, dtype in self._checks:
            tensor = tensors[at]
            if tensor.dtype is not dtype or (rows and tensor.array.shape[:1] != (1,)):
                return None
        parts: list[bytes] = []
        numbers: dict[int, bytes] = {}
        for at, index, entry in self._predictions:
            data = numbers.get(at)
            if data is None:
                data = numbers[at] = float32_of(tensors[at]).tobytes()
            number = data[4 * index : 4 * index + 4]
            if len(number) < 4:
                return None
            parts += (entry, number)
        for at, index, key in self._outputs:
            value = _value(tensors[at], index)
            if value is None or len(key) + 1 + len(value) > _SMALL:
                return None
            parts += (_OUTPUTS, bytes([len(key) + 1 + len(value)]), key, bytes([len(value)]), value)
        return parts


def _value(tensor: Tensor, index: int) -> bytes | None:
    """A FeatureValue of one element."""
    flat: npt.NDArray[Any] = tensor.array.reshape(-1)
    if index >= len(flat):
        return None
    if tensor.dtype is DType.STRING:
        text: bytes = flat[index]
        if len(text) > _SMALL or not text.isascii():
            return None
        return _STRING + bytes([len(text)]) + text
    if tensor.dtype.is_integer:
        integer = int(flat[index])
        return _INT64 + bytes([integer]) if 0 <= integer <= _SMALL else None
    return None
