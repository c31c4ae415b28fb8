# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours in doubles, by distances computed from differences: equal points have distance 0 exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from concord_export.nodes import DOUBLE, Nodes
from concord_export.registry import Own

__all__ = ["CONVERTERS"]


def _distances(graph: Nodes) -> str:
    """From each row to each point of the training, [rows, points]; one row at a time, so that memory stays small."""
    estimator = graph.estimator
    points = estimator._fit_X
    if not isinstance(points, np.ndarray):
        raise NotImplementedError(f"{type(estimator).__name__} fitted on sparse rows cannot be exported")
    metric, power = estimator.effective_metric_, 2.0
    if metric == "minkowski":
        if (estimator.effective_metric_params_ or {}).get("w") is not None:
            raise NotImplementedError("a weighted Minkowski distance cannot be exported")
        power = float(estimator.effective_metric_params_.get("p", estimator.p))
        metric = {1.0: "manhattan", 2.0: "euclidean", np.inf: "chebyshev"}.get(power, "minkowski")
    nodes = [helper.make_node("Sub", ["points", "row"], ["difference"])]
    constants = [numpy_helper.from_array(np.array([1]), "axes")]
    if metric == "euclidean":
        nodes.append(helper.make_node("ReduceSumSquare", ["difference", "axes"], ["sum"], keepdims=0))
        nodes.append(helper.make_node("Sqrt", ["sum"], ["distance"]))
    else:
        nodes.append(helper.make_node("Abs", ["difference"], ["size"]))
        if metric in ("manhattan", "cityblock", "l1"):
            nodes.append(helper.make_node("ReduceSum", ["size", "axes"], ["distance"], keepdims=0))
        elif metric == "chebyshev":
            nodes.append(helper.make_node("ReduceMax", ["size", "axes"], ["distance"], keepdims=0))
        elif metric == "minkowski":
            constants += [
                numpy_helper.from_array(np.array(power), "power"),
                numpy_helper.from_array(np.array(1.0 / power), "root"),
            ]
            nodes.append(helper.make_node("Pow", ["size", "power"], ["powers"]))
            nodes.append(helper.make_node("ReduceSum", ["powers", "axes"], ["sum"], keepdims=0))
            nodes.append(helper.make_node("Pow", ["sum", "root"], ["distance"]))
        else:
            raise NotImplementedError(f"{type(estimator).__name__} with metric {metric!r} cannot be exported")
    count, width = points.shape
    body = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["points"], ["points_out"])],
        "distances",
        [
            helper.make_tensor_value_info("points", TensorProto.DOUBLE, [count, width]),
            helper.make_tensor_value_info("row", TensorProto.DOUBLE, [width]),
        ],
        [
            helper.make_tensor_value_info("points_out", TensorProto.DOUBLE, [count, width]),
            helper.make_tensor_value_info("distance", TensorProto.DOUBLE, [count]),
        ],
        constants,
    )
    _, distances = graph.scan(np.asarray(points, np.float64), graph.rows(), body)
    return distances


def _neighbours(graph: Nodes) -> tuple[str, str]:
    """The nearest points' indices and weights, [rows, neighbours] each."""
    estimator = graph.estimator
    if estimator.weights not in ("uniform", "distance"):
        raise NotImplementedError(f"{type(estimator).__name__} with weights by a function cannot be exported")
    nearest, indices = graph.top(_distances(graph), estimator.n_neighbors)
    same = graph.cast(graph.op("Equal", nearest, 0.0), DOUBLE)
    if estimator.weights == "uniform":
        return indices, graph.op("Add", graph.op("Mul", nearest, 0.0), 1.0)
    # Where a neighbour is the row itself, only such neighbours count.
    found = graph.op("Greater", graph.sum(same, 1, keep=True), 0.0)
    return indices, graph.op("Where", found, same, graph.op("Reciprocal", nearest))


def _classifier(graph: Nodes) -> None:
    estimator = graph.estimator
    indices, weights = _neighbours(graph)
    several = estimator.outputs_2d_
    targets = np.asarray(estimator._y, np.int64).reshape(len(estimator._fit_X), -1)
    labels, scores = [], []
    for target, classes in zip(targets.T, estimator.classes_ if several else [estimator.classes_], strict=True):
        chosen = graph.insert_axis(graph.op("Gather", target.copy(), indices), 2)
        marks = graph.cast(graph.op("Equal", chosen, np.arange(len(classes))), DOUBLE)
        votes = graph.sum(graph.op("Mul", marks, graph.insert_axis(weights, 2)), 1)
        share = graph.op("Div", votes, graph.sum(votes, 1, keep=True))
        labels.append(graph.classes(graph.op("ArgMax", share, axis=1, keepdims=0), classes))
        scores.append(share)
    if several:
        labels = [graph.op("Concat", *(graph.op("Reshape", label, np.array([-1, 1])) for label in labels), axis=1)]
    graph.give_as_is(0, labels[0])
    graph.give(1, graph.op("Concat", *scores, axis=1))


def _regressor(graph: Nodes) -> None:
    estimator = graph.estimator
    indices, weights = _neighbours(graph)
    targets: Any = np.asarray(estimator._y, np.float64).reshape(len(estimator._fit_X), -1)
    values = graph.op("Gather", targets, indices, axis=0)
    weighted = graph.op("Mul", values, graph.insert_axis(weights, 2))
    graph.give(0, graph.op("Div", graph.sum(weighted, 1), graph.sum(weights, 1, keep=True)))


CONVERTERS = [
    Own(KNeighborsClassifier, ("label", "numbers"), _classifier),
    Own(KNeighborsRegressor, ("numbers",), _regressor),
]
