# SPDX-License-Identifier: Apache-2.0
"""Kernel methods in doubles: ONNX Runtime's SVM operators compute in 32-bit floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVR, NuSVR, OneClassSVM

from concord_export.nodes import Nodes
from concord_export.registry import Own

__all__ = ["CONVERTERS"]


def _kernel(
    graph: Nodes, rows: str, points: npt.NDArray[Any], kind: Any, *, gamma: float, degree: float, coef0: float
) -> str:
    """The kernel of each row with each point, [rows, points]."""
    points = np.asarray(points, np.float64)
    product = graph.op("MatMul", rows, points.T.copy())
    if kind == "linear":
        return product
    if kind == "rbf":
        squares = graph.op("Add", graph.op("ReduceSumSquare", rows, np.array([1]), keepdims=1), (points**2).sum(axis=1))
        distance = graph.op("Max", graph.op("Sub", squares, graph.op("Mul", product, 2.0)), 0.0)
        return graph.op("Exp", graph.op("Mul", distance, -gamma))
    if kind in ("poly", "polynomial"):
        return graph.op("Pow", graph.op("Add", graph.op("Mul", product, gamma), coef0), float(degree))
    if kind == "sigmoid":
        return graph.op("Tanh", graph.op("Add", graph.op("Mul", product, gamma), coef0))
    name = kind if isinstance(kind, str) else "that is a function"
    raise NotImplementedError(f"{type(graph.estimator).__name__} with a kernel {name!r} cannot be exported")


def _support_vectors(graph: Nodes) -> str:
    estimator = graph.estimator
    if estimator._sparse:
        raise NotImplementedError(f"{type(estimator).__name__} fitted on sparse rows cannot be exported")
    kernel = _kernel(
        graph,
        graph.rows(),
        estimator.support_vectors_,
        estimator.kernel,
        gamma=float(estimator._gamma),
        degree=estimator.degree,
        coef0=estimator.coef0,
    )
    return graph.affine(kernel, estimator._dual_coef_.T.copy(), estimator._intercept_)


def _regression(graph: Nodes) -> None:
    """SVR, NuSVR."""
    graph.give(0, _support_vectors(graph))


def _one_class(graph: Nodes) -> None:
    decision = _support_vectors(graph)
    inlier = graph.op("Squeeze", graph.op("Greater", decision, 0.0), np.array([1]))
    graph.give_as_is(0, graph.op("Where", inlier, np.array([1]), np.array([-1])))
    graph.give(1, decision)


def _gamma(graph: Nodes, gamma: float | None) -> float:
    return 1.0 / graph.estimator.n_features_in_ if gamma is None else float(gamma)


def _named_kernel(graph: Nodes, points: npt.NDArray[Any]) -> str:
    """The kernel of an estimator with kernel, gamma, degree and coef0; their defaults are pairwise_kernels' own."""
    estimator = graph.estimator
    if estimator.kernel_params:
        raise NotImplementedError(f"{type(estimator).__name__} with kernel_params cannot be exported")
    return _kernel(
        graph,
        graph.rows(),
        points,
        estimator.kernel,
        gamma=_gamma(graph, estimator.gamma),
        degree=3 if estimator.degree is None else estimator.degree,
        coef0=1 if estimator.coef0 is None else estimator.coef0,
    )


def _kernel_ridge(graph: Nodes) -> None:
    estimator = graph.estimator
    kernel = _named_kernel(graph, estimator.X_fit_)
    graph.give(0, graph.op("MatMul", kernel, estimator.dual_coef_.reshape(len(estimator.X_fit_), -1)))


def _nystroem(graph: Nodes) -> None:
    estimator = graph.estimator
    graph.give(0, graph.op("MatMul", _named_kernel(graph, estimator.components_), estimator.normalization_.T.copy()))


def _rbf_sampler(graph: Nodes) -> None:
    estimator = graph.estimator
    wave = graph.op("Cos", graph.affine(graph.rows(), estimator.random_weights_, estimator.random_offset_))
    graph.give(0, graph.op("Mul", wave, float(np.sqrt(2.0 / estimator.n_components))))


CONVERTERS = [
    Own(SVR, ("numbers",), _regression),
    Own(NuSVR, ("numbers",), _regression),
    Own(OneClassSVM, ("label", "numbers"), _one_class),
    Own(KernelRidge, ("numbers",), _kernel_ridge),
    Own(Nystroem, ("numbers",), _nystroem),
    Own(RBFSampler, ("numbers",), _rbf_sampler),
]
