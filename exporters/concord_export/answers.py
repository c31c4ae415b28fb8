# SPDX-License-Identifier: Apache-2.0
"""What a model answers: the numbers and the label of each row, by the source model and by its export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from concord_export.columns import Columns
from concord_export.conversion import LABEL, SCORES
from concord_export.errors import ConversionError, SourceError
from concord_export.source import FeatureKind, Source

__all__ = ["Answers", "Label", "Question", "question_for"]


@dataclass(frozen=True)
class Answers:
    """Answers to some rows: numbers [rows, names]; labels [rows] or, of several for each row, [rows, labels]."""

    numbers: npt.NDArray[np.float64]
    labels: npt.NDArray[Any] | None

    def take(self, rows: npt.NDArray[Any] | Sequence[int] | slice) -> Answers:
        """The answers to some of the rows."""
        return Answers(self.numbers[rows], None if self.labels is None else self.labels[rows])


@dataclass(frozen=True)
class Label:
    """What a model decides on, as clients see it. `count` is how many there are for each row as an array; 0: one."""

    name: str
    kind: FeatureKind
    description: str
    count: int = 0


@dataclass(frozen=True)
class Question:
    """What is asked of the model.

    `numbers` takes rows as the estimator does and gives [rows, ...], or is None; `indices` tells for each of the names
    where it stands in a row of the ONNX output SCORES. `array` is the name of the one output that holds all numbers,
    or empty where each is a prediction.
    """

    estimator: Any
    numbers: Callable[[Any], Any] | None
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    indices: tuple[int, ...]
    label: Label | None
    array: str = ""

    def ask_source(self, columns: Columns) -> Answers:
        """The source model's answers, in doubles. Raises what the model raises."""
        rows = columns.source_rows()
        numbers = np.empty((len(columns), 0))
        if self.numbers is not None:
            numbers = _dense(self.numbers(rows)).astype(np.float64).reshape(len(columns), -1)
        labels = None
        if self.label is not None:
            labels = _labels(self.estimator.predict(rows), self.label)
        return Answers(numbers, labels)

    def read(self, outputs: Mapping[str, npt.NDArray[Any]]) -> Answers:
        """The export's answers, from the graph's outputs. Raises ConversionError where they have another shape."""
        labels = outputs.get(LABEL)
        if self.numbers is None:
            return Answers(np.empty((len(next(iter(outputs.values()))), 0)), labels)
        scores = outputs[SCORES]
        if scores.ndim != 2 or scores.shape[1] <= max(self.indices):
            raise ConversionError(f"the graph gives scores of shape {list(scores.shape)} for {len(self.names)} numbers")
        return Answers(scores[:, list(self.indices)].astype(np.float64), labels)


def question_for(source: Source, columns: Columns) -> Question:
    """What to ask of the source's estimator. Raises SourceError where there is nothing that can be exported."""
    estimator = source.estimator
    if isinstance(estimator, (str, bytes)) or hasattr(estimator, "__fspath__"):
        raise SourceError(
            "estimator: expected a fitted estimator, got a path or bytes. Pickled models are never read: unpickling "
            "runs whatever code is in the file. Export in the process that trained the model, or by a function that "
            "trains it"
        )
    if not hasattr(estimator, "predict") and not hasattr(estimator, "transform"):
        raise SourceError(f"estimator: {type(estimator).__name__} has neither predict nor transform")
    try:
        check_is_fitted(estimator)
    except Exception as error:
        raise SourceError(f"estimator: {error}") from None
    if not hasattr(estimator, "predict"):
        return _transformer_question(source, columns)
    kind = get_tags(estimator).estimator_type
    first = _first(estimator.predict, columns)
    if kind == "classifier":
        return _multi_label_question(source, columns) if first.ndim > 1 else _classifier_question(source, columns)
    if kind == "regressor":
        return _regression_question(source, first)
    if kind == "outlier_detector":
        return _outlier_question(source)
    if kind in ("clusterer", "density_estimator"):
        return _cluster_question(source, columns)
    raise SourceError(
        f"estimator: {type(estimator).__name__} is neither a classifier, a regression, a clustering, an outlier "
        "detector nor a transformer"
    )


