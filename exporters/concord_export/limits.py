# SPDX-License-Identifier: Apache-2.0
"""How far a number may be off, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Limits", "ulp_distance"]


@dataclass(frozen=True)
class Limits:
    """|export - source| <= absolute + relative * |source|; labels are equal."""

    absolute: float
    relative: float

    def excess(self, expected: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Each difference as a multiple of the limit; above 1 is too much. NaN equals NaN, an infinity itself."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            difference = np.abs(got - expected)
            allowed = self.absolute + self.relative * np.abs(expected)
            ratio = np.where(difference == 0, 0.0, difference / allowed)
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        return np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))


def ulp_distance(expected: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """How many 32-bit floats lie between the numbers, each rounded to 32 bits. 0 between NaNs, and between 0 and -0."""

    def ordinal(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        with np.errstate(over="ignore"):
            bits = values.astype(np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    distance = np.abs(ordinal(np.ascontiguousarray(expected)) - ordinal(np.ascontiguousarray(got)))
    return np.where(np.isnan(expected) & np.isnan(got), 0, distance).astype(np.uint64)
