# SPDX-License-Identifier: Apache-2.0
"""Rows exactly at a threshold, and one 32-bit float to either side: there a rounded threshold decides wrongly."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import skl2onnx
from concord_export.answers import Answers, question_for
from concord_export.columns import Columns, read_columns
from concord_export.conversion import Precision, Wanted, convert
from concord_export.limits import ulp_distance
from concord_export.runtime import Session
from concord_export.source import Source
from concord_export.trees import Tree, floor_to_float32, split_thresholds
from hypothesis import given
from hypothesis import strategies as st
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

Floats = npt.NDArray[np.float64]

ROWS, FEATURES = 300, 4


def data() -> tuple[Floats, Any, Floats]:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((ROWS, FEATURES)) * [1.0, 100.0, 1e-3, 1e6]
    score = rows @ [1.0, 0.01, 1000.0, 1e-6] + 0.3 * rng.standard_normal(ROWS)
    return rows, np.digitize(score, [-1.0, 1.0]), score


def members(estimator: Any) -> list[Any]:
    inside = getattr(estimator, "estimators_", [])
    return [estimator, *(tree for item in inside for tree in np.ravel(np.array(item, dtype=object)))]


def adversarial(estimator: Any, rows: Floats) -> npt.NDArray[np.float32]:
    """For every split a row at the threshold's floor, at its neighbours, and at the threshold rounded to nearest."""
    rng = np.random.default_rng(8)
    made = []
    for member in members(estimator):
        for feature, threshold in split_thresholds(member):
            floor = floor_to_float32(np.array([threshold]))[0]
            for value in (
                floor,
                np.nextafter(floor, np.float32(-np.inf)),
                np.nextafter(floor, np.float32(np.inf)),
                np.float32(threshold),
            ):
                row = rows[rng.integers(len(rows))].astype(np.float32)
                row[feature] = value
                made.append(row)
    assert len(made) > 50
    return np.array(made)


def answer(estimator: Any, rows: npt.NDArray[Any], precision: Precision = "double") -> tuple[Answers, Answers]:
    """The source's answers and the export's."""
    columns: Columns = read_columns(rows, None, estimator)
    question = question_for(Source(estimator, rows), columns)
    wanted = Wanted(labelled=question.label is not None, scored=question.numbers is not None)
    session = Session(convert(estimator, columns, wanted, name="m", precision=precision).SerializeToString())
    return question.ask_source(columns), question.read(session.run(columns.tensors()))


def labels(answers: Answers) -> npt.NDArray[Any]:
    assert answers.labels is not None
    return answers.labels


ESTIMATORS = [
    DecisionTreeClassifier(random_state=0),
    ExtraTreeClassifier(random_state=0),
    RandomForestClassifier(20, random_state=0),
    ExtraTreesClassifier(20, random_state=0),
    GradientBoostingClassifier(n_estimators=10, random_state=0),
    HistGradientBoostingClassifier(max_iter=10, random_state=0),
    BaggingClassifier(random_state=0),
    DecisionTreeRegressor(random_state=0),
    ExtraTreeRegressor(random_state=0),
    RandomForestRegressor(10, random_state=0),
    ExtraTreesRegressor(10, random_state=0),
    GradientBoostingRegressor(n_estimators=20, random_state=0),
    HistGradientBoostingRegressor(max_iter=20, random_state=0),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
@pytest.mark.parametrize("binary", [False, True])
def test_thresholds_are_exact(estimator: Any, binary: bool) -> None:
    rows, classes, score = data()
    regression = type(estimator).__name__.endswith("Regressor")
    estimator.fit(rows, score if regression else (classes > 0).astype(int) if binary else classes)
    expected, got = answer(estimator, adversarial(estimator, rows))
    # As near as a 32-bit float comes to a 64-bit one.
    assert ulp_distance(expected.numbers, got.numbers).max() == 0
    assert regression or np.array_equal(labels(expected), labels(got))


def test_the_rows_bite() -> None:
    """The converter's own thresholds fail on these rows."""
    rows, classes, _ = data()
    estimator = HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(rows, classes)
    made = adversarial(estimator, rows)
    with warnings.catch_warnings():
        # Of the converter's own making.
        warnings.simplefilter("ignore")
        plain = skl2onnx.convert_sklearn(
            estimator,
            initial_types=[("x", FloatTensorType([None, FEATURES]))],
            options={"zipmap": False},
            target_opset=18,
        )
    got = Session(plain.SerializeToString()).run({"x": made})["probabilities"]
    assert np.abs(got - estimator.predict_proba(made)).max() > 0.01


@pytest.mark.parametrize(
    "estimator",
    [
        AdaBoostClassifier(n_estimators=5, random_state=0),
        VotingClassifier(
            [("a", RandomForestClassifier(5, random_state=0)), ("b", DecisionTreeClassifier())], voting="soft"
        ),
        StackingClassifier([("a", RandomForestClassifier(5, random_state=0))], LogisticRegression()),
        make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=10)),
        make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)),
    ],
    ids=lambda estimator: type(getattr(estimator, "steps", [(0, estimator)])[-1][1]).__name__,
)
def test_trees_inside_others_are_exact(estimator: Any) -> None:
    rows, classes, _ = data()
    estimator.fit(rows, classes)
    # skl2onnx has no graph in doubles for AdaBoost; in floats the trees inside are as exact.
    precision: Precision = "float" if isinstance(estimator, AdaBoostClassifier) else "double"
    expected, got = answer(estimator, rows.astype(np.float32), precision)
    assert np.abs(expected.numbers - got.numbers).max() < 1e-6
    assert np.array_equal(labels(expected), labels(got))


