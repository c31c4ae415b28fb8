# SPDX-License-Identifier: Apache-2.0
"""How near answers on a GPU must be to the CPU's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from concord_proto.modelpackage.v1 import manifest_pb2

from concord_server.model.generation import shortest
from concord_server.repository.disk import RefusedError
from concord_server.tensor import DType, dtype_name

__all__ = ["Classes", "Tolerance", "device_classes"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How near an answer must be: |answer - expected| <= absolute + relative * |expected|."""

    absolute: float
    relative: float

    @property
    def valid(self) -> bool:
        """Whether both are finite and at least 0."""
        return self.absolute >= 0 and self.relative >= 0 and not math.isinf(self.absolute + self.relative)

    def __str__(self) -> str:
        return f"{shortest(self.absolute, np.float64)} and {shortest(self.relative, np.float64)}"


Classes = Mapping[DType, Tolerance]
"""By the type of an answer's elements; a type that is not among them must be equal."""


def device_classes(manifest: manifest_pb2.Manifest | None) -> Classes:
    """The classes of a GPU: what a manifest says, and for the rest what modelpackage.v1.DeviceClass says.

    Raises RefusedError.
    """
    said: dict[DType, Tolerance] = {}
    for given in manifest.gpu_classes if manifest else ():
        dtype = next((dtype for dtype in DType if dtype.value == given.dtype), None)
        if dtype is None or not dtype.is_float or dtype in said:
            got = dtype_name(given.dtype)
            raise RefusedError(f"gpu_classes: expected each floating-point type at most once, got {got}")
        near = Tolerance(given.absolute_tolerance, given.relative_tolerance)
        if not near.valid:
            text = f"expected finite tolerances of at least 0, got {near}"
            raise RefusedError(f"gpu_classes: {dtype_name(dtype)}: {text}")
        said[dtype] = near
    return _CLASSES | said


_CLASSES = {
    DType.DOUBLE: Tolerance(1e-9, 1e-9),
    DType.FLOAT: Tolerance(1e-5, 1e-3),
    DType.FLOAT16: Tolerance(1e-3, 1e-2),
    DType.BFLOAT16: Tolerance(1e-2, 5e-2),
}
