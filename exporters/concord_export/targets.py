# SPDX-License-Identifier: Apache-2.0
"""Estimators around estimators: several targets, chains of them, and targets that are transformed."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsOneClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, RegressorChain
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from concord_export.nodes import DOUBLE, INT64, Nodes
from concord_export.preprocessing import apply_function
from concord_export.registry import Own

__all__ = ["CONVERTERS"]

_COLUMN = np.array([-1, 1])


def _multi_output_classifier(graph: Nodes) -> None:
    """Labels [rows, targets]; the probabilities of all targets' classes, one target's after the other's."""
    labels, scores = [], []
    for member in graph.estimator.estimators_:
        if not hasattr(member, "predict_proba"):
            raise NotImplementedError(f"MultiOutputClassifier of {type(member).__name__}, which has no predict_proba")
        label, numbers = graph.inside(member, ("label", "numbers"))
        labels.append(graph.op("Reshape", label, _COLUMN))
        scores.append(numbers)
    graph.give_as_is(0, graph.op("Concat", *labels, axis=1))
    graph.give(1, graph.op("Concat", *scores, axis=1))


def _chained(graph: Nodes, estimator: Any, outputs: tuple[str, ...]) -> list[list[str]]:
    """What each link of a chain gives, as columns: it sees the rows and what the links before it predicted."""
    rows = graph.rows()
    seen = [rows]
    given = []
    for member in estimator.estimators_:
        augmented = graph.op("Concat", *seen, axis=1) if len(seen) > 1 else rows
        columns = list(graph.inside(member, outputs, rows=augmented))
        columns[0] = graph.op("Reshape", columns[0], _COLUMN)
        given.append(columns)
        seen.append(graph.cast(columns[0], DOUBLE))
    return given


def _in_order(estimator: Any, columns: list[str]) -> list[str]:
    return [columns[list(estimator.order_).index(target)] for target in range(len(columns))]


def _classifier_chain(graph: Nodes) -> None:
    estimator = graph.estimator
    if estimator.chain_method_ != "predict":
        raise NotImplementedError(f"ClassifierChain with chain_method {estimator.chain_method_!r} cannot be exported")
    for member in estimator.estimators_:
        if not hasattr(member, "predict_proba") or [*member.classes_] != [0, 1]:
            raise NotImplementedError("ClassifierChain of labels other than 0 and 1, or without predict_proba")
    given = _chained(graph, estimator, ("label", "numbers"))
    labels = _in_order(estimator, [columns[0] for columns in given])
    scores = _in_order(estimator, [graph.gather(columns[1], [1]) for columns in given])
    graph.give_as_is(0, graph.cast(graph.op("Concat", *labels, axis=1), INT64))
    graph.give(1, graph.op("Concat", *scores, axis=1))


def _regressor_chain(graph: Nodes) -> None:
    estimator = graph.estimator
    given = _chained(graph, estimator, ("numbers",))
    graph.give(0, graph.op("Concat", *_in_order(estimator, [columns[0] for columns in given]), axis=1))


def _transformed_target(graph: Nodes) -> None:
    estimator = graph.estimator
    (value,) = graph.inside(estimator.regressor_, ("numbers",))
    value = graph.cast(value, DOUBLE)
    transformer = estimator.transformer_
    if isinstance(transformer, FunctionTransformer):
        value = apply_function(graph, transformer.inverse_func, value)
    elif isinstance(transformer, StandardScaler):
        if transformer.scale_ is not None:
            value = graph.op("Mul", value, np.asarray(transformer.scale_, np.float64))
        if transformer.with_mean:
            value = graph.op("Add", value, np.asarray(transformer.mean_, np.float64))
    elif isinstance(transformer, MinMaxScaler) and not transformer.clip:
        value = graph.op("Sub", value, np.asarray(transformer.min_, np.float64))
        value = graph.op("Div", value, np.asarray(transformer.scale_, np.float64))
    else:
        raise NotImplementedError(f"TransformedTargetRegressor with {type(transformer).__name__} cannot be exported")
    graph.give(0, value)


def _threshold(graph: Nodes) -> None:
    """The inner classifier's probabilities; the label is decided at another limit than a half."""
    estimator = graph.estimator
    member = estimator.estimator_
    tuned = hasattr(estimator, "best_threshold_")
    limit = estimator.best_threshold_ if tuned else estimator.threshold
    method = estimator.response_method
    if not hasattr(member, "predict_proba") or method == "decision_function":
        raise NotImplementedError(f"{type(estimator).__name__} of decision values cannot be exported")
    if limit == "auto":
        limit = 0.5
    label = None if tuned else estimator.pos_label
    positive = 1 if label is None else [*estimator.classes_].index(label)
    _, scores = graph.inside(member, ("label", "numbers"))
    reached = graph.op("GreaterOrEqual", graph.cast(graph.gather(scores, [positive]), DOUBLE), float(limit))
    chosen = graph.op("Where", reached, np.array([positive]), np.array([1 - positive]))
    graph.give_label(graph.op("Squeeze", chosen, np.array([1])), estimator.classes_)
    graph.give(1, scores)


def _one_vs_one(graph: Nodes) -> None:
    """Votes of all pairs of classes; what the pairs' confidences add decides ties."""
    estimator = graph.estimator
    count = len(estimator.classes_)
    pairs = [(first, second) for first in range(count) for second in range(first + 1, count)]
    if estimator.pairwise_indices_ is not None:
        raise NotImplementedError("OneVsOneClassifier of precomputed kernels cannot be exported")
    labels, values = [], []
    for member in estimator.estimators_:
        label, numbers = graph.inside(member, ("label", "numbers"), raw_scores=hasattr(member, "decision_function"))
        labels.append(graph.cast(graph.op("Reshape", label, _COLUMN), DOUBLE))
        values.append(graph.gather(graph.cast(numbers, DOUBLE), [-1]))
    second_wins = graph.op("Concat", *labels, axis=1)
    confidence = graph.op("Concat", *values, axis=1)
    firsts, seconds = np.zeros((len(pairs), count)), np.zeros((len(pairs), count))
    for index, (first, second) in enumerate(pairs):
        firsts[index, first] = seconds[index, second] = 1
    votes = graph.op(
        "Add",
        graph.op("MatMul", graph.op("Sub", 1.0, second_wins), firsts),
        graph.op("MatMul", second_wins, seconds),
    )
    total = graph.op("MatMul", confidence, seconds - firsts)
    least = graph.op("Mul", graph.op("Add", graph.op("Abs", total), 1.0), 3.0)
    decision = graph.op("Add", votes, graph.op("Div", total, least))
    if count == 2:
        decision = graph.gather(decision, [1])
        limit = 0.0 if hasattr(estimator.estimators_[0], "decision_function") else 0.5
        chosen = graph.cast(graph.op("Squeeze", graph.op("Greater", decision, limit), np.array([1])), INT64)
    else:
        chosen = graph.op("ArgMax", decision, axis=1, keepdims=0)
    graph.give_label(chosen, estimator.classes_)
    graph.give(1, decision)


CONVERTERS = [
    Own(OneVsOneClassifier, ("label", "numbers"), _one_vs_one),
    Own(MultiOutputClassifier, ("label", "numbers"), _multi_output_classifier),
    Own(ClassifierChain, ("label", "numbers"), _classifier_chain),
    Own(RegressorChain, ("numbers",), _regressor_chain),
    Own(TransformedTargetRegressor, ("numbers",), _transformed_target),
    Own(FixedThresholdClassifier, ("label", "numbers"), _threshold),
    Own(TunedThresholdClassifierCV, ("label", "numbers"), _threshold),
]
