# SPDX-License-Identifier: Apache-2.0
"""Clusterings and mixtures in doubles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cluster import AffinityPropagation, Birch, BisectingKMeans, MeanShift
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from concord_export.nodes import Nodes
from concord_export.registry import Own

__all__ = ["CONVERTERS"]


def _squared_distances(graph: Nodes, rows: str, centers: npt.NDArray[Any]) -> str:
    """Of each row to each centre, less the row's own square, which is the same for all: [rows, centres]."""
    centers = np.asarray(centers, np.float64)
    product = graph.op("MatMul", rows, -2.0 * centers.T)
    return graph.op("Add", product, (centers**2).sum(axis=1))


def _nearest(graph: Nodes) -> None:
    """MeanShift, AffinityPropagation, Birch: the cluster of the nearest centre. The distances are given as well."""
    estimator = graph.estimator
    birch = isinstance(estimator, Birch)
    centers = estimator.subcluster_centers_ if birch else estimator.cluster_centers_
    distances = _squared_distances(graph, graph.rows(), centers)
    index = graph.op("ArgMin", distances, axis=1, keepdims=0)
    if birch:
        index = graph.op("Gather", np.asarray(estimator.subcluster_labels_, np.int64), index)
    graph.give_as_is(0, index)
    graph.give(1, distances)


def _bisecting(graph: Nodes) -> None:
    """The rows go down the tree of clusters, to the nearer of two centres each time."""
    estimator = graph.estimator
    rows = graph.rows()
    mean = getattr(estimator, "_X_mean", 0.0)

    def label(node: Any) -> str:
        if node.left is None:
            return graph.array(np.array([node.label], np.int64))
        distances = _squared_distances(graph, rows, np.stack([node.left.center, node.right.center]) + mean)
        right = graph.op("ArgMin", distances, axis=1, keepdims=0)
        return graph.op("Where", graph.op("Equal", right, np.array([0])), label(node.left), label(node.right))

    # With one cluster only, all rows are in it; the sum of nothing gives the label its length.
    zeros = graph.op("Mul", graph.op("ArgMin", rows, axis=1, keepdims=0), np.array([0]))
    graph.give_as_is(0, graph.op("Add", label(estimator._bisecting_tree), zeros))
    centers = np.asarray(estimator.cluster_centers_, np.float64)
    squares = graph.op("ReduceSumSquare", rows, np.array([1]), keepdims=1)
    distances = graph.op("Add", _squared_distances(graph, rows, centers), squares)
    graph.give(1, graph.op("Sqrt", graph.op("Max", distances, 0.0)))


def _mixture(graph: Nodes) -> None:
    """Probabilities from the precisions' Cholesky factors; the constants are asked of the estimator itself."""
    estimator = graph.estimator
    rows = graph.rows()
    means = np.asarray(estimator.means_, np.float64)
    parts = []
    constants = []
    at_zero = estimator._estimate_weighted_log_prob(np.zeros((1, means.shape[1])))[0]
    for index, mean in enumerate(means):
        factor = _factor(estimator, index)
        shifted = graph.affine(rows, factor, -(mean @ factor))
        parts.append(graph.op("ReduceSumSquare", shifted, np.array([1]), keepdims=1))
        constants.append(at_zero[index] + 0.5 * float(((mean @ factor) ** 2).sum()))
    distances = graph.op("Concat", *parts, axis=1)
    log = graph.op("Add", graph.op("Mul", distances, -0.5), np.array(constants))
    graph.give_as_is(0, graph.op("ArgMax", log, axis=1, keepdims=0))
    graph.give(1, graph.op("Softmax", log, axis=1))


def _factor(estimator: Any, index: int) -> npt.NDArray[np.float64]:
    cholesky: npt.NDArray[np.float64] = np.asarray(estimator.precisions_cholesky_, np.float64)
    width = estimator.means_.shape[1]
    if estimator.covariance_type == "full":
        return np.asarray(cholesky[index])
    if estimator.covariance_type == "tied":
        return cholesky
    return np.asarray(np.eye(width) * cholesky[index], np.float64)


CONVERTERS = [
    *(Own(kind, ("label", "numbers"), _nearest) for kind in (MeanShift, AffinityPropagation, Birch)),
    Own(BisectingKMeans, ("label", "numbers"), _bisecting),
    *(Own(kind, ("label", "numbers"), _mixture) for kind in (GaussianMixture, BayesianGaussianMixture)),
]
