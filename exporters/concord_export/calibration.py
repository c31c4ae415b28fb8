# SPDX-License-Identifier: Apache-2.0
"""Calibrated classifiers and isotonic regression: skl2onnx rounds isotonic steps, and asks some estimators amiss."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression

from concord_export.nodes import DOUBLE, INT64, Nodes
from concord_export.registry import Own

__all__ = ["CONVERTERS"]


def _calibrated(graph: Nodes) -> None:
    estimator = graph.estimator
    parts = [_one(graph, member) for member in estimator.calibrated_classifiers_]
    scores = parts[0] if len(parts) == 1 else graph.op("Sum", *parts)
    if len(parts) > 1:
        scores = graph.op("Div", scores, float(len(parts)))
    graph.give_label(graph.op("ArgMax", scores, axis=1, keepdims=0), estimator.classes_)
    graph.give(1, scores)


def _one(graph: Nodes, member: Any) -> str:
    """Calibrated probabilities of one of the classifiers, [rows, classes]."""
    inner, count = member.estimator, len(member.classes)
    if len(inner.classes_) != count:
        raise NotImplementedError("CalibratedClassifierCV with a class that one of its parts has not seen")
    decides = hasattr(inner, "decision_function")
    _, given = graph.inside(inner, ("label", "numbers"), raw_scores=decides)
    given = graph.cast(given, DOUBLE)
    if count == 2 and (member.method != "temperature" or decides):
        # The last column is the second class's; of decision values there may be that one only.
        given = graph.gather(given, [-1])
    if member.method == "temperature":
        if decides:
            logits = graph.op("Concat", graph.op("Neg", given), given, axis=1) if count == 2 else given
        else:
            logits = graph.op("Log", graph.op("Add", given, 1e-12))
        return graph.op("Softmax", graph.op("Mul", logits, float(member.calibrators[0].beta_)), axis=1)
    columns = []
    for index, calibrator in enumerate(member.calibrators):
        value = graph.gather(given, [index])
        if member.method == "isotonic":
            columns.append(_interpolated(graph, value, calibrator))
        else:
            scaled = graph.op("Add", graph.op("Mul", value, float(calibrator.a_)), float(calibrator.b_))
            columns.append(graph.op("Sigmoid", graph.op("Neg", scaled)))
    if count == 2:
        return graph.op("Concat", graph.op("Sub", 1.0, columns[0]), columns[0], axis=1)
    each = graph.op("Concat", *columns, axis=1)
    total = graph.sum(each, 1, keep=True)
    none = graph.op("Equal", total, 0.0)
    shares = graph.op("Div", each, graph.op("Where", none, 1.0, total))
    return graph.op("Where", none, 1.0 / count, shares)


def _interpolated(graph: Nodes, value: str, isotonic: Any) -> str:
    """The line through the isotonic regression's points, at the values [rows, 1]."""
    at = np.asarray(isotonic.X_thresholds_, np.float64)
    levels = np.asarray(isotonic.y_thresholds_, np.float64)
    if isotonic.out_of_bounds != "clip":
        raise NotImplementedError(f"IsotonicRegression with out_of_bounds={isotonic.out_of_bounds!r}")
    if len(at) == 1:
        return graph.op("Add", graph.op("Mul", value, 0.0), float(levels[0]))
    value = graph.op("Max", graph.op("Min", value, float(isotonic.X_max_)), float(isotonic.X_min_))
    # The first point that is not below the value, but not the very first: the line to it begins at the one before.
    below = graph.sum(graph.cast(graph.op("Less", at, value), INT64), 1, keep=True)
    end = graph.op("Max", graph.op("Min", below, np.array([len(at) - 1])), np.array([1]))
    begin = graph.op("Sub", end, np.array([1]))
    slopes = np.diff(levels) / np.diff(at)
    run = graph.op("Sub", value, graph.op("Gather", at, begin))
    return graph.op("Add", graph.op("Mul", graph.op("Gather", slopes, begin), run), graph.op("Gather", levels, begin))


def _isotonic(graph: Nodes) -> None:
    graph.give(0, _interpolated(graph, graph.rows(), graph.estimator))


CONVERTERS = [
    Own(CalibratedClassifierCV, ("label", "numbers"), _calibrated),
    Own(IsotonicRegression, ("numbers",), _isotonic),
]
