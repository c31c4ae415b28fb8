# SPDX-License-Identifier: Apache-2.0
"""Weights in safetensors: a length, a JSON header that long, the numbers. They stay on disk until they are read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from concord_export.errors import SourceError
from concord_export.llama.architecture import Floats

__all__ = ["SafetensorsFile"]

_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
_HEADER_LIMIT_BYTES = 100 << 20


class SafetensorsFile:
    """One file. Raises SourceError unless every tensor of the header lies within it."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT_BYTES):
                raise SourceError(
                    f"{path.name}: is no whole safetensors file: its header does not fit into {size} bytes"
                )
            header = stream.read(length)
        self._tensors: dict[str, tuple[str, tuple[int, ...], int]] = {}
        try:
            entries: dict[str, Any] = json.loads(header)
            entries.pop("__metadata__", None)
            for name, entry in entries.items():
                shape = tuple(int(length) for length in entry["shape"])
                begin, end = (8 + length + int(offset) for offset in entry["data_offsets"])
                self._tensors[name] = (self._checked(name, entry["dtype"], shape, begin, end, size), shape, begin)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SourceError(f"{path.name}: is no safetensors file that can be read: {error}") from None
        # Read on demand; the pages belong to the file, not to this process.
        self._bytes = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)

    def _checked(self, name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int, size: int) -> str:
        if dtype not in _DTYPES:
            return dtype
        expected = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
        if any(length < 0 for length in shape) or begin < 8 or end - begin != expected:
            raise SourceError(f"{self._name}: {name}: {dtype} {list(shape)} does not have {end - begin} bytes")
        if end > size:
            raise SourceError(f"{self._name}: is cut off: {name} ends at byte {end} of {size}")
        return dtype

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors' shapes by name."""
        return {name: shape for name, (_, shape, _) in self._tensors.items()}

    def read(self, name: str) -> Floats:
        """A tensor in 32-bit floats. Raises SourceError for a type that holds no floats."""
        dtype, shape, begin = self._tensors[name]
        if dtype not in _DTYPES:
            expected = ", ".join(_DTYPES)
            raise SourceError(f"{self._name}: {name}: expected one of {expected}, got {dtype}")
        kind = np.dtype(_DTYPES[dtype])
        raw = self._bytes[begin : begin + math.prod(shape) * kind.itemsize].view(kind).reshape(shape)
        if dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            return np.asarray(raw, np.float32)
