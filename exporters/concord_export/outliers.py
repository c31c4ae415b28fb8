# SPDX-License-Identifier: Apache-2.0
"""Outlier detectors in doubles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._iforest import _average_path_length

from concord_export.nodes import Nodes
from concord_export.registry import Own
from concord_export.trees import Tree, add_ensemble

__all__ = ["CONVERTERS"]


def _decide(graph: Nodes, inlier: str) -> None:
    inlier = graph.op("Squeeze", inlier, np.array([1]))
    graph.give_as_is(0, graph.op("Where", inlier, np.array([1]), np.array([-1])))


def _isolation_forest(graph: Nodes) -> None:
    """The depths of a row's leaves are added up exactly; on them, too, it is decided which rows are outliers.

    Between the depths and the score lies a power of two, which may differ in its last bit from one library to the
    next; with `contamination` a training row's score is the very limit.
    """
    estimator = graph.estimator
    trees = []
    for index, (member, columns) in enumerate(zip(estimator.estimators_, estimator.estimators_features_, strict=True)):
        lengths = estimator._decision_path_lengths[index] + estimator._average_path_length_per_tree[index] - 1.0
        trees.append((0, Tree.of_isolation(member.tree_, np.asarray(columns, np.int64), lengths)))
    depths = add_ensemble(graph, trees, 1, float_input=True)
    denominator = float(len(estimator.estimators_) * _average_path_length([estimator._max_samples])[0])

    def decision(depth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        share = np.divide(depth, denominator, out=np.ones_like(depth), where=denominator != 0)
        return np.asarray(-(2**-share) - estimator.offset_, np.float64)

    _decide(graph, graph.op("GreaterOrEqual", depths, _least_inlier(decision, denominator * 64.0)))
    if denominator == 0:
        depths, denominator = graph.op("Add", graph.op("Mul", depths, 0.0), 1.0), 1.0
    score = graph.op("Pow", 2.0, graph.op("Neg", graph.op("Div", depths, denominator)))
    graph.give(1, graph.op("Sub", graph.op("Neg", score), float(estimator.offset_)))


def _least_inlier(decision: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], most: float) -> float:
    """The least depth whose decision value is not below 0, found by halving: the value grows with the depth."""
    low, high = 0.0, most
    if decision(np.array([low]))[0] >= 0:
        return -np.inf
    if decision(np.array([high]))[0] < 0:
        return np.inf
    while np.nextafter(low, high) < high:
        middle = low + (high - low) / 2
        if decision(np.array([middle]))[0] < 0:
            low = middle
        else:
            high = middle
    return high


def _elliptic_envelope(graph: Nodes) -> None:
    estimator = graph.estimator
    centered = graph.op("Sub", graph.rows(), np.asarray(estimator.location_, np.float64))
    product = graph.op("MatMul", centered, np.asarray(estimator.get_precision(), np.float64))
    distance = graph.sum(graph.op("Mul", product, centered), 1, keep=True)
    decision = graph.op("Sub", graph.op("Neg", distance), float(estimator.offset_))
    _decide(graph, graph.op("GreaterOrEqual", decision, 0.0))
    graph.give(1, decision)


CONVERTERS = [
    Own(IsolationForest, ("label", "numbers"), _isolation_forest),
    Own(EllipticEnvelope, ("label", "numbers"), _elliptic_envelope),
]
