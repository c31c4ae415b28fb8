# SPDX-License-Identifier: Apache-2.0
"""Layouts: what the features of a client's requests look like on the wire, where all but the numbers stays the same.

Most requests for a model of many numbers come from few programs, and each writes the features in an order of its own,
again and again. Once such bytes have been read one by one, those of the next request are held against them, and where
only the numbers differ these are taken out together. Nothing is guessed: what differs elsewhere is read the general
way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from concord_server.tensor import DType, Tensor

if TYPE_CHECKING:
    from concord_server.feature.plan import Plan

__all__ = ["Layouts"]

_ENTRY, _KEY, _VALUE, _FLOAT = 0x1A, 0x0A, 0x12, 0x0D  # PredictRequest.features=3, its key=1 and value=2, float_value=1
_VALUE_BYTES = 5  # of a FeatureValue that is one float
_MOST_LAYOUTS = 8
_MOST_TRIES = 256
_LARGEST = 16 << 10
_PLAIN = (DType.FLOAT, DType.DOUBLE)


class _Layout:
    """Bytes of features of which all but the numbers are known."""

    __slots__ = ("_columns", "_fixed", "_known")

    def __init__(self, block: bytes, columns: npt.NDArray[np.intp]) -> None:
        """`columns` says where the four bytes of each of the row's numbers begin."""
        self._columns = (columns[:, None] + np.arange(4)).reshape(-1)
        fixed = np.ones(len(block), bool)
        fixed[self._columns] = False
        self._fixed = np.flatnonzero(fixed)
        self._known = np.frombuffer(block, np.uint8)[self._fixed].tobytes()

    def numbers(self, block: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32] | None:
        """The row's numbers, bit for bit; None where another byte differs."""
        if block[self._fixed].tobytes() != self._known:
            return None
        numbers: npt.NDArray[np.float32] = block[self._columns].view(np.dtype("<f4"))
        return numbers


class Layouts:
    """The layouts of requests for one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[int, list[_Layout]] = {}  # by the length of the bytes
        self._count = 0
        self._tries = 0
        sources, inputs = plan.sources, plan.inputs
        self._possible = (
            len(inputs) == 1
            and inputs[0].spec.dtype in _PLAIN
            and -1 not in inputs[0].shape
            and all(source.plain for source in sources)
            and 0 < len(sources) == int(np.prod(inputs[0].shape))
        )

    def read(self, data: bytes, at: int) -> list[Tensor] | None:
        """The tensors of a request whose bytes from `at` on are features alone; None: read them the general way."""
        if not self._possible or len(data) - at > _LARGEST:
            return None
        block = np.frombuffer(data, np.uint8, offset=at)
        numbers = None
        for layout in self._known.get(len(block), ()):
            numbers = layout.numbers(block)
            if numbers is not None:
                break
        else:
            layout_or_none = self._learn(data[at:])
            if layout_or_none is None:
                return None
            numbers = layout_or_none.numbers(block)
        if numbers is None:
            return None
        given = self._plan.inputs[0]
        if given.spec.dtype is DType.DOUBLE:
            with np.errstate(invalid="ignore"):  # a signalling NaN may be widened like any value
                return [Tensor(DType.DOUBLE, numbers.astype(np.float64).reshape(given.shape))]
        return [Tensor(DType.FLOAT, numbers.reshape(given.shape))]

    def _learn(self, block: bytes) -> _Layout | None:
        """Reads features one by one: each of the plan's exactly once, as one float."""
        if self._count >= _MOST_LAYOUTS or self._tries >= _MOST_TRIES:
            return None
        self._tries += 1
        columns = _columns(self._plan, block)
        if columns is None:
            return None
        layout = _Layout(block, columns)
        self._known.setdefault(len(block), []).append(layout)
        self._count += 1
        return layout


def _columns(plan: Plan, block: bytes) -> npt.NDArray[Any] | None:
    by_name = {source.name.encode(): source.column for source in plan.sources}
    columns = np.full(len(by_name), -1, np.intp)
    at = 0
    while at < len(block):
        # Lengths of one byte: a longer entry is no layout.
        if block[at] != _ENTRY or at + 4 > len(block) or block[at + 1] > 0x7F or block[at + 2] != _KEY:
            return None
        end = at + 2 + block[at + 1]
        key_end = at + 4 + block[at + 3]
        value = bytes((_VALUE, _VALUE_BYTES, _FLOAT))
        if block[key_end : key_end + 3] != value or key_end + 3 + 4 != end or end > len(block):
            return None
        column = by_name.get(block[at + 4 : key_end])
        if column is None or columns[column] >= 0:
            return None
        columns[column] = key_end + 3
        at = end
    return None if (columns < 0).any() else columns