def _classifier_question(source: Source, columns: Columns) -> Question:
    estimator = source.estimator
    classes = getattr(estimator, "classes_", None)
    if classes is None or isinstance(classes, list) or np.ndim(classes) != 1:
        raise SourceError(f"estimator: {type(estimator).__name__} does not tell its classes")
    kind = _label_kind(classes)
    class_names = _class_names(source, [str(label) for label in classes.tolist()])
    _refuse(source, "target_names", "regressions and several labels; a classifier has class_names")
    names, indices = class_names, list(range(len(classes)))
    numbers: Callable[[Any], Any] | None = None
    descriptions: list[str] = []
    if hasattr(estimator, "predict_proba"):
        numbers = estimator.predict_proba
        descriptions = [f"Probability of {name}." for name in names]
    elif hasattr(estimator, "decision_function"):
        numbers = estimator.decision_function
        count = _width(numbers, columns)
        if count == 1:
            # Converters give one column or, like probabilities, two; which, the graph tells.
            names, indices = ["decision"], [-1]
            descriptions = [f"Decision value: above 0 for {class_names[-1]}."]
        elif count == len(classes):
            descriptions = [f"Decision value of {name}." for name in names]
        else:
            raise SourceError(f"estimator: {count} decision values for {len(classes)} classes cannot be exported")
    else:
        # As a majority vote: it decides, and says no more.
        names, indices = [], []
    label = Label(LABEL, kind, "The class chosen.")
    return Question(estimator, numbers, *_named(names, descriptions, source), tuple(indices), label)


def _multi_label_question(source: Source, columns: Columns) -> Question:
    """Several labels for each row: whether each of them applies or, more generally, a class of each."""
    estimator = source.estimator
    _refuse(source, "class_names", "classifiers of one label; one of several has target_names")
    count = _first(estimator.predict, columns).shape[1]
    targets = [f"label_{index}" for index in range(count)]
    if source.target_names is not None:
        targets = [str(name) for name in source.target_names]
        if len(targets) != count:
            raise SourceError(f"target_names: expected {count}, got {len(targets)}")
    classes = _classes_of_each(estimator, count)
    kind = _label_kind(np.concatenate([np.asarray(each, dtype=object) for each in classes]))
    names: list[str] = []
    descriptions: list[str] = []
    indices: list[int] = []
    numbers: Callable[[Any], Any] | None = None
    if hasattr(estimator, "predict_proba"):
        places = 0
        listed = isinstance(estimator.predict_proba(columns.take(slice(1)).source_rows()), list)
        for target, each in zip(targets, classes, strict=True):
            if [*each] == [0, 1]:
                names.append(target)
                descriptions.append(f"Probability of {target}.")
                indices.append(places + 1 if listed else places)
            else:
                names += [f"{target}={label}" for label in each]
                descriptions += [f"Probability that {target} is {label}." for label in each]
                indices += range(places, places + len(each))
            places += len(each) if listed else 1
        chosen = list(indices)

        def probabilities(rows: Any) -> Any:
            given = estimator.predict_proba(rows)
            return (np.concatenate(given, axis=1) if isinstance(given, list) else _dense(given))[:, chosen]

        numbers = probabilities
    elif hasattr(estimator, "decision_function") and _width(estimator.decision_function, columns) == count:
        numbers, names, indices = estimator.decision_function, targets, list(range(count))
        descriptions = [f"Decision value: above 0 for {target}." for target in targets]
    label = Label("labels", kind, f"In this order: {', '.join(targets)}.", count)
    return Question(estimator, numbers, *_named(names, descriptions, source), tuple(indices), label)


def _classes_of_each(estimator: Any, count: int) -> list[list[Any]]:
    """The classes of each label; where an estimator has one list for all, that list names the labels: 0 and 1 each."""
    final = estimator
    while not isinstance(getattr(final, "classes_", None), list):
        if hasattr(final, "steps"):
            final = final.steps[-1][1]
        elif hasattr(final, "best_estimator_"):
            final = final.best_estimator_
        else:
            return [[0, 1]] * count
    return [np.asarray(each).tolist() for each in final.classes_]


