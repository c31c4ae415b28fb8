# SPDX-License-Identifier: Apache-2.0
"""Golden cases: a few of the author's rows as requests, with the source model's answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from concord_proto.modelpackage.v1 import golden_pb2

from concord_export.answers import Answers, Question
from concord_export.columns import Columns
from concord_export.limits import Limits
from concord_export.parity import Trial
from concord_export.source import Feature, FeatureKind

__all__ = ["FEATURE_TYPES", "feature_value", "golden_set"]

FEATURE_TYPES: dict[FeatureKind, model_pb2.FeatureType] = {
    "float": model_pb2.FEATURE_TYPE_FLOAT,
    "double": model_pb2.FEATURE_TYPE_DOUBLE,
    "int64": model_pb2.FEATURE_TYPE_INT64,
    "bool": model_pb2.FEATURE_TYPE_BOOL,
    "string": model_pb2.FEATURE_TYPE_STRING,
}

_CASES = 8


def feature_value(feature: Feature, value: Any) -> inference_service_pb2.FeatureValue:
    """A value of the feature as clients send it; a list for an array. Raises TypeError, ValueError for another type."""
    message = inference_service_pb2.FeatureValue()
    if feature.shape:
        values = list(value)
        if len(values) != int(np.prod(feature.shape)):
            raise ValueError(f"expected {int(np.prod(feature.shape))} values, got {len(values)}")
        if feature.kind in ("float", "double"):
            message.float_array.values.extend(float(item) for item in values)
        elif feature.kind == "string":
            message.string_array.values.extend(values)
        else:
            message.int64_array.values.extend(int(item) for item in values)
    elif feature.kind == "float":
        message.float_value = float(value)
    elif feature.kind == "double":
        message.double_value = float(value)
    elif feature.kind == "int64":
        message.int64_value = int(value)
    elif feature.kind == "bool":
        message.bool_value = bool(value)
    else:
        message.string_value = value
    return message


def golden_set(question: Question, trial: Trial, limits: Limits) -> golden_pb2.GoldenSet:
    """Eight of the author's rows: one of each class, else spread from the least answer to the largest."""
    golden = golden_pb2.GoldenSet(absolute_tolerance=limits.absolute, relative_tolerance=limits.relative)
    for row in _choose(trial):
        case = golden.cases.add()
        _request(trial.columns, row, case.features)
        _answer(question, trial.expected, row, case.predictions)
    return golden


def _choose(trial: Trial) -> list[int]:
    expected, count = trial.expected, min(_CASES, trial.real)
    chosen: list[int] = []
    if expected.labels is not None:
        _, first = np.unique(expected.labels[: trial.real].astype(str), axis=0, return_index=True)
        chosen = sorted(first.tolist())[:count]
    answers = expected.numbers[: trial.real, 0] if expected.numbers.shape[1] else np.zeros(trial.real)
    by_answer = np.argsort(answers, kind="stable")
    spread = by_answer[np.linspace(0, trial.real - 1, count).round().astype(int)].tolist()
    for row in [*spread, *range(trial.real)]:
        if len(chosen) < count and row not in chosen:
            chosen.append(row)
    return sorted(chosen)


def _request(columns: Columns, row: int, request: inference_service_pb2.PredictRequest) -> None:
    values = columns.row(row)
    for feature in columns.features:
        request.features[feature.name].CopyFrom(feature_value(feature, values[feature.name]))


def _answer(question: Question, answers: Answers, row: int, answer: inference_service_pb2.PredictResponse) -> None:
    with np.errstate(over="ignore"):
        numbers = answers.numbers[row].astype(np.float32)
    if question.array:
        answer.outputs[question.array].float_array.values.extend(numbers.tolist())
    else:
        for name, number in zip(question.names, numbers, strict=True):
            answer.predictions[name] = float(number)
    if answers.labels is not None and question.label is not None:
        label = question.label
        shape = (label.count,) if label.count else ()
        value = answers.labels[row : row + 1].tolist()[0]
        answer.outputs[label.name].CopyFrom(feature_value(Feature(label.name, label.kind, shape), value))
