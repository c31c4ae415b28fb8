# SPDX-License-Identifier: Apache-2.0
"""A graph's outputs against its source's, array by array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import model_pb2

from concord_export.errors import ParityError
from concord_export.limits import Limits, ulp_distance
from concord_export.runtime import is_float

__all__ = ["compare_arrays"]


def compare_arrays(
    expected: Mapping[str, npt.NDArray[Any]], got: Mapping[str, npt.NDArray[Any]], limits: Limits
) -> model_pb2.ParityRecord:
    """Every number and every label. Raises ParityError, with the worst row and output named."""
    record = model_pb2.ParityRecord(absolute_limit=limits.absolute, relative_limit=limits.relative)
    for name, wanted in expected.items():
        answer = got[name]
        record.rows = len(wanted)
        if answer.shape != wanted.shape:
            raise ParityError(f"output {name!r}: expected shape {list(wanted.shape)}, got {list(answer.shape)}")
        if not is_float(wanted.dtype):
            wrong = np.flatnonzero((answer != wanted).reshape(len(wanted), -1).any(axis=1))
            if len(wrong):
                raise ParityError(
                    f"output {name!r}: {len(wrong)} of {len(wanted)} rows differ, the first is {wrong[0]}"
                )
            record.labels_compared += wanted.size
            continue
        first, second = wanted.astype(np.float64), answer.astype(np.float64)
        excess = limits.excess(first, second).reshape(len(wanted), -1).max(axis=1, initial=0.0)
        row = int(excess.argmax())
        if excess[row] > 1:
            raise ParityError(
                f"output {name!r}: the graph does not answer like its source on {int((excess > 1).sum())} of "
                f"{len(wanted)} rows; the limit is {limits.absolute:g} + {limits.relative:g} * |expected|. "
                f"Worst row: {row}, expected {first[row].ravel()[:8].tolist()}, got {second[row].ravel()[:8].tolist()}"
            )
        with np.errstate(invalid="ignore"):
            difference = np.abs(second - first)
        finite = float(difference[np.isfinite(difference)].max(initial=0.0))
        record.max_absolute_error = max(record.max_absolute_error, finite)
        record.max_ulp_error = max(record.max_ulp_error, int(ulp_distance(first, second).max(initial=0)))
    return record
