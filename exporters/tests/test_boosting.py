# SPDX-License-Identifier: Apache-2.0
"""LightGBM and XGBoost: inside pipelines, as boosters, and from their own files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from click.testing import CliRunner, Result
from concord_export import export_sklearn, read_package, verify_package
from concord_export.__main__ import main
from concord_export.errors import ConversionError, SourceError
from concord_export.from_lightgbm import read_lightgbm
from concord_export.from_xgboost import read_xgboost
from concord_export.limits import ulp_distance
from concord_export.made_rows import made_rows
from concord_export.runtime import Session
from concord_proto.inference.v1 import model_pb2
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

RNG = np.random.default_rng(21)
ROWS = RNG.standard_normal((400, 5)) * [1, 10, 100, 1, 1]
ROWS[:, 3] = RNG.integers(0, 40, len(ROWS))
ROWS[:, 4] = np.where(RNG.random(len(ROWS)) < 0.5, 0, ROWS[:, 4])
SCORE = ROWS[:, 0] + RNG.standard_normal(40)[ROWS[:, 3].astype(int)] + 0.1 * ROWS[:, 1] + ROWS[:, 4]
GAPS = np.where(RNG.random(ROWS.shape) < 0.05, np.nan, ROWS)
TWO = (SCORE > 0).astype(int)
THREE = np.digitize(SCORE, [-1, 1])
POSITIVE = np.exp(SCORE / 3)


def lgb(kind: Any = lightgbm.LGBMRegressor, **options: Any) -> Any:
    return kind(n_estimators=15, verbose=-1, **options)


def xgb(kind: Any = xgboost.XGBRegressor, **options: Any) -> Any:
    return kind(n_estimators=15, **options)


LGBC, XGBC = lightgbm.LGBMClassifier, xgboost.XGBClassifier
CATEGORICAL = {"feature_types": ["q", "q", "q", "c", "q"], "enable_categorical": True, "max_cat_to_onehot": 2}


@pytest.mark.parametrize(
    ("estimator", "rows", "target", "options"),
    [
        (lgb(LGBC), GAPS, TWO, {}),
        (lgb(LGBC), GAPS, THREE, {"categorical_feature": [3]}),
        (lgb(LGBC), GAPS, np.array(["a", "b", "c"])[THREE], {}),
        (lgb(LGBC, objective="multiclassova"), GAPS, THREE, {}),
        (lgb(LGBC, boosting_type="dart"), GAPS, TWO, {}),
        (lgb(), GAPS, SCORE, {"categorical_feature": [3]}),
        (lgb(zero_as_missing=True), GAPS, SCORE, {}),
        (lgb(use_missing=False), GAPS, SCORE, {}),
        (lgb(), ROWS, SCORE, {}),
        (lgb(objective="poisson"), GAPS, POSITIVE, {}),
        (lgb(reg_sqrt=True), GAPS, POSITIVE, {}),
        (lgb(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7), GAPS, SCORE, {}),
        (lgb(objective="cross_entropy"), ROWS, TWO * 0.5 + 0.2, {}),
        (lgb(objective="cross_entropy_lambda"), ROWS, TWO * 0.5 + 0.2, {}),
        (make_pipeline(StandardScaler().set_output(transform="default"), lgb(LGBC)), GAPS, TWO, {}),
        (CalibratedClassifierCV(lgb(LGBC), cv=2), ROWS, TWO, {}),
        (xgb(XGBC), GAPS, TWO, {}),
        (xgb(XGBC), GAPS, THREE, {}),
        (xgb(XGBC, num_parallel_tree=3, subsample=0.7), GAPS, THREE, {}),
        (xgb(XGBC, missing=0.0), ROWS, TWO, {}),
        (xgb(XGBC, tree_method="hist", **CATEGORICAL), ROWS, TWO, {}),
        (xgboost.XGBRFClassifier(n_estimators=10), GAPS, TWO, {}),
        (xgboost.XGBRFRegressor(n_estimators=10), GAPS, SCORE, {}),
        (xgb(max_depth=8), GAPS, SCORE * 1000 + 5000, {}),
        (xgb(), GAPS, np.stack([SCORE, -SCORE], axis=1), {}),
        (xgb(objective="count:poisson"), GAPS, np.round(POSITIVE), {}),
        (xgb(objective="reg:quantileerror", quantile_alpha=np.array([0.1, 0.9])), GAPS, SCORE, {}),
        (xgb(booster="dart", rate_drop=0.3), GAPS, SCORE, {}),
        (make_pipeline(StandardScaler(), xgb(XGBC)), GAPS, THREE, {}),
        (VotingClassifier([("a", lgb(LGBC)), ("b", xgb(XGBC))], voting="soft"), ROWS, TWO, {}),
    ],
    ids=lambda value: re.sub(r"\s+|\w+=None,|enable_\w+=\w+,", "", str(value))[:60] if hasattr(value, "fit") else "",
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_estimators(tmp_path: Path, estimator: Any, rows: Any, target: Any, options: dict[str, Any]) -> None:
    report = export_sklearn(estimator.fit(rows, target, **options), rows, tmp_path / "m" / "1")
    assert report.parity.rows >= 1000
    # XGBoost adds up in 32-bit floats in an order that is kept; its sigmoid rounds another way.
    assert report.parity.max_absolute_error < 2e-6
    assert report.parity.labels_compared == (report.parity.rows if hasattr(estimator, "classes_") else 0)
    assert verify_package(report.directory).golden_cases == 8


@pytest.mark.parametrize("floats", [False, True])
def test_sums_are_exact(tmp_path: Path, floats: bool) -> None:
    """Every sum is the library's own, bit for bit, also at the splits and beside them, and for numbers near zero."""
    estimator: Any = (
        xgboost.XGBRegressor(n_estimators=50) if floats else lightgbm.LGBMRegressor(n_estimators=50, verbose=-1)
    )
    estimator.fit(GAPS, SCORE)
    report = export_sklearn(estimator, GAPS, tmp_path / "m" / "1")
    assert report.parity.max_ulp_error == 0
    rows = np.repeat(ROWS[:1], 60, axis=0).astype(np.float32)
    tiny = [0.0, -0.0, 1e-35, -1e-35, 1.1e-35, -1.1e-35, 1e-36, -1e-36, 1e-38, -1e-45, 1e-45, 1e-34]
    for index in range(60):
        rows[index, index % 5] = tiny[index // 5]
    got = Session(report.directory / "model.onnx").run({"float_features": rows})["scores"][:, 0]
    expected = estimator.predict(rows.astype(np.float64))
    assert ulp_distance(expected.astype(np.float64), got.astype(np.float64)).max() == 0


def test_early_stopping(tmp_path: Path) -> None:
    early: Any = xgboost.XGBClassifier(n_estimators=300, early_stopping_rounds=5)
    early.fit(GAPS[:300], TWO[:300], eval_set=[(GAPS[300:], TWO[300:])], verbose=False)
    assert early.best_iteration + 1 < early.get_booster().num_boosted_rounds()
    assert export_sklearn(early, GAPS, tmp_path / "x" / "1").parity.labels_compared >= 1000
    stop = lightgbm.early_stopping(5, verbose=False)
    early = lightgbm.LGBMClassifier(n_estimators=300, verbose=-1)
    early.fit(GAPS[:300], TWO[:300], eval_X=GAPS[300:], eval_y=TWO[300:], callbacks=[stop])
    assert export_sklearn(early, GAPS, tmp_path / "l" / "1").parity.labels_compared >= 1000


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_lightgbm_on_a_data_frame_with_categories(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    city = rng.choice(["Bern", "Zürich", "Genève"], 300)
    frame = pd.DataFrame({"age": rng.integers(18, 90, 300), "city": city, "grade": rng.integers(1, 5, 300) * 10})
    frame["income"] = np.where(rng.random(300) < 0.1, np.nan, rng.normal(size=300))
    frame = frame.astype({"city": "category", "grade": "category"})
    target = (city == "Bern") * frame["age"] + frame["grade"].astype(float)
    model = lgb(min_data_per_group=5, cat_smooth=1).fit(frame, target)
    report = export_sklearn(model, frame, tmp_path / "m" / "1")
    assert report.parity.max_ulp_error <= 1
    inputs = {item.feature.name: item.input for item in report.manifest.features}
    assert inputs["city"] == "string_features"
    # One that was not there at the fit is as one that is missing.
    package = read_package(report.directory)
    strange = Session(package.model_path)
    asked = {info.name: np.zeros((1, info.shape[1] or 1), info.dtype) for info in strange.inputs.values()}
    unseen = frame.iloc[:1].assign(age=0, grade=np.nan, income=0.0, city=pd.Series([None], dtype=object))
    expected = model.predict(unseen.astype({"city": frame["city"].dtype, "grade": frame["grade"].dtype}))
    asked["string_features"][:] = "Basel"
    [answer] = strange.run(asked).values()
    assert answer.ravel()[0] == np.float32(expected[0])


def test_lightgbm_from_its_file(tmp_path: Path) -> None:
    model = lightgbm.train(
        {"objective": "multiclass", "num_class": 3, "verbose": -1},
        lightgbm.Dataset(GAPS, THREE, feature_name=["a", "b", "c", "d", "e"]),
        10,
    )
    model.save_model(tmp_path / "model.txt")
    made = call("lightgbm", tmp_path / "model.txt", tmp_path / "models" / "m", "--class-names", "low,middle,high")
    assert made.exit_code == 0, made.output
    assert "the rows were made" in made.output
    package = verify_package(tmp_path / "models" / "m" / "1").package
    assert [item.feature.name for item in package.manifest.features] == ["a", "b", "c", "d", "e"]
    assert [item.prediction.name for item in package.manifest.predictions] == ["low", "middle", "high"]
    assert package.manifest.outputs[0].output.type == model_pb2.FEATURE_TYPE_INT64
    assert package.manifest.library_versions["lightgbm"] == lightgbm.__version__
    lines = ["a,b,c,d,e", *(",".join("" if np.isnan(x) else str(x) for x in row) for row in GAPS.tolist())]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    real = call("lightgbm", tmp_path / "model.txt", tmp_path / "models" / "m", "--rows", tmp_path / "rows.csv")
    assert real.exit_code == 0, real.output
    assert "(400 given)" in real.output
    assert export_sklearn(model, GAPS, tmp_path / "models" / "m" / "3").parity.max_ulp_error == 0


def test_xgboost_from_its_file(tmp_path: Path) -> None:
    matrix = xgboost.DMatrix(GAPS, SCORE, feature_names=["a", "b", "c", "d", "e"])
    model = xgboost.train({"objective": "reg:squarederror"}, matrix, 10)
    model.save_model(tmp_path / "model.json")
    np.save(tmp_path / "rows.npy", GAPS)
    made = call(
        "xgboost", tmp_path / "model.json", tmp_path / "models" / "m", "--rows", tmp_path / "rows.npy",
        "--target-names", "score", "--description", "How much.",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    package = verify_package(tmp_path / "models" / "m" / "1").package
    assert [item.feature.name for item in package.manifest.features] == ["a", "b", "c", "d", "e"]
    assert package.manifest.predictions[0].prediction.name == "score"
    assert package.manifest.library_versions["xgboost-cpu"] == xgboost.__version__
    assert package.manifest.parity.max_ulp_error == 0
    assert export_sklearn(model, GAPS, tmp_path / "models" / "m" / "2").parity.max_ulp_error == 0
    softmax = xgboost.train({"objective": "multi:softmax", "num_class": 3}, xgboost.DMatrix(GAPS, THREE), 5)
    softmax.save_model(tmp_path / "softmax.json")
    assert call("xgboost", tmp_path / "softmax.json", tmp_path / "models" / "s").exit_code == 0
    assert len(read_package(tmp_path / "models" / "s" / "1").manifest.predictions) == 3


def test_made_rows_reach_both_sides_of_every_split(tmp_path: Path) -> None:
    lgb(LGBC).fit(GAPS, TWO).booster_.save_model(tmp_path / "model.txt")
    estimator = read_lightgbm(tmp_path / "model.txt")
    rows = made_rows(estimator)
    for feature, threshold in estimator.boosted.thresholds():
        assert (rows[:, feature] <= threshold).any()
        assert (rows[:, feature] > threshold).any()


@pytest.mark.parametrize(
    ("estimator", "target", "message"),
    [
        (lgb(linear_tree=True), SCORE, "linear trees"),
        (xgb(booster="gblinear"), SCORE, "booster 'gblinear'"),
        (xgb(multi_strategy="multi_output_tree"), np.stack([SCORE, SCORE], axis=1), "trees of several targets"),
        (xgb(XGBC, objective="binary:hinge"), TWO, "objective 'binary:hinge'"),
    ],
)
def test_what_cannot_be_exported_says_why(tmp_path: Path, estimator: Any, target: Any, message: str) -> None:
    with pytest.raises((ConversionError, SourceError), match=message):
        export_sklearn(estimator.fit(ROWS, target), ROWS, tmp_path / "m" / "1")


@pytest.mark.parametrize(
    ("command", "content", "message"),
    [
        ("lightgbm", "tree\nnonsense", "model: "),
        ("lightgbm", "\x80\x04pickle", "is no text model of LightGBM"),
        ("xgboost", "no json", "is no JSON"),
        ("xgboost", "[1]", "is no model of XGBoost"),
        ("xgboost", json.dumps({"learner": {}}), "model: "),
    ],
)
def test_files_that_are_none(tmp_path: Path, command: str, content: str, message: str) -> None:
    path = tmp_path / "model"
    path.write_text(content)
    result = call(command, path, tmp_path / "models" / "m")
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert not (tmp_path / "models").exists()


def test_a_boosters_answers_are_the_librarys(tmp_path: Path) -> None:
    fitted = xgb(XGBC).fit(GAPS, TWO)
    fitted.save_model(tmp_path / "model.json")
    estimator = read_xgboost(tmp_path / "model.json")
    assert np.array_equal(estimator.predict_proba(GAPS), fitted.predict_proba(GAPS).astype(np.float64))
    assert np.array_equal(estimator.predict(GAPS), fitted.predict(GAPS))
