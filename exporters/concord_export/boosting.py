# SPDX-License-Identifier: Apache-2.0
"""Boosted trees of other libraries: read from their own model files, written as one TreeEnsemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from concord_export.nodes import FLOAT, Nodes
from concord_export.registry import Own
from concord_export.trees import Tree, tree_ensemble_attributes

__all__ = ["CONVERTERS", "Boosted", "BoostedClassifier", "BoostedRegressor", "Link", "convert_boosted"]

Link = Literal["identity", "sigmoid", "softmax", "sigmoid of each", "exp", "square", "log1p of exp"]


@dataclass(frozen=True)
class Boosted:
    """Trees whose sums, one for each target, go through a link function.

    floats: the library adds up in 32-bit floats; else in doubles.
    factor: what a sum is multiplied with before the link; with `average`, it is first divided by the rounds.
    tiny_is_zero: numbers of up to 1e-35 count as zeros.
    zero_is_missing, categorical: features whose zeros count as NaN, and features of which the fraction is cut off.
    missing: the number that stands for a missing value, NaN by default.
    """

    features: int
    targets: int
    trees: Sequence[tuple[int, Tree]]
    link: Link
    floats: bool = False
    factor: float = 1.0
    divisor: float = 1.0
    names: Sequence[str] = ()
    ranges: Sequence[tuple[float, float] | None] = ()
    tiny_is_zero: bool = False
    zero_is_missing: Sequence[int] = ()
    categorical: Sequence[int] = ()
    missing: float = float("nan")

    @property
    def classes(self) -> int:
        """How many classes the answer tells probabilities of; 0 where it is no classification."""
        if self.link == "sigmoid":
            return 2
        return self.targets if self.link in ("softmax", "sigmoid of each") else 0

    def thresholds(self) -> list[tuple[int, float]]:
        """(feature, threshold) of every split."""
        found = []
        for _, tree in self.trees:
            inner = [node for node in np.flatnonzero(tree.left >= 0).tolist() if node not in tree.members]
            found += [(int(tree.feature[node]), float(tree.threshold[node])) for node in inner]
        return found


class _Adapter(BaseEstimator):  # type: ignore[misc]
    """A library's booster as a scikit-learn estimator. `ask` gives the library's own answer to rows of doubles."""

    def __init__(self, boosted: Boosted, ask: Callable[[npt.NDArray[np.float64]], npt.NDArray[Any]]) -> None:
        self.boosted = boosted
        self.ask = ask
        self.n_features_in_ = boosted.features
        if len(boosted.names) == boosted.features:
            self.feature_names_in_ = np.array(boosted.names, dtype=object)

    def fit(self, rows: Any, target: Any) -> Any:
        """It is fitted already."""
        raise NotImplementedError("a model that was read from a file is not fitted anew")


class BoostedClassifier(ClassifierMixin, _Adapter):  # type: ignore[misc]
    """A booster that tells probabilities. Its classes are 0, 1, ..."""

    @property
    def classes_(self) -> npt.NDArray[np.int64]:
        """The classes."""
        return np.arange(self.boosted.classes)

    def predict_proba(self, rows: Any) -> npt.NDArray[np.float64]:
        """Probabilities [rows, classes]."""
        given = self.ask(np.asarray(rows, np.float64))
        both = given if given.ndim == 2 else np.stack([1 - given, given], axis=1)
        return np.asarray(both, np.float64)

    def predict(self, rows: Any) -> npt.NDArray[np.int64]:
        """The most probable class of each row."""
        return np.asarray(self.predict_proba(rows).argmax(axis=1))


class BoostedRegressor(RegressorMixin, _Adapter):  # type: ignore[misc]
    """A booster that tells numbers."""

    def predict(self, rows: Any) -> npt.NDArray[np.float64]:
        """The numbers, [rows] or [rows, targets]."""
        return np.asarray(self.ask(np.asarray(rows, np.float64)), np.float64)


def convert_boosted(graph: Nodes, boosted: Boosted, rows: str | None = None) -> None:
    """Adds what gives the answer: of a classifier label and probabilities, else numbers.

    `rows` are the numbers that the trees see, in doubles, where those are not the input.
    """
    sums = _sums(graph, boosted, rows)
    value = _linked(graph, sums, boosted)
    classes = getattr(graph.estimator, "classes_", None)
    if classes is None:
        graph.give(0, value)
        return
    if boosted.link == "sigmoid":
        # As the libraries do: the second class is chosen above a half, and 1 less its probability is the first's.
        value = graph.op("Concat", graph.op("Sub", _one(boosted), value), value, axis=1)
    graph.give_label(graph.op("ArgMax", value, axis=1, keepdims=0), classes)
    if hasattr(graph.estimator, "decision_function") and graph.option("raw_scores"):
        value = graph.op("Concat", graph.op("Neg", sums), sums, axis=1) if boosted.link == "sigmoid" else sums
    graph.give(1, value)


def _one(boosted: Boosted) -> npt.NDArray[Any]:
    return np.array([1], np.float32 if boosted.floats else np.float64)


def _sums(graph: Nodes, boosted: Boosted, rows: str | None) -> str:
    dtype = np.float32 if boosted.floats else np.float64
    if rows is None:
        rows = graph.cast(graph.input, FLOAT) if boosted.floats else graph.rows()
    rows = _cleaned(graph, rows, boosted, dtype)
    attributes = tree_ensemble_attributes(boosted.trees, boosted.targets, dtype=dtype)
    value = graph.op("TreeEnsemble", rows, **attributes)
    if boosted.divisor != 1.0:
        value = graph.op("Div", value, np.array([boosted.divisor], dtype))
    return value


def _linked(graph: Nodes, value: str, boosted: Boosted) -> str:
    dtype = np.float32 if boosted.floats else np.float64
    if boosted.factor != 1.0:
        value = graph.op("Mul", value, np.array([boosted.factor], dtype))
    if boosted.link in ("sigmoid", "sigmoid of each"):
        return graph.op("Sigmoid", value)
    if boosted.link == "softmax":
        return graph.op("Softmax", value, axis=1)
    if boosted.link == "exp":
        return graph.op("Exp", value)
    if boosted.link == "square":
        return graph.op("Mul", graph.op("Abs", value), value)
    if boosted.link == "log1p of exp":
        return graph.op("Log", graph.op("Add", graph.op("Exp", value), np.array([1], dtype)))
    return value


def _cleaned(graph: Nodes, rows: str, boosted: Boosted, dtype: Any) -> str:
    """The rows with NaN for what the library takes for missing, and whole numbers for categories."""
    nothing = np.array([np.nan], dtype)
    if boosted.missing == boosted.missing:
        rows = graph.op("Where", graph.op("Equal", rows, np.array([boosted.missing], dtype)), nothing, rows)
    small = ""
    if boosted.tiny_is_zero or boosted.zero_is_missing:
        small = graph.op("LessOrEqual", graph.op("Abs", rows), np.array([np.float32(1e-35)], dtype))
    if boosted.tiny_is_zero:
        rows = graph.op("Where", small, np.array([0], dtype), rows)
    if boosted.zero_is_missing:
        concerned = np.isin(np.arange(boosted.features), boosted.zero_is_missing)
        rows = graph.op("Where", graph.op("And", small, concerned), nothing, rows)
    if boosted.categorical:
        concerned = np.isin(np.arange(boosted.features), boosted.categorical)
        whole = graph.op("Mul", graph.op("Sign", rows), graph.op("Floor", graph.op("Abs", rows)))
        rows = graph.op("Where", concerned, whole, rows)
    return rows


def _convert(graph: Nodes) -> None:
    convert_boosted(graph, graph.estimator.boosted)


CONVERTERS = [
    Own(BoostedClassifier, ("label", "numbers"), _convert),
    Own(BoostedRegressor, ("numbers",), _convert),
]
