# SPDX-License-Identifier: Apache-2.0
"""Linear and constant models that skl2onnx gets wrong or does not know, in doubles."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import FactorAnalysis, FastICA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.random_projection import SparseRandomProjection

from concord_export.nodes import INT64, Nodes
from concord_export.pipelines import Projection
from concord_export.registry import Converter, Own

__all__ = ["CONVERTERS", "REPLACEMENTS"]


def _discriminant(graph: Nodes) -> None:
    """With two classes scikit-learn takes the sigmoid of one decision value; skl2onnx takes the softmax of two."""
    estimator = graph.estimator
    decision = graph.affine(graph.rows(), estimator.coef_.T, estimator.intercept_)
    if len(estimator.classes_) == 2:
        index = graph.cast(graph.op("Squeeze", graph.op("Greater", decision, 0.0), np.array([1])), INT64)
        second = graph.op("Sigmoid", decision)
        first = graph.op("Sub", 1.0, second)
        if graph.option("raw_scores"):
            first, second = graph.op("Neg", decision), decision
        graph.give(1, graph.op("Concat", first, second, axis=1))
    else:
        index = graph.op("ArgMax", decision, axis=1, keepdims=0)
        graph.give(1, decision if graph.option("raw_scores") else graph.op("Softmax", decision, axis=1))
    graph.give_label(index, estimator.classes_)


def _modified_huber(original: Converter) -> Converter:
    """skl2onnx divides by a sum that is zero where no class is likely."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = Nodes(scope, operator, container)
        estimator = graph.estimator
        if estimator.loss != "modified_huber" or graph.option("raw_scores"):
            original(scope, operator, container)
            return
        decision = graph.affine(graph.rows(), estimator.coef_.T, estimator.intercept_)
        half = graph.op("Div", graph.op("Add", graph.op("Clip", decision, -1.0, 1.0), 1.0), 2.0)
        if len(estimator.classes_) == 2:
            index = graph.cast(graph.op("Squeeze", graph.op("Greater", decision, 0.0), np.array([1])), INT64)
            scores = graph.op("Concat", graph.op("Sub", 1.0, half), half, axis=1)
        else:
            index = graph.op("ArgMax", decision, axis=1, keepdims=0)
            none = graph.op("Equal", graph.sum(half, 1, keep=True), 0.0)
            shares = graph.op("Where", none, np.ones((1, len(estimator.classes_))), half)
            scores = graph.op("Div", shares, graph.sum(shares, 1, keep=True))
        graph.give(1, scores)
        graph.give_label(index, estimator.classes_)

    return convert


def _multi_label_ridge(original: Converter) -> Converter:
    """RidgeClassifier, of several labels too, which skl2onnx takes for several classes."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = Nodes(scope, operator, container)
        estimator = graph.estimator
        binarizer = getattr(estimator, "_label_binarizer", None)
        if binarizer is None or not binarizer.y_type_.startswith("multilabel"):
            original(scope, operator, container)
            return
        decision = graph.affine(graph.rows(), estimator.coef_.T, estimator.intercept_)
        graph.give_as_is(0, graph.cast(graph.op("Greater", decision, 0.0), INT64))
        graph.give(1, decision)

    return convert


def _one_vs_rest(original: Converter) -> Converter:
    """Several labels by linear models without probabilities, as LinearSVC."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = Nodes(scope, operator, container)
        estimator = graph.estimator
        members = estimator.estimators_
        if not estimator.multilabel_ or any(
            hasattr(member, "predict_proba") or not hasattr(member, "coef_") for member in members
        ):
            original(scope, operator, container)
            return
        matrix = np.concatenate([member.coef_.reshape(1, -1) for member in members]).T
        offset = np.array([float(np.ravel(member.intercept_)[0]) for member in members])
        decision = graph.affine(graph.rows(), matrix, offset)
        graph.give_as_is(0, graph.cast(graph.op("Greater", decision, 0.0), INT64))
        graph.give(1, decision)

    return convert


def _affine(graph: Nodes) -> None:
    """Any transformer that is affine: what it makes of zero and of the unit vectors tells all."""
    estimator = graph.estimator
    width = estimator.n_features_in_
    made = estimator.transform(np.concatenate([np.zeros((1, width)), np.eye(width)]))
    made = np.asarray(made.toarray() if hasattr(made, "toarray") else made, np.float64)
    graph.give(0, graph.affine(graph.rows(), made[1:] - made[0], made[0]))


def _dummy_classifier(graph: Nodes) -> None:
    estimator = graph.estimator
    if estimator.strategy in ("stratified", "uniform"):
        raise NotImplementedError(f"DummyClassifier with strategy {estimator.strategy!r} answers at random")
    if isinstance(estimator.classes_, list):
        raise NotImplementedError("DummyClassifier of several labels cannot be exported")
    row = np.zeros((1, 1))
    shares, label = estimator.predict_proba(row), estimator.predict(row)
    index = int(np.flatnonzero(estimator.classes_ == label[0])[0])
    count = graph.op("Shape", graph.rows(), start=0, end=1)
    graph.give_label(graph.op("Expand", np.array([index]), count), estimator.classes_)
    shape = graph.op("Concat", count, np.array([shares.shape[1]]), axis=0)
    graph.give(1, graph.op("Expand", shares, shape))


def _dummy_regressor(graph: Nodes) -> None:
    value = np.asarray(graph.estimator.constant_, np.float64).reshape(1, -1)
    count = graph.op("Shape", graph.rows(), start=0, end=1)
    graph.give(0, graph.op("Expand", value, graph.op("Concat", count, np.array([value.shape[1]]), axis=0)))


CONVERTERS = [
    Own(LinearDiscriminantAnalysis, ("label", "numbers"), _discriminant),
    Own(DummyClassifier, ("label", "numbers"), _dummy_classifier),
    Own(DummyRegressor, ("numbers",), _dummy_regressor),
    *(Own(kind, ("numbers",), _affine) for kind in (FactorAnalysis, FastICA, SparseRandomProjection, Projection)),
]

REPLACEMENTS = {
    "SklearnSGDClassifier": _modified_huber,
    "SklearnLinearClassifier": _multi_label_ridge,
    "SklearnOneVsRestClassifier": _one_vs_rest,
}
