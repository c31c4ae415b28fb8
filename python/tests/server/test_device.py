# SPDX-License-Identifier: Apache-2.0
"""How near answers on a GPU must be. No GPU is needed: the classes are the server's own arithmetic."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import tensor_pb2
from concord_proto.modelpackage.v1 import manifest_pb2
from concord_server.repository.device import Tolerance, device_classes
from concord_server.repository.disk import RefusedError
from concord_server.repository.golden import near
from concord_server.tensor import DType, Tensor

FLOAT, FLOAT16, INT64 = tensor_pb2.DATA_TYPE_FLOAT, tensor_pb2.DATA_TYPE_FLOAT16, tensor_pb2.DATA_TYPE_INT64


def given(dtype: Any, absolute: float, relative: float) -> manifest_pb2.DeviceClass:
    return manifest_pb2.DeviceClass(dtype=dtype, absolute_tolerance=absolute, relative_tolerance=relative)


def test_a_manifest_says_the_class_of_a_type() -> None:
    classes = device_classes(manifest_pb2.Manifest(gpu_classes=[given(FLOAT16, 0.5, 0)]))
    assert classes[DType.FLOAT16] == Tolerance(0.5, 0)
    assert classes[DType.FLOAT] == Tolerance(1e-5, 1e-3)
    assert device_classes(None)[DType.BFLOAT16] == Tolerance(1e-2, 5e-2)


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        ([given(INT64, 0, 0)], "gpu_classes: expected each floating-point type at most once, got int64"),
        ([given(FLOAT, 0, 0)] * 2, "gpu_classes: expected each floating-point type at most once, got float"),
        ([given(FLOAT, -1, 0)], "gpu_classes: float: expected finite tolerances of at least 0, got -1 and 0"),
        ([given(FLOAT, 0, math.nan)], "gpu_classes: float: expected finite tolerances of at least 0, got 0 and NaN"),
    ],
)
def test_bad_classes_are_refused(classes: list[manifest_pb2.DeviceClass], why: str) -> None:
    with pytest.raises(RefusedError) as refused:
        device_classes(manifest_pb2.Manifest(gpu_classes=classes))
    assert str(refused.value).lower() == why.lower()


def test_near_is_by_type(kit: SimpleNamespace) -> None:
    def tensor(dtype: DType, value: float) -> Tensor:
        return Tensor(dtype, np.array([value], dtype.storage))

    classes = device_classes(None)
    assert near(classes, tensor(DType.FLOAT, 1), tensor(DType.FLOAT, 1.0005))
    assert not near(classes, tensor(DType.DOUBLE, 1), tensor(DType.DOUBLE, 1.0005))
    assert not near(classes, tensor(DType.INT64, 1), tensor(DType.INT64, 2))
    assert not near({}, tensor(DType.FLOAT, 1), tensor(DType.FLOAT, 1.0005))
