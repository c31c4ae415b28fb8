# SPDX-License-Identifier: Apache-2.0
"""Weights in 4 or 8 bits: in blocks of 32, each with a scale and a zero point, as MatMulNBits takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from concord_export.errors import SourceError
from concord_export.llama.architecture import Floats, Weights

__all__ = ["BITS", "BLOCK", "Precision", "Quantised", "Rounded", "packed", "quantise", "quantise_evenly"]

Precision = Literal["fp32", "int8", "int4"]

BITS: dict[Precision, int] = {"fp32": 32, "int8": 8, "int4": 4}
BLOCK = 32
_ROWS = 4096


@dataclass(frozen=True)
class Quantised:
    """value = (levels - zeros) * scales."""

    levels: npt.NDArray[np.uint8]
    """[out, in / 32, 32], one level a byte."""
    scales: Floats
    """[out, in / 32]."""
    zeros: npt.NDArray[np.uint8]
    """[out, in / 32]."""

    def values(self) -> Floats:
        """The weights that they stand for, [out, in], as ONNX Runtime computes them."""
        centred = self.levels.astype(np.float32) - self.zeros[..., np.newaxis].astype(np.float32)
        return (centred * self.scales[..., np.newaxis]).reshape(len(self.levels), -1)


def _blocks(weight: Floats) -> Floats:
    rows, columns = weight.shape
    if columns % BLOCK:
        raise SourceError(f"a matrix of {columns} columns cannot be cut into blocks of {BLOCK}: export it as fp32")
    return weight.reshape(rows, columns // BLOCK, BLOCK)


def quantise(weight: Floats, bits: int) -> Quantised:
    """A matrix [out, in]: each block's levels reach from its least number to its largest, 0 being one of them."""
    most = (1 << bits) - 1
    blocks = _blocks(weight)
    levels = np.empty(blocks.shape, np.uint8)
    scales, zeros = np.empty(blocks.shape[:2], np.float32), np.empty(blocks.shape[:2], np.uint8)
    # A part at a time: what is made on the way is larger than the weight.
    for rows in (slice(start, start + _ROWS) for start in range(0, len(blocks), _ROWS)):
        least, largest = np.minimum(blocks[rows].min(-1), 0), np.maximum(blocks[rows].max(-1), 0)
        scale = (largest - least) / np.float32(most)
        scale[scale == 0] = 1
        zero = np.clip(np.rint(-least / scale), 0, most)
        levels[rows] = np.clip(np.rint(blocks[rows] / scale[..., np.newaxis] + zero[..., np.newaxis]), 0, most)
        scales[rows], zeros[rows] = scale, zero
    return Quantised(levels, scales, zeros)


def quantise_evenly(weight: Floats) -> Quantised:
    """A matrix [out, in] in 8 bits, each block's levels reaching equally far below and above 0: 128 is 0.

    What was quantised so before, as embeddings in GGUF files are, comes out as it was.
    """
    blocks = _blocks(weight)
    levels, scales = np.empty(blocks.shape, np.uint8), np.empty(blocks.shape[:2], np.float32)
    for rows in (slice(start, start + _ROWS) for start in range(0, len(blocks), _ROWS)):
        scale = np.abs(blocks[rows]).max(-1) / np.float32(127)
        scale[scale == 0] = 1
        levels[rows] = np.clip(np.rint(blocks[rows] / scale[..., np.newaxis]), -127, 127) + 128
        scales[rows] = scale
    return Quantised(levels, scales, np.full(scales.shape, 128, np.uint8))


def packed(quantised: Quantised, bits: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Levels and zero points as MatMulNBits takes them: of 4 bits two to a byte, the first one low."""
    if bits == 8:
        return quantised.levels, quantised.zeros
    zeros = quantised.zeros
    if zeros.shape[1] % 2:
        zeros = np.concatenate([zeros, np.zeros((len(zeros), 1), np.uint8)], axis=1)
    return _pairs(quantised.levels), _pairs(zeros)


def _pairs(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(values[..., 0::2] | (values[..., 1::2] << 4), np.uint8)


class Rounded:
    """Weights as a package of this precision holds them, in 32-bit floats: what its answers are compared with."""

    def __init__(self, weights: Weights, precision: Precision) -> None:
        self._weights = weights
        self._precision = precision

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self._weights.shape(name)

    def read(self, name: str) -> Floats:
        weight = self._weights.read(name)
        if self._precision == "fp32" or weight.ndim == 1:
            return weight
        if name in ("embedding", "head"):
            return quantise_evenly(weight).values()
        return quantise(weight, BITS[self._precision]).values()
