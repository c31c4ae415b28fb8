# SPDX-License-Identifier: Apache-2.0
"""The golden cases: a model proves itself on the path that requests take. It is also the warm-up."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import inference_service_pb2, model_inference_pb2, model_pb2
from concord_proto.modelpackage.v1 import golden_pb2
from google.protobuf.message import DecodeError

from concord_server import batch
from concord_server.fault import Fault, Violation, quote
from concord_server.feature import EncodeError
from concord_server.generate import Generator, put_answer
from concord_server.model import Call, Model, check_config, decode_tensors, kind_text
from concord_server.model.generation import shortest
from concord_server.repository.device import Classes, Tolerance
from concord_server.repository.disk import RefusedError
from concord_server.tensor import DType, Tensor, dtype_name, float32_of, from_wire, shape_text

__all__ = ["generator_test", "golden_rows", "near", "self_test"]

_GOLDEN = "golden.binpb"
_MOST_ROWS = 32  # that are more than proved


def self_test(model: Model, data: bytes, on: Classes) -> None:
    """Asks a model its golden cases. Raises RefusedError at the first miss.

    The classes of a device widen the set's own tolerances.
    """
    golden = _parsed(data)
    tolerance = Tolerance(golden.absolute_tolerance, golden.relative_tolerance)
    if not tolerance.valid:
        raise RefusedError(f"{_GOLDEN}: expected finite tolerances of at least 0, got {tolerance}")
    exam = _Exam(tolerance, on)
    for i, case in enumerate(golden.cases):
        try:
            _ask(exam, model, case)
        except (RefusedError, Fault) as error:
            raise RefusedError(f"golden case {i}: {error}") from error


def generator_test(generator: Generator, data: bytes) -> None:
    """Asks a text generator its golden cases. Raises RefusedError at the first answer that is not the very same."""
    for i, case in enumerate(_parsed(data).cases):
        try:
            if case.WhichOneof("request") != "features" or case.WhichOneof("answer") != "predictions":
                raise RefusedError("expected features and predictions, as for a model of kind generator")
            _ask_generator(generator, case.features, case.predictions)
        except (RefusedError, Fault) as error:
            raise RefusedError(f"golden case {i}: {error}") from error


def _parsed(data: bytes) -> golden_pb2.GoldenSet:
    golden = golden_pb2.GoldenSet()
    try:
        golden.ParseFromString(data)
    except DecodeError as error:
        raise RefusedError(f"{_GOLDEN} is no golden set") from error
    if not golden.cases:
        raise RefusedError(f"{_GOLDEN}: expected at least 1 case, got 0")
    return golden


def _ask_generator(
    generator: Generator,
    request: inference_service_pb2.PredictRequest,
    wanted: inference_service_pb2.PredictResponse,
) -> None:
    check_config(request.config)
    asked = generator.ask(request.features, request.config, "")
    tokens, ending = generator.begin(asked, Call(), time.perf_counter()).wait()
    if ending.fault is not None:
        raise ending.fault
    got = inference_service_pb2.PredictResponse()
    put_answer(tokens, ending, got)
    _compare_values(_Exam(Tolerance(0, 0), {}), got, wanted)
    if wanted.finish_reason not in (inference_service_pb2.FINISH_REASON_UNSPECIFIED, ending.reason):
        reasons = inference_service_pb2.FinishReason
        names = [
            reasons.Name(reason).removeprefix("FINISH_REASON_") for reason in (wanted.finish_reason, ending.reason)
        ]
        raise RefusedError(f"finish_reason: expected {names[0]}, got {names[1]}")


def golden_rows(model: Model, data: bytes) -> Sequence[tuple[Sequence[Tensor], Sequence[int]]]:
    """The inputs and the wanted outputs of the first golden cases that are one row, of a model that answered all."""
    rows: list[tuple[Sequence[Tensor], Sequence[int]]] = []
    for case in golden_pb2.GoldenSet.FromString(data).cases[:_MOST_ROWS]:
        if model.kind == model_pb2.MODEL_KIND_TENSOR:
            inputs, wanted = decode_tensors(model, case.tensors.inputs, case.tensors.output_names)
            if not model.batchable or all(tensor.array.shape[:1] == (1,) for tensor in inputs):
                rows.append((inputs, wanted))
            elif all(len(tensor.array) == len(inputs[0].array) > 0 for tensor in inputs):
                first = [Tensor(tensor.dtype, tensor.array[:1]) for tensor in inputs]
                rows.append((first, wanted))
        else:
            plan = model.plan()
            rows.append((plan.decode(case.features.features), plan.wanted))
    return rows


@dataclass(frozen=True, slots=True)
class _Exam:
    """What answers are held to: a tolerance, wider by the class of the answer's type."""

    near: Tolerance
    on: Classes

    def holds(self, dtype: DType, answer: float, expected: float) -> bool:
        """Compares numbers: NaN equals NaN, an infinity itself."""
        if answer == expected or (math.isnan(answer) and math.isnan(expected)):
            return True
        if math.isinf(answer) or math.isinf(expected):
            return False
        wider = self.on.get(dtype, _EXACT)
        most = self.near.absolute + wider.absolute + (self.near.relative + wider.relative) * abs(expected)
        return abs(answer - expected) <= most


_EXACT = Tolerance(0, 0)


def near(on: Classes, answer: Tensor, expected: Tensor) -> bool:
    """Whether a row's answer is within the class of its own answer elsewhere."""
    return _tensor_miss(_Exam(_EXACT, on), answer, expected) is None