def _regression_question(source: Source, first: npt.NDArray[Any]) -> Question:
    count = first.reshape(1, -1).shape[1]
    names = ["prediction"] if count == 1 else [f"prediction_{index}" for index in range(count)]
    _refuse(source, "class_names", "classifiers; a regression has target_names")
    if source.target_names is not None:
        names = [str(name) for name in source.target_names]
        if len(names) != count:
            raise SourceError(f"target_names: expected {count}, got {len(names)}")
    estimator = source.estimator
    return Question(estimator, estimator.predict, *_named(names, [""] * count, source), tuple(range(count)), None)


def _cluster_question(source: Source, columns: Columns) -> Question:
    estimator = source.estimator
    _refuse(source, "target_names", "regressions and several labels; a clustering has class_names")
    label = Label(LABEL, "int64", "The cluster chosen.")
    numbers: Callable[[Any], Any] | None = None
    text = ""
    if hasattr(estimator, "predict_proba"):
        numbers, text = estimator.predict_proba, "Probability of cluster {}."
    elif hasattr(estimator, "transform") and hasattr(_final(estimator), "cluster_centers_"):
        numbers, text = estimator.transform, "Distance to the centre of cluster {}."
    count = 0 if numbers is None else _width(numbers, columns)
    names = _class_names(source, [str(index) for index in range(count)])
    descriptions = [text.format(name) for name in names]
    return Question(estimator, numbers, *_named(names, descriptions, source), tuple(range(count)), label)


def _outlier_question(source: Source) -> Question:
    estimator = source.estimator
    _refuse(source, "class_names", "classifiers")
    _refuse(source, "target_names", "regressions and several labels")
    label = Label(LABEL, "int64", "1: like the rows of the training, -1: an outlier.")
    named = _named(["decision"], ["Below 0 for an outlier."], source)
    return Question(estimator, estimator.decision_function, *named, (0,), label)


def _transformer_question(source: Source, columns: Columns) -> Question:
    estimator = source.estimator
    _refuse(source, "class_names", "classifiers")
    _refuse(source, "target_names", "regressions and several labels")
    _refuse(source, "target_descriptions", "predictions; a transformer has one array")
    first = _first(estimator.transform, columns)
    if first.dtype.kind not in "fiub" and not all(isinstance(item, (int, float)) for item in first.ravel().tolist()):
        raise SourceError(
            f"estimator: {type(estimator).__name__} gives no numbers; strings of transformers stay inside"
        )
    count = first.reshape(1, -1).shape[1]
    try:
        names = [str(name) for name in estimator.get_feature_names_out()]
    except Exception:
        names = []
    if len(names) != count or len(set(names)) != count:
        names = [f"column_{index}" for index in range(count)]
    return Question(
        estimator, estimator.transform, tuple(names), tuple([""] * count), tuple(range(count)), None, "transformed"
    )


def _final(estimator: Any) -> Any:
    while hasattr(estimator, "steps") or hasattr(estimator, "best_estimator_"):
        estimator = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator.best_estimator_
    return estimator


def _first(method: Callable[[Any], Any], columns: Columns) -> npt.NDArray[Any]:
    """A method's answer to the first row."""
    try:
        return _dense(method(columns.take(slice(1)).source_rows()))
    except Exception as error:
        # Whatever the model raises: its own words are what helps.
        raise SourceError(f"estimator: it fails on the first of the rows: {error}") from error


def _width(method: Callable[[Any], Any], columns: Columns) -> int:
    return _first(method, columns).reshape(1, -1).shape[1]


def _dense(answer: Any) -> npt.NDArray[Any]:
    return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)


def _class_names(source: Source, names: list[str]) -> list[str]:
    if source.class_names is None:
        return names
    given = [str(name) for name in source.class_names]
    if len(given) != len(names):
        raise SourceError(f"class_names: expected {len(names)}, got {len(given)}")
    return given


def _refuse(source: Source, field: str, purpose: str) -> None:
    if getattr(source, field) is not None:
        raise SourceError(f"{field}: they are for {purpose}")


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


def _labels(predicted: Any, label: Label) -> npt.NDArray[Any]:
    labels = _dense(predicted)
    if label.kind == "string":
        return labels.astype(object)
    return labels.astype(np.bool_ if label.kind == "bool" else np.int64)