def test_missing_values_go_where_the_source_sends_them() -> None:
    rng = np.random.default_rng(9)
    rows, classes, score = data()
    rows[rng.random(rows.shape) < 0.2] = np.nan
    tried = rows.copy()
    tried[rng.random(rows.shape) < 0.3] = np.nan
    tried[0] = np.nan
    for estimator, target in (
        (DecisionTreeClassifier(random_state=0), classes),
        (RandomForestClassifier(10, random_state=0), classes),
        (ExtraTreesClassifier(10, random_state=0), classes),
        (HistGradientBoostingClassifier(max_iter=10), classes),
        (DecisionTreeRegressor(random_state=0), score),
        (HistGradientBoostingRegressor(max_iter=10), score),
    ):
        expected, got = answer(estimator.fit(rows, target), tried)
        assert ulp_distance(expected.numbers, got.numbers).max() == 0, estimator
    # Trained without missing values, too.
    full, _, _ = data()
    for estimator in (RandomForestClassifier(10, random_state=0), HistGradientBoostingClassifier(max_iter=10)):
        expected, got = answer(estimator.fit(full, classes), tried)
        assert ulp_distance(expected.numbers, got.numbers).max() == 0, estimator


@pytest.mark.parametrize("scale", [1.0, 1e-43, 1e-50, 1e38])
def test_negative_zero_and_the_ends_of_the_range(scale: float) -> None:
    """Thresholds around zero, below the smallest 32-bit float, and near the largest."""
    rows = np.array([[-1.0], [-0.25], [-0.0], [0.0], [0.25], [1.0]]) * scale
    target = np.array([0, 1, 1, 1, 0, 1])
    tried = np.array(
        [[0.0], [-0.0], [1e-45], [-1e-45], [3e-45], [1e-38], [-1e-38], [3e38], [-3e38], *(rows.tolist())], np.float32
    )
    for estimator in (DecisionTreeClassifier(random_state=0), RandomForestClassifier(5, random_state=0)):
        expected, got = answer(estimator.fit(rows, target), tried)
        assert np.array_equal(labels(expected), labels(got))
        assert ulp_distance(expected.numbers, got.numbers).max() == 0


@given(st.floats(allow_nan=False))
def test_the_floor_decides_as_the_double_does(threshold: float) -> None:
    floor = floor_to_float32(np.array([threshold]))[0]
    assert float(floor) <= threshold
    with np.errstate(over="ignore"):
        above = np.nextafter(floor, np.float32(np.inf))
    assert float(above) > threshold or math.isinf(threshold)


def test_subtrees_of_one_value_are_merged() -> None:
    """Left: a split whose leaves agree. It becomes one leaf, and the sum stays what it was."""
    tree = Tree(
        feature=np.array([0, 1, 0, 0, 0]),
        threshold=np.array([0.5, 0.5, 0.0, 0.0, 0.0]),
        left=np.array([1, 2, -1, -1, -1]),
        right=np.array([4, 3, -1, -1, -1]),
        missing_left=np.zeros(5, np.bool_),
        value=np.array([0.0, 0.0, 2.0, 2.0, 3.0]),
    )
    same, value = tree.merged()
    assert same.tolist() == [False, True, True, True, True]
    assert value[1] == 2.0


def test_deep_trees_need_no_recursion() -> None:
    rows = np.arange(3000, dtype=np.float64).reshape(-1, 1)
    target = np.arange(3000) % 2
    estimator = DecisionTreeClassifier(random_state=0, splitter="random").fit(rows, target)
    expected, got = answer(estimator, rows)
    assert np.array_equal(labels(expected), labels(got))


def test_the_converter_is_as_before_afterwards() -> None:
    rows, classes, _ = data()
    estimator = DecisionTreeClassifier(random_state=0).fit(rows, classes)
    answer(estimator, rows)
    model: onnx.ModelProto = skl2onnx.to_onnx(estimator, rows[:1].astype(np.float32), options={"zipmap": False})
    assert "TreeEnsembleClassifier" in {node.op_type for node in model.graph.node}
