# SPDX-License-Identifier: Apache-2.0
"""Transformers that skl2onnx gets wrong, has in 32-bit floats only or does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, MissingIndicator
from sklearn.preprocessing import FunctionTransformer, KBinsDiscretizer, PolynomialFeatures, PowerTransformer

from concord_export.nodes import DOUBLE, Nodes
from concord_export.registry import Own

__all__ = ["CONVERTERS", "apply_function"]


def _bins(graph: Nodes) -> None:
    """A value's bin is the number of inner edges that are not above it."""
    estimator = graph.estimator
    inner = [np.asarray(edges[1:-1], np.float64) for edges in estimator.bin_edges_]
    edges = np.full((len(inner), max((len(each) for each in inner), default=0)), np.inf)
    for index, each in enumerate(inner):
        edges[index, : len(each)] = each
    reached = graph.op("GreaterOrEqual", graph.insert_axis(graph.rows(), 2), edges)
    places = graph.sum(graph.cast(reached, DOUBLE), 2)
    if estimator.encode == "ordinal":
        graph.give(0, places)
        return
    most = int(max(estimator.n_bins_))
    marks = graph.op("Equal", graph.insert_axis(places, 2), np.arange(most, dtype=np.float64))
    flat = graph.op("Reshape", graph.cast(marks, DOUBLE), np.array([-1, len(inner) * most]))
    kept = [feature * most + place for feature, count in enumerate(estimator.n_bins_) for place in range(count)]
    graph.give(0, graph.gather(flat, kept))


def _power(graph: Nodes) -> None:
    """Yeo-Johnson and Box-Cox; NaN stays NaN."""
    estimator = graph.estimator
    rows = graph.rows()
    columns = []
    for index, power in enumerate(np.asarray(estimator.lambdas_, np.float64).tolist()):
        value = graph.gather(rows, [index])
        columns.append(_box_cox(graph, value, power) if estimator.method == "box-cox" else _yeo(graph, value, power))
    made = graph.op("Concat", *columns, axis=1)
    if estimator.standardize:
        scaler = estimator._scaler
        if scaler.with_mean:
            made = graph.op("Sub", made, np.asarray(scaler.mean_, np.float64))
        made = graph.op("Div", made, np.asarray(scaler.scale_, np.float64))
    graph.give(0, made)


def _box_cox(graph: Nodes, value: str, power: float) -> str:
    log = graph.op("Log", value)
    if power == 0:
        return log
    return graph.op("Div", graph.op("Sub", graph.op("Exp", graph.op("Mul", log, power)), 1.0), power)


def _yeo(graph: Nodes, value: str, power: float) -> str:
    # Each branch sees only what it is for, so that no logarithm of a negative number arises.
    positive = graph.op("GreaterOrEqual", value, 0.0)
    above = graph.op("Add", graph.op("Max", value, 0.0), 1.0)
    below = graph.op("Sub", 1.0, graph.op("Min", value, 0.0))
    right = _box_cox(graph, above, power)
    left = graph.op("Neg", _box_cox(graph, below, 2.0 - power))
    made = graph.op("Where", positive, right, left)
    return graph.op("Where", graph.op("IsNaN", value), value, made)


def _polynomial(graph: Nodes) -> None:
    """Every product is one of as many factors as the degree, filled up with ones."""
    estimator = graph.estimator
    powers = np.asarray(estimator.powers_, np.int64)
    width, degree = powers.shape[1], max(int(powers.sum(axis=1).max(initial=1)), 1)
    factors = np.full((len(powers), degree), width, np.int64)
    for index, row in enumerate(powers):
        chosen = np.repeat(np.arange(width), row)
        factors[index, : len(chosen)] = chosen
    rows = graph.rows()
    shape = graph.op("Concat", graph.op("Shape", rows, start=0, end=1), np.array([1]), axis=0)
    table = graph.op("Concat", rows, graph.op("Expand", np.ones((1, 1)), shape), axis=1)
    taken = graph.op("Reshape", graph.gather(table, factors.ravel()), np.array([-1, *factors.shape]))
    graph.give(0, graph.op("ReduceProd", taken, np.array([2]), keepdims=0))


def _missing_indicator(graph: Nodes) -> None:
    estimator = graph.estimator
    rows = graph.rows()
    missing = estimator.missing_values
    if isinstance(missing, float) and np.isnan(missing):
        absent = graph.op("IsNaN", rows)
    elif isinstance(missing, (int, float)):
        absent = graph.op("Equal", rows, float(missing))
    else:
        raise NotImplementedError(f"MissingIndicator with missing_values={missing!r} cannot be exported")
    graph.give(0, graph.gather(graph.cast(absent, DOUBLE), estimator.features_))


