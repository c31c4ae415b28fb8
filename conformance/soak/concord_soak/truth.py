# SPDX-License-Identifier: Apache-2.0
"""Requests whose right answers are known before the server is asked: from ONNX Runtime in this process, row by row.

A case is compared bit for bit: the answer without its id and its times must be the very bytes of the expected message.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import model_inference_pb2 as tensors
from concord_proto.inference.v1 import tensor_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

__all__ = [
    "PREDICT",
    "PREDICT_BATCH",
    "STREAM",
    "TENSOR",
    "TENSOR_BATCH",
    "Case",
    "Package",
    "answer_problem",
    "any_cases",
    "response_problem",
    "tensor_of",
]

PREDICT = "/inference.v1.InferenceService/Predict"
PREDICT_BATCH = "/inference.v1.InferenceService/BatchPredict"
STREAM = "/inference.v1.InferenceService/StreamPredict"
TENSOR = "/inference.v1.ModelInference/Predict"
TENSOR_BATCH = "/inference.v1.ModelInference/BatchPredict"

Array = npt.NDArray[Any]

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
_DTYPES = {
    np.dtype(np.float32): tensor_pb2.DATA_TYPE_FLOAT,
    np.dtype(np.float64): tensor_pb2.DATA_TYPE_DOUBLE,
    np.dtype(np.float16): tensor_pb2.DATA_TYPE_FLOAT16,
    np.dtype(np.int8): tensor_pb2.DATA_TYPE_INT8,
    np.dtype(np.uint8): tensor_pb2.DATA_TYPE_UINT8,
    np.dtype(np.int16): tensor_pb2.DATA_TYPE_INT16,
    np.dtype(np.uint16): tensor_pb2.DATA_TYPE_UINT16,
    np.dtype(np.int32): tensor_pb2.DATA_TYPE_INT32,
    np.dtype(np.uint32): tensor_pb2.DATA_TYPE_UINT32,
    np.dtype(np.int64): tensor_pb2.DATA_TYPE_INT64,
    np.dtype(np.uint64): tensor_pb2.DATA_TYPE_UINT64,
    np.dtype(np.bool_): tensor_pb2.DATA_TYPE_BOOL,
}


@dataclass(frozen=True)
class Case:
    """A request without its id, as bytes, and the answer without what differs from call to call."""

    name: str
    path: str
    request: bytes
    answer: bytes

    @property
    def kind(self) -> type[Message]:
        """The type of the answer."""
        return service.PredictResponse if self.path == PREDICT else tensors.PredictionResponse

    def with_id(self, request_id: str) -> bytes:
        """The request's bytes; its id is a field like others and may stand at the end."""
        text = request_id.encode()
        return self.request + (b"\x12" if self.path == PREDICT else b"\x1a") + bytes([len(text)]) + text

    def problem(self, request_id: str, data: bytes) -> str:
        """What is wrong with an answer; empty where nothing is."""
        return answer_problem(self.kind, request_id, self.answer, data, self.name)


def answer_problem(kind: type[Message], request_id: str, expected: bytes, data: bytes, name: str) -> str:
    """What is wrong with an answer's bytes; empty where nothing is."""
    try:
        response: Any = kind.FromString(data)
    except DecodeError:
        return f"{name}: expected a {kind.DESCRIPTOR.name}, got {len(data)} bytes that are none"
    return response_problem(response, request_id, expected, name)


def response_problem(response: Any, request_id: str, expected: bytes, name: str) -> str:
    """What is wrong with an answer; empty where nothing is. Takes from it what differs from call to call."""
    if response.request_id != request_id:
        return f"{name}: expected request_id {request_id!r}, got {response.request_id!r}"
    timing = response.timing
    times = [timing.queue_ms, timing.compute_ms, getattr(response, "latency_ms", 0.0)]
    if not all(math.isfinite(time) and time >= 0 for time in times):
        return f"{name}: expected times of at least 0, got {times}"
    if timing.batch_rows < 1:
        return f"{name}: expected timing.batch_rows of at least 1, got {timing.batch_rows}"
    for field in ("request_id", "timing", "latency_ms"):
        if field in response.DESCRIPTOR.fields_by_name:
            response.ClearField(field)
    got: bytes = response.SerializeToString(deterministic=True)
    if got != expected:
        right = type(response).FromString(expected)
        return f"{name}: expected {_short(right)}, got {_short(response)}"
    return ""


