# SPDX-License-Identifier: Apache-2.0
"""The one request of each model, in the form that each server takes: the generator sends these bytes as they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import inference_service_pb2 as service

REQUEST_ID = "0123456789abcdef0123456789abcdef"


def concord(described: dict[str, Any], row: npt.NDArray[np.float32]) -> bytes:
    """inference.v1.PredictRequest."""
    request = service.PredictRequest(model_id=described["model"], request_id=REQUEST_ID)
    names = described["names"]
    if len(names) == 1:
        request.features[names[0]].float_array.values.extend(row[0].tolist())
    else:
        for name, value in zip(names, row[0].tolist(), strict=True):
            request.features[name].float_value = value
    return request.SerializeToString(deterministic=True)


def plain_json(described: dict[str, Any], row: npt.NDArray[np.float32]) -> bytes:
    """What people send to a FastAPI server of their own: the same fields, numbers as short as float32 allows."""
    names = described["names"]
    numbers = [float(str(v)) for v in row[0]]
    features = {names[0]: numbers} if len(names) == 1 else dict(zip(names, numbers, strict=True))
    return json.dumps({"model_id": described["model"], "request_id": REQUEST_ID, "features": features}).encode()


def v2_json(described: dict[str, Any], row: npt.NDArray[np.float32]) -> bytes:
    """An Open Inference Protocol request over HTTP."""
    numbers = [float(str(v)) for v in row[0]]
    entry = {"name": described["input"], "shape": [1, described["width"]], "datatype": "FP32", "data": numbers}
    return json.dumps({"id": REQUEST_ID, "inputs": [entry]}).encode()


def v2_grpc(described: dict[str, Any], row: npt.NDArray[np.float32]) -> bytes:
    """inference.ModelInferRequest of the Open Inference Protocol, the numbers as raw_input_contents."""
    shape = _field(3, b"".join(_varint(n) for n in (1, described["width"])))
    entry = _field(1, described["input"].encode()) + _field(2, b"FP32") + shape
    numbers = row.astype("<f4").tobytes()
    return (
        _field(1, described["model"].encode()) + _field(3, REQUEST_ID.encode()) + _field(5, entry) + _field(7, numbers)
    )


def raw(_described: dict[str, Any], row: npt.NDArray[np.float32]) -> bytes:
    """The row alone, 32-bit floats, for ONNX Runtime without any server."""
    return row.astype("<f4").tobytes()


FORMATS = {"concord.bin": concord, "json": plain_json, "v2.json": v2_json, "v2.bin": v2_grpc, "row": raw}


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value
