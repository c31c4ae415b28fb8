# SPDX-License-Identifier: Apache-2.0
"""What an author says of a model: the fitted object, rows to try it on, and the names that clients see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Feature", "FeatureKind", "Metric", "Source"]

FeatureKind = Literal["float", "double", "int64", "bool", "string"]


@dataclass(frozen=True)
class Feature:
    """A named input of a model: one column of the rows, or as many columns as `shape` has elements.

    `kind` says what clients send: "float" (32 bits), "double", "int64", "bool" or "string".
    `default` is what a request without the feature takes; a feature without a default is required.
    `description` says what it means, with its unit.
    """

    name: str
    kind: FeatureKind = "float"
    shape: Sequence[int] = ()
    default: Any = None
    description: str = ""


@dataclass(frozen=True)
class Metric:
    """A measure of a model's quality on rows that it was not fitted on.

    `name` is what scikit-learn calls the measure ("accuracy", "r2", ...); `rows` is how many rows it was measured on.
    """

    name: str
    value: float
    rows: int


@dataclass(frozen=True)
class Source:
    """A fitted model and what is needed to export it; what a function named on the command line returns.

    estimator: a fitted scikit-learn estimator or pipeline; so are LightGBM's and XGBoost's.
    rows: rows that the model is made for, at least one, as an array [rows, columns] (an object array where strings and
        numbers are mixed), a pandas data frame where the model was fitted on one or, for a model that takes texts,
        [rows]. The export is compared with the estimator on all.
    features: one for each column in order; without it names and kinds are taken from the rows.
    description: what the model is, for the catalog.
    class_names: what clients see of a classifier's classes, in the order of `classes_`, or of a clustering's clusters;
        by default str of each class.
    target_names: the names of a regression's numbers, by default "prediction", or of a multi-label classifier's labels.
    target_descriptions: what each of the predictions means, with its unit, in their order.
    absolute_limit, relative_limit: |export - source| <= absolute_limit + relative_limit * |source|.
    try_missing: whether NaN is tried where the estimator accepts it.
    quality: how good the model is on rows that it was not fitted on.
    """

    estimator: Any
    rows: Any
    features: Sequence[Feature] | None = None
    description: str = ""
    class_names: Sequence[str] | None = None
    target_names: Sequence[str] | None = None
    target_descriptions: Sequence[str] | None = None
    absolute_limit: float = 1e-5
    relative_limit: float = 1e-6
    try_missing: bool = True
    quality: Sequence[Metric] = ()