def _short(message: Message) -> str:
    return " ".join(str(message).split())[:400] + " " + message.SerializeToString(deterministic=True).hex()[:200]


class Package:
    """A model version on disk, run here."""

    def __init__(self, directory: Path) -> None:
        self.model_id, self.version = directory.parent.name, directory.name
        self.manifest = json_format.Parse(
            (directory / "manifest.json").read_text(encoding="utf-8"), manifest_pb2.Manifest()
        )
        self.golden = golden_pb2.GoldenSet.FromString((directory / "golden.binpb").read_bytes())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            (directory / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = self._session.get_inputs()
        self._outputs = [output.name for output in self._session.get_outputs()]

    def feature_cases(self, count: int, rng: random.Random) -> list[Case]:
        """Golden requests, then the same with their numbers moved at random; each with what the model gives here."""
        golden = [case.features for case in self.golden.cases if case.HasField("features")]
        made = []
        for index in range(count):
            request = service.PredictRequest()
            request.CopyFrom(golden[index % len(golden)])
            if index >= len(golden):
                self._vary(request, rng)
            request.model_id = self.model_id
            made.append(
                Case(
                    f"{self.model_id} {index}",
                    PREDICT,
                    request.SerializeToString(deterministic=True),
                    self.predict(request).SerializeToString(deterministic=True),
                )
            )
        return made

    def tensor_cases(self, count: int, rng: random.Random, most_rows: int = 5) -> list[Case]:
        """Several rows of features joined to tensors; each with what the model gives here."""
        golden = [case.features for case in self.golden.cases if case.HasField("features")]
        made = []
        for index in range(count):
            rows = []
            for _ in range(rng.randint(1, most_rows)):
                row = service.PredictRequest()
                row.CopyFrom(rng.choice(golden))
                self._vary(row, rng)
                rows.append(self._feed(row))
            feed = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
            request = tensors.PredictionRequest(model_id=self.model_id)
            answer = tensors.PredictionResponse(model_version=self.version)
            for name, array in feed.items():
                request.inputs[name].CopyFrom(tensor_of(array))
            for name, array in zip(self._outputs, self._run(feed), strict=True):
                answer.outputs[name].CopyFrom(tensor_of(array))
            made.append(
                Case(
                    f"{self.model_id} tensors {index}",
                    TENSOR,
                    request.SerializeToString(deterministic=True),
                    answer.SerializeToString(deterministic=True),
                )
            )
        return made

    def predict(self, request: service.PredictRequest) -> service.PredictResponse:
        """What the model gives for one row of features."""
        answer = service.PredictResponse(model_version=self.version)
        outputs = dict(zip(self._outputs, self._run(self._feed(request)), strict=True))
        for binding in self.manifest.predictions:
            element = outputs[binding.output].reshape(-1)[binding.index]
            answer.predictions[binding.prediction.name] = float(np.float32(element))
        for bound in self.manifest.outputs:
            row = outputs[bound.onnx_output].reshape(-1)
            if bound.output.shape:
                _put_array(answer.outputs[bound.output.name], row)
            else:
                _put_scalar(answer.outputs[bound.output.name], row[bound.index])
        return answer

    def _run(self, feed: dict[str, Array]) -> list[Array]:
        return list(self._session.run(self._outputs, feed))

    def _feed(self, request: service.PredictRequest) -> dict[str, Array]:
        feed: dict[str, Array] = {}
        for spec in self._inputs:
            bound = [binding for binding in self.manifest.features if binding.input == spec.name]
            row: list[Any] = []
            for binding in sorted(bound, key=lambda binding: binding.column):
                feature = binding.feature
                value = request.features.get(feature.name, feature.default_value)
                row.extend(_elements(value))
            shape = [length if isinstance(length, int) else -1 for length in spec.shape[1:]]
            feed[spec.name] = np.array(row, dtype=_NUMPY[spec.type]).reshape([1, *shape])
        return feed

    def _vary(self, request: service.PredictRequest, rng: random.Random) -> None:
        for value in request.features.values():
            kind = value.WhichOneof("value")
            if kind == "float_value":
                value.float_value = float(np.float32(value.float_value * rng.uniform(0.5, 1.5)))
            elif kind == "double_value":
                value.double_value *= rng.uniform(0.5, 1.5)
            elif kind == "float_array":
                moved = [float(np.float32(number * rng.uniform(0.5, 1.5))) for number in value.float_array.values]
                value.float_array.values[:] = moved
            elif kind == "bool_value":
                value.bool_value = rng.random() < 0.5


def any_cases(rng: random.Random, count: int) -> list[Case]:
    """Tensors of any shape for the fixtures `any-<dtype>`, which give back what they get: no arithmetic is needed."""
    plain = [
        ("float", tensor_pb2.DATA_TYPE_FLOAT, 4),
        ("double", tensor_pb2.DATA_TYPE_DOUBLE, 8),
        ("float16", tensor_pb2.DATA_TYPE_FLOAT16, 2),
        ("bfloat16", tensor_pb2.DATA_TYPE_BFLOAT16, 2),
        ("int8", tensor_pb2.DATA_TYPE_INT8, 1),
        ("int32", tensor_pb2.DATA_TYPE_INT32, 4),
        ("int64", tensor_pb2.DATA_TYPE_INT64, 8),
        ("uint16", tensor_pb2.DATA_TYPE_UINT16, 2),
        ("uint64", tensor_pb2.DATA_TYPE_UINT64, 8),
    ]
    made = []
    for index in range(count):
        name, dtype, size = plain[index % len(plain)]
        shape = [rng.randint(0 if rng.random() < 0.1 else 1, 6) for _ in range(rng.randint(0, 4))]
        data = rng.randbytes(math.prod(shape) * size)
        made.append(_echo(f"any-{name}", tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data), index))
        strings = [rng.randbytes(rng.randint(0, 40)) for _ in range(math.prod(shape))]
        text = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_STRING, shape=shape, strings=strings)
        made.append(_echo("any-string", text, index))
    return made