_FUNCTIONS: dict[Any, Callable[[Nodes, str], str]] = {
    np.abs: lambda graph, x: graph.op("Abs", x),
    np.fabs: lambda graph, x: graph.op("Abs", x),
    np.exp: lambda graph, x: graph.op("Exp", x),
    np.expm1: lambda graph, x: graph.op("Sub", graph.op("Exp", x), 1.0),
    np.log: lambda graph, x: graph.op("Log", x),
    np.log1p: lambda graph, x: graph.op("Log", graph.op("Add", x, 1.0)),
    np.log2: lambda graph, x: graph.op("Div", graph.op("Log", x), float(np.log(2.0))),
    np.log10: lambda graph, x: graph.op("Div", graph.op("Log", x), float(np.log(10.0))),
    np.sqrt: lambda graph, x: graph.op("Sqrt", x),
    np.square: lambda graph, x: graph.op("Mul", x, x),
    np.negative: lambda graph, x: graph.op("Neg", x),
    np.reciprocal: lambda graph, x: graph.op("Reciprocal", x),
    np.sign: lambda graph, x: graph.op("Sign", x),
    np.sin: lambda graph, x: graph.op("Sin", x),
    np.cos: lambda graph, x: graph.op("Cos", x),
    np.tan: lambda graph, x: graph.op("Tan", x),
    np.tanh: lambda graph, x: graph.op("Tanh", x),
    np.floor: lambda graph, x: graph.op("Floor", x),
    np.ceil: lambda graph, x: graph.op("Ceil", x),
    np.rint: lambda graph, x: graph.op("Round", x),
    np.isnan: lambda graph, x: graph.cast(graph.op("IsNaN", x), DOUBLE),
}


def apply_function(graph: Nodes, function: Any, value: str) -> str:
    """What a NumPy function of one argument makes of a double tensor."""
    if function is None:
        return value
    try:
        known = _FUNCTIONS.get(function)
    except TypeError:
        known = None
    if known is None:
        name = getattr(function, "__name__", repr(function))
        names = sorted(each.__name__ for each in _FUNCTIONS)
        raise NotImplementedError(f"the function {name} cannot be exported; known are NumPy's {', '.join(names)}")
    return known(graph, value)


def _function(graph: Nodes) -> None:
    estimator = graph.estimator
    if estimator.func is not None and estimator.kw_args:
        raise NotImplementedError("FunctionTransformer with kw_args cannot be exported")
    graph.give(0, apply_function(graph, estimator.func, graph.rows()))


def _iterative_imputer(graph: Nodes) -> None:
    """IterativeImputer of linear regressions: each column that misses values is computed from the others, in turn."""
    estimator = graph.estimator
    if estimator.sample_posterior:
        raise NotImplementedError("IterativeImputer with sample_posterior answers at random")
    first = estimator.initial_imputer_
    missing = estimator.missing_values
    statistics = np.asarray(first.statistics_, np.float64)
    if not (isinstance(missing, float) and np.isnan(missing)) or np.isnan(statistics).any() or estimator.add_indicator:
        raise NotImplementedError(
            "IterativeImputer with missing_values, add_indicator or a column that was empty cannot be exported"
        )
    rows = graph.rows()
    absent = graph.op("IsNaN", rows)
    filled = graph.op("Where", absent, statistics.reshape(1, -1), rows)
    if estimator.n_iter_ > 0:
        columns = [graph.gather(filled, [index]) for index in range(len(statistics))]
        given = [graph.gather(absent, [index]) for index in range(len(statistics))]
        low, high = np.asarray(estimator._min_value), np.asarray(estimator._max_value)
        for step in estimator.imputation_sequence_:
            model = step.estimator
            if not hasattr(model, "coef_"):
                raise NotImplementedError(f"IterativeImputer of {type(model).__name__} cannot be exported")
            target = int(step.feat_idx)
            others = graph.op("Concat", *(columns[int(index)] for index in step.neighbor_feat_idx), axis=1)
            made = graph.affine(others, np.asarray(model.coef_, np.float64).reshape(-1, 1), model.intercept_)
            made = graph.op("Max", graph.op("Min", made, float(high[target])), float(low[target]))
            columns[target] = graph.op("Where", given[target], made, columns[target])
        filled = graph.op("Concat", *columns, axis=1)
    graph.give(0, filled)


CONVERTERS = [
    Own(FunctionTransformer, ("numbers",), _function),
    Own(KBinsDiscretizer, ("numbers",), _bins),
    Own(PowerTransformer, ("numbers",), _power),
    Own(PolynomialFeatures, ("numbers",), _polynomial),
    Own(MissingIndicator, ("numbers",), _missing_indicator),
    Own(IterativeImputer, ("numbers",), _iterative_imputer),
]