def _ask(near: _Exam, model: Model, case: golden_pb2.GoldenCase) -> None:
    request, answer = case.WhichOneof("request"), case.WhichOneof("answer")
    if model.kind == model_pb2.MODEL_KIND_TENSOR:
        if request != "tensors" or answer != "outputs":
            raise RefusedError("expected tensors and outputs, as for a model of kind tensor")
        _ask_tensors(near, model, case.tensors, case.outputs)
    else:
        if request != "features" or answer != "predictions":
            kind = kind_text(model.kind)
            raise RefusedError(f"expected features and predictions, as for a model of kind {kind}")
        _ask_features(near, model, case.features, case.predictions)


def _ask_features(
    near: _Exam,
    model: Model,
    request: inference_service_pb2.PredictRequest,
    wanted: inference_service_pb2.PredictResponse,
) -> None:
    plan = model.plan()
    result = batch.one(model, plan.decode(request.features), plan.wanted, Call())
    got = inference_service_pb2.PredictResponse()
    try:
        plan.encode(result.outputs, got)
    except EncodeError as error:
        raise RefusedError(str(error)) from error
    for name in sorted(wanted.predictions):
        expected = wanted.predictions[name]
        if name not in got.predictions:
            raise RefusedError(f"prediction {quote(name)}: expected {shortest(expected)}, got nothing")
        if not near.holds(DType.FLOAT, got.predictions[name], expected):
            numbers = f"expected {shortest(expected)}, got {shortest(got.predictions[name])}"
            raise RefusedError(f"prediction {quote(name)}: {numbers}")
    _compare_values(near, got, wanted)


def _compare_values(
    near: _Exam, got: inference_service_pb2.PredictResponse, wanted: inference_service_pb2.PredictResponse
) -> None:
    for name in sorted(wanted.outputs):
        value = wanted.outputs[name]
        if name not in got.outputs:
            raise RefusedError(f"output {quote(name)}: expected {_value_text(value)}, got nothing")
        if not _value_holds(near, got.outputs[name], value):
            values = f"expected {_value_text(value)}, got {_value_text(got.outputs[name])}"
            raise RefusedError(f"output {quote(name)}: {values}")


def _ask_tensors(
    near: _Exam,
    model: Model,
    request: model_inference_pb2.PredictionRequest,
    wanted: model_inference_pb2.PredictionResponse,
) -> None:
    specs = model.session.outputs
    inputs, asked = decode_tensors(model, request.inputs, request.output_names)
    result = batch.one(model, inputs, asked, Call())
    got = {specs[i].name: (specs[i], tensor) for i, tensor in zip(asked, result.outputs, strict=True)}
    for name in sorted(wanted.outputs):
        if name not in got:
            raise RefusedError(f"output {quote(name)}: the graph has no such output")
        spec, answer = got[name]
        expected = from_wire(wanted.outputs[name], spec)
        if isinstance(expected, Violation):
            raise RefusedError(f"output {quote(name)}: {expected.message}")
        if miss := _tensor_miss(near, answer, expected):
            raise RefusedError(f"output {quote(name)}: {miss}")


def _value_holds(
    near: _Exam, answer: inference_service_pb2.FeatureValue, expected: inference_service_pb2.FeatureValue
) -> bool:
    kind = expected.WhichOneof("value")
    if kind is None or answer.WhichOneof("value") != kind:
        return False
    if kind in ("float_value", "double_value"):
        dtype = DType.FLOAT if kind == "float_value" else DType.DOUBLE
        return near.holds(dtype, getattr(answer, kind), getattr(expected, kind))
    if kind == "float_array":
        got, wanted = answer.float_array.values, expected.float_array.values
        return len(got) == len(wanted) and all(near.holds(DType.FLOAT, a, b) for a, b in zip(got, wanted, strict=True))
    return bool(answer == expected)


def _value_text(value: inference_service_pb2.FeatureValue) -> str:
    """A value in a message, an array by its kind and length."""
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return "nothing"
        case "float_value":
            return shortest(value.float_value)
        case "double_value":
            return shortest(value.double_value, np.float64)
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "string_value":
            return quote(value.string_value)
        case "int64_value":
            return str(value.int64_value)
        case _:
            noun = {"float_array": "floats", "int64_array": "integers", "string_array": "strings"}[kind]
            return f"other values ({len(getattr(value, kind).values)} {noun})"


def _tensor_miss(near: _Exam, answer: Tensor, expected: Tensor) -> str | None:
    if answer.dtype != expected.dtype or answer.array.shape != expected.array.shape:
        wanted = f"{dtype_name(expected.dtype)} {shape_text(expected.array.shape)}"
        return f"expected {wanted}, got {dtype_name(answer.dtype)} {shape_text(answer.array.shape)}"
    for i, (got, wanted_element) in enumerate(zip(_elements(answer), _elements(expected), strict=True)):
        same = near.holds(expected.dtype, got, wanted_element) if expected.dtype.is_float else got == wanted_element
        if not same:
            return f"element {i}: expected {_element_text(wanted_element)}, got {_element_text(got)}"
    return None


def _elements(tensor: Tensor) -> list[Any]:
    array: npt.NDArray[Any] = tensor.array
    if tensor.dtype in (DType.FLOAT16, DType.BFLOAT16):
        array = float32_of(tensor)
    elif tensor.dtype is DType.BOOL:
        array = array.astype(np.uint8)
    return list(array.reshape(-1).tolist())


def _element_text(element: float | int | bytes) -> str:
    if isinstance(element, bytes):
        return quote(element.decode("utf-8", "replace"))
    return shortest(element, np.float64) if isinstance(element, float) else str(element)