def _echo(model_id: str, tensor: tensor_pb2.Tensor, index: int) -> Case:
    request = tensors.PredictionRequest(model_id=model_id, inputs={"x": tensor})
    answer = tensors.PredictionResponse(model_version="1", outputs={"y": tensor})
    return Case(
        f"{model_id} {index} {list(tensor.shape)}",
        TENSOR,
        request.SerializeToString(deterministic=True),
        answer.SerializeToString(deterministic=True),
    )


def tensor_of(array: Array) -> tensor_pb2.Tensor:
    """The wire's tensor of an array of ONNX Runtime."""
    if array.dtype.kind in "OSU":
        strings = [text.encode() if isinstance(text, str) else bytes(text) for text in array.reshape(-1).tolist()]
        return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_STRING, shape=array.shape, strings=strings)
    return tensor_pb2.Tensor(dtype=_DTYPES[array.dtype], shape=array.shape, data=np.ascontiguousarray(array).tobytes())


def _elements(value: service.FeatureValue) -> Sequence[Any]:
    kind = value.WhichOneof("value")
    if kind in ("float_array", "int64_array", "string_array"):
        return list(getattr(value, kind).values)
    return [getattr(value, kind or "float_value")]


def _put_scalar(value: service.FeatureValue, element: Any) -> None:
    if isinstance(element, str):
        value.string_value = element
    elif isinstance(element, np.bool_):
        value.bool_value = bool(element)
    elif isinstance(element, np.integer):
        value.int64_value = int(element)
    elif isinstance(element, np.float64):
        value.double_value = float(element)
    else:
        value.float_value = float(np.float32(element))


def _put_array(value: service.FeatureValue, row: Array) -> None:
    if row.dtype.kind in "OSU":
        value.string_array.values.extend(row.tolist())
        value.string_array.SetInParent()
    elif row.dtype.kind in "iub":
        value.int64_array.values.extend(int(element) for element in row)
        value.int64_array.SetInParent()
    else:
        value.float_array.values.extend(row.astype(np.float32).tolist())
        value.float_array.SetInParent()
