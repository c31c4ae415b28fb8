# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's neural networks in doubles; skl2onnx takes two labels for two classes."""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from concord_export.nodes import INT64, Nodes
from concord_export.registry import Own

__all__ = ["CONVERTERS"]

_ACTIVATIONS = {"logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}


def _layers(graph: Nodes) -> str:
    """What comes out of the last layer, before its activation."""
    estimator = graph.estimator
    value = graph.rows()
    for index, (weights, offset) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        if index and estimator.activation != "identity":
            value = graph.op(_ACTIVATIONS[estimator.activation], value)
        value = graph.affine(value, weights, offset)
    return value


def _classifier(graph: Nodes) -> None:
    estimator = graph.estimator
    value = _layers(graph)
    if estimator.out_activation_ == "softmax":
        scores = graph.op("Softmax", value, axis=1)
        graph.give_label(graph.op("ArgMax", scores, axis=1, keepdims=0), estimator.classes_)
        graph.give(1, scores)
        return
    scores = graph.op("Sigmoid", value)
    chosen = graph.cast(graph.op("Greater", scores, 0.5), INT64)
    if estimator._label_binarizer.y_type_.startswith("multilabel"):
        graph.give_as_is(0, chosen)
    else:
        graph.give_label(graph.op("Squeeze", chosen, np.array([1])), estimator.classes_)
        scores = graph.op("Concat", graph.op("Sub", 1.0, scores), scores, axis=1)
    graph.give(1, scores)


def _regressor(graph: Nodes) -> None:
    value = _layers(graph)
    graph.give(0, graph.op("Exp", value) if graph.estimator.out_activation_ == "exp" else value)


CONVERTERS = [
    Own(MLPClassifier, ("label", "numbers"), _classifier),
    Own(MLPRegressor, ("numbers",), _regressor),
]
