# SPDX-License-Identifier: Apache-2.0
"""What a model answers: the numbers and the label of each row, by the source model and by its export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted

from concord_export.columns import Columns
from concord_export.conversion import LABEL, SCORES
from concord_export.errors import ConversionError, SourceError
from concord_export.source import FeatureKind, Source

__all__ = ["Answers", "Question", "question_for"]


@dataclass(frozen=True)
class Answers:
    """Answers to some rows: numbers [rows, names] and, of a classifier, labels [rows]."""

    numbers: npt.NDArray[np.float64]
    labels: npt.NDArray[Any] | None

    def take(self, rows: npt.NDArray[Any] | Sequence[int] | slice) -> Answers:
        """The answers to some of the rows."""
        return Answers(self.numbers[rows], None if self.labels is None else self.labels[rows])


@dataclass(frozen=True)
class Question:
    """What is asked of the model.

    `method` is the estimator's own; `indices` tells for each of the names where it stands in a row of the ONNX output
    SCORES.
    """

    estimator: Any
    method: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    indices: tuple[int, ...]
    label_kind: FeatureKind | None

    def ask_source(self, columns: Columns) -> Answers:
        """The source model's answers, in doubles. Raises what the model raises."""
        rows = columns.source_rows()
        numbers = np.asarray(getattr(self.estimator, self.method)(rows), np.float64).reshape(len(columns), -1)
        labels = None
        if self.label_kind is not None:
            labels = _labels(self.estimator.predict(rows), self.label_kind)
        return Answers(numbers, labels)

    def read(self, outputs: Mapping[str, npt.NDArray[Any]]) -> Answers:
        """The export's answers, from the graph's outputs. Raises ConversionError where they have another shape."""
        scores = outputs[SCORES]
        if scores.ndim != 2 or scores.shape[1] <= max(self.indices):
            raise ConversionError(f"the graph gives scores of shape {list(scores.shape)} for {len(self.names)} numbers")
        return Answers(scores[:, list(self.indices)].astype(np.float64), outputs.get(LABEL))


def question_for(source: Source, columns: Columns) -> Question:
    """What to ask of the source's estimator. Raises SourceError where there is nothing that can be exported."""
    estimator = source.estimator
    if isinstance(estimator, (str, bytes)) or hasattr(estimator, "__fspath__"):
        raise SourceError(
            "estimator: expected a fitted estimator, got a path or bytes. Pickled models are never read: unpickling "
            "runs whatever code is in the file. Export in the process that trained the model, or by a function that "
            "trains it"
        )
    if not hasattr(estimator, "predict"):
        raise SourceError(
            f"estimator: {type(estimator).__name__} has no predict; only predicting estimators can be exported"
        )
    try:
        check_is_fitted(estimator)
    except Exception as error:
        raise SourceError(f"estimator: {error}") from None
    if is_classifier(estimator):
        return _classifier_question(source, columns)
    if is_regressor(estimator):
        return _regression_question(source, columns)
    raise SourceError(f"estimator: {type(estimator).__name__} is neither a classifier nor a regression")


def _classifier_question(source: Source, columns: Columns) -> Question:
    estimator = source.estimator
    classes = getattr(estimator, "classes_", None)
    if classes is None or isinstance(classes, list) or np.ndim(classes) != 1:
        raise SourceError("estimator: a classifier with several labels for each row cannot be exported yet")
    kind = _label_kind(classes)
    class_names = [str(label) for label in classes.tolist()]
    if source.class_names is not None:
        class_names = [str(name) for name in source.class_names]
        if len(class_names) != len(classes):
            raise SourceError(f"class_names: expected {len(classes)}, got {len(class_names)}")
    if source.target_names is not None:
        raise SourceError("target_names: they are for regressions; a classifier has class_names")
    if hasattr(estimator, "predict_proba"):
        names, indices, method = class_names, list(range(len(classes))), "predict_proba"
        descriptions = [f"Probability of {name}." for name in names]
    elif hasattr(estimator, "decision_function"):
        method = "decision_function"
        count = np.asarray(estimator.decision_function(columns.take(slice(1)).source_rows())).reshape(1, -1).shape[1]
        if count == 1:
            # Converters give one column or, like probabilities, two; which, the graph tells.
            names, indices = ["decision"], [-1]
            descriptions = [f"Decision value: above 0 for {class_names[-1]}."]
        elif count == len(classes):
            names, indices = class_names, list(range(count))
            descriptions = [f"Decision value of {name}." for name in names]
        else:
            raise SourceError(f"estimator: {count} decision values for {len(classes)} classes cannot be exported")
    else:
        raise SourceError(f"estimator: {type(estimator).__name__} has neither predict_proba nor decision_function")
    return Question(estimator, method, *_named(names, descriptions, source), tuple(indices), kind)


def _regression_question(source: Source, columns: Columns) -> Question:
    first = np.asarray(source.estimator.predict(columns.take(slice(1)).source_rows()))
    count = first.reshape(1, -1).shape[1]
    names = ["prediction"] if count == 1 else [f"prediction_{index}" for index in range(count)]
    if source.class_names is not None:
        raise SourceError("class_names: they are for classifiers; a regression has target_names")
    if source.target_names is not None:
        names = [str(name) for name in source.target_names]
        if len(names) != count:
            raise SourceError(f"target_names: expected {count}, got {len(names)}")
    return Question(
        source.estimator, "predict", *_named(names, [""] * count, source), tuple(range(count)), label_kind=None
    )


def _named(names: list[str], descriptions: list[str], source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if len(set(names)) != len(names) or "" in names:
        raise SourceError(f"the predictions' names are not unique, or one is empty: {names}")
    if source.target_descriptions is not None:
        descriptions = [str(text) for text in source.target_descriptions]
        if len(descriptions) != len(names):
            raise SourceError(f"target_descriptions: expected {len(names)}, got {len(descriptions)}")
    return tuple(names), tuple(descriptions)


def _label_kind(classes: npt.NDArray[Any]) -> FeatureKind:
    labels = classes.tolist()
    if all(isinstance(label, str) for label in labels):
        return "string"
    if all(isinstance(label, bool) for label in labels):
        return "bool"
    if all(isinstance(label, (int, float)) and label == int(label) for label in labels):
        return "int64"
    raise SourceError(f"estimator: classes are strings, integers or booleans, not {labels[:8]}")


def _labels(predicted: Any, kind: FeatureKind) -> npt.NDArray[Any]:
    labels = np.asarray(predicted)
    if kind == "string":
        return labels.astype(object)
    return labels.astype(np.bool_ if kind == "bool" else np.int64)
