# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pandas as pd
import pytest
from concord_export import Feature, Metric, export_sklearn, read_package, verify_package
from concord_export.errors import ConversionError, PackageExistsError, ParityError, SourceError
from concord_export.from_sklearn import export_source
from concord_export.limits import Limits, ulp_distance
from concord_export.models import breast_cancer, mixed
from concord_proto.inference.v1 import model_pb2
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import AffinityPropagation, Birch, BisectingKMeans, KMeans, MeanShift, MiniBatchKMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, FactorAnalysis, FastICA, KernelPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import RFE, VarianceThreshold
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import IterativeImputer, MissingIndicator, SimpleImputer
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDOneClassSVM,
)
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, RegressorChain
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from sklearn.svm import SVC, SVR, LinearSVC, NuSVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

RNG = np.random.default_rng(11)
ROWS = RNG.standard_normal((120, 5)) * [1.0, 10.0, 100.0, 1.0, 1.0]
GAPS = np.where(RNG.random(ROWS.shape) < 0.1, np.nan, ROWS)
SCORE = ROWS @ [1.0, 0.1, 0.01, 0.0, 2.0] + 0.1 * RNG.standard_normal(len(ROWS))
TWO = np.where(SCORE > 0, "yes", "no").astype(object)
THREE = np.digitize(SCORE, [-1.0, 1.0])
RIDGE = Ridge().fit(ROWS, SCORE)


@pytest.mark.parametrize(
    ("estimator", "rows", "target"),
    [
        (DecisionTreeClassifier(random_state=0), ROWS, THREE),
        (RandomForestClassifier(20, random_state=0), GAPS, TWO),
        (ExtraTreesClassifier(10, random_state=0), ROWS, THREE),
        (GradientBoostingClassifier(n_estimators=10, random_state=0), ROWS, TWO),
        (GradientBoostingClassifier(loss="exponential", n_estimators=10, random_state=0), ROWS, TWO),
        (HistGradientBoostingClassifier(max_iter=10), GAPS, THREE),
        (make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=10)), ROWS, TWO),
        (AdaBoostClassifier(n_estimators=5, random_state=0), ROWS, TWO),
        (BaggingClassifier(n_estimators=3, random_state=0), ROWS, THREE),
        (
            VotingClassifier([("a", RandomForestClassifier(5, random_state=0)), ("b", GaussianNB())], voting="soft"),
            ROWS,
            TWO,
        ),
        (CalibratedClassifierCV(RandomForestClassifier(5, random_state=0), cv=2), ROWS, TWO),
        (GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [2, 3]}, cv=2), ROWS, TWO),
        (OneVsRestClassifier(LogisticRegression()), ROWS / 100, THREE),
        (make_pipeline(StandardScaler(), LogisticRegression()), ROWS, THREE),
        (
            make_pipeline(
                SimpleImputer(strategy="median", add_indicator=True),
                StandardScaler(),  # which looks at how many columns there are
                LogisticRegression(max_iter=5000),
            ),
            GAPS,
            TWO,
        ),
        (make_pipeline(PCA(3), RandomForestClassifier(5, random_state=0)), ROWS, TWO),
        (make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=5000, random_state=0)), ROWS, THREE),
        (make_pipeline(StandardScaler(), SVC()), ROWS, TWO),
        (make_pipeline(StandardScaler(), SVC()), ROWS, THREE),
        (make_pipeline(StandardScaler(), LinearSVC()), ROWS, TWO),
        (RidgeClassifier(), ROWS, THREE),
        (GaussianNB(), ROWS, THREE),
        (QuadraticDiscriminantAnalysis(), ROWS, THREE),
        (KNeighborsClassifier(), ROWS, TWO),
        (LinearRegression(), ROWS, SCORE),
        (LinearRegression(), ROWS, np.stack([SCORE, -SCORE], axis=1)),
        (PoissonRegressor(max_iter=1000), ROWS / 100, np.abs(SCORE)),
        (DecisionTreeRegressor(random_state=0), GAPS, SCORE),
        (RandomForestRegressor(10, random_state=0), ROWS, np.stack([SCORE, -SCORE], axis=1)),
        (GradientBoostingRegressor(random_state=0), ROWS, SCORE),
        (HistGradientBoostingRegressor(loss="poisson", max_iter=10), GAPS, np.abs(SCORE)),
        (AdaBoostRegressor(n_estimators=5, random_state=0), ROWS, SCORE),
        (StackingRegressor([("a", DecisionTreeRegressor(random_state=0)), ("b", Ridge())]), ROWS, SCORE),
        (KNeighborsRegressor(), ROWS, SCORE),
        (KNeighborsRegressor(metric="chebyshev"), ROWS, SCORE),
        (GaussianProcessRegressor(alpha=0.1, optimizer=None), ROWS, SCORE),
        (make_pipeline(StandardScaler(), SVR()), ROWS, SCORE),
    ],
    ids=lambda value: re.sub(r"\s+", "", str(value))[:70] if hasattr(value, "fit") else "",
)
def test_estimators(tmp_path: Path, estimator: Any, rows: Any, target: Any) -> None:
    report = export_sklearn(estimator.fit(rows, target), rows, tmp_path / "m" / "1")
    parity = report.parity
    assert parity.rows >= 1000
    assert report.real_rows == len(rows)
    assert parity.labels_compared == (parity.rows if hasattr(estimator, "classes_") else 0)
    assert parity.max_absolute_error < 1e-3
    assert verify_package(tmp_path / "m" / "1").golden_cases == 8


TARGETS = np.stack([SCORE > 0, SCORE > 1], axis=1).astype(int)


@pytest.mark.parametrize(
    ("estimator", "rows", "target", "labels", "numbers"),
    [
        (KMeans(3, n_init=1, random_state=0), ROWS, None, 1, 3),
        (MiniBatchKMeans(3, n_init=1, random_state=0), ROWS, None, 1, 3),
        (BisectingKMeans(3, random_state=0), ROWS, None, 1, 3),
        (MeanShift(bandwidth=100), ROWS, None, 1, 0),
        (AffinityPropagation(random_state=0), ROWS, None, 1, 0),
        (Birch(n_clusters=3), ROWS, None, 1, 0),
        (make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0)), ROWS, None, 1, 2),
        (BayesianGaussianMixture(n_components=2, random_state=0), ROWS, None, 1, 2),
        (GaussianMixture(2, covariance_type="diag", random_state=0), ROWS, None, 1, 2),
        (GaussianMixture(2, covariance_type="spherical", random_state=0), ROWS, None, 1, 2),
        (GaussianMixture(2, covariance_type="tied", random_state=0), ROWS, None, 1, 2),
        (IsolationForest(n_estimators=20, contamination=0.1, random_state=0), GAPS, None, 1, 1),
        (IsolationForest(n_estimators=5, max_features=2, random_state=0), ROWS, None, 1, 1),
        (make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)), ROWS, None, 1, 1),
        (LocalOutlierFactor(novelty=True), ROWS, None, 1, 1),
        (EllipticEnvelope(random_state=0), ROWS, None, 1, 1),
        (SGDOneClassSVM(random_state=0), ROWS / 100, None, 1, 1),
        (OneVsRestClassifier(LogisticRegression()), ROWS / 100, TARGETS, 2, 2),
        (make_pipeline(StandardScaler(), OneVsRestClassifier(LinearSVC())), ROWS, TARGETS, 2, 2),
        (MultiOutputClassifier(LogisticRegression()), ROWS / 100, TARGETS, 2, 2),
        (MultiOutputClassifier(RandomForestClassifier(3, random_state=0)), ROWS, np.stack([THREE, THREE > 0], 1), 2, 4),
        (ClassifierChain(LogisticRegression(), order=[1, 0]), ROWS / 100, TARGETS, 2, 2),
        (RandomForestClassifier(5, random_state=0), ROWS, np.where(TARGETS, "yes", "no"), 2, 4),
        (DecisionTreeClassifier(random_state=0), GAPS, TARGETS, 2, 2),
        (KNeighborsClassifier(), ROWS, TARGETS, 2, 2),
        (MLPClassifier((8,), max_iter=5000, tol=1e-2, random_state=0), ROWS / 100, TARGETS, 2, 2),
        (RidgeClassifier(), ROWS, TARGETS, 2, 2),
        (VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier())]), ROWS, THREE, 1, 0),
    ],
    ids=lambda value: re.sub(r"\s+", "", str(value))[:70] if hasattr(value, "fit") else "",
)
def test_clusterings_outliers_and_several_labels(
    tmp_path: Path, estimator: Any, rows: Any, target: Any, labels: int, numbers: int
) -> None:
    report = export_sklearn(estimator.fit(rows, target), rows, tmp_path / "m" / "1")
    assert report.parity.labels_compared == labels * report.parity.rows
    assert report.parity.max_absolute_error < 1e-3
    assert len(report.manifest.predictions) == numbers
    (output,) = report.manifest.outputs
    assert list(output.output.shape) == ([] if labels == 1 else [labels])
    assert output.output.name == ("label" if labels == 1 else "labels")
    assert verify_package(report.directory).golden_cases == 8


@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (StandardScaler(), GAPS),
        (MinMaxScaler(), ROWS),
        (MaxAbsScaler(), ROWS),
        (RobustScaler(), ROWS),
        (Normalizer(), ROWS),
        (Binarizer(threshold=0.2), ROWS),
        (PolynomialFeatures(3), ROWS / 100),
        (PowerTransformer(), GAPS),
        (PowerTransformer(method="box-cox", standardize=False), np.abs(ROWS) + 1),
        (QuantileTransformer(n_quantiles=20), ROWS),
        (KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"), ROWS),
        (KBinsDiscretizer(4, encode="ordinal", strategy="uniform"), ROWS),
        (make_pipeline(FunctionTransformer(np.abs), FunctionTransformer(np.log1p)), ROWS),
        (SimpleImputer(add_indicator=True), GAPS),
        (IterativeImputer(random_state=0), GAPS),
        (MissingIndicator(), GAPS),
        (PCA(3), ROWS),
        (TruncatedSVD(3), ROWS),
        (KernelPCA(2, kernel="rbf"), ROWS / 100),
        (FactorAnalysis(2), ROWS),
        (FastICA(2, random_state=0), ROWS),
        (GaussianRandomProjection(3, random_state=0), ROWS),
        (SparseRandomProjection(3, random_state=0), ROWS),
        (Nystroem(n_components=10, random_state=0), ROWS / 100),
        (RBFSampler(random_state=0), ROWS / 100),
        (VarianceThreshold(0.5), ROWS),
        (FeatureUnion([("a", PCA(2)), ("b", StandardScaler())]), ROWS),
    ],
    ids=lambda value: re.sub(r"\s+", "", str(value))[:70] if hasattr(value, "fit") else "",
)
def test_transformers(tmp_path: Path, estimator: Any, rows: Any) -> None:
    width = estimator.fit(rows).transform(rows).shape[1]
    report = export_sklearn(estimator, rows, tmp_path / "m" / "1")
    (output,) = report.manifest.outputs
    assert (output.output.name, list(output.output.shape)) == ("transformed", [width])
    assert not report.manifest.predictions
    assert report.parity.max_absolute_error < 1e-3
    case = read_package(report.directory).golden.cases[0]
    assert len(case.predictions.outputs["transformed"].float_array.values) == width
    assert verify_package(report.directory).golden_cases == 8


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (LinearDiscriminantAnalysis(), TWO),
        (LinearDiscriminantAnalysis(), THREE),
        (SGDClassifier(loss="modified_huber", random_state=0), TWO),
        (SGDClassifier(loss="modified_huber", random_state=0), THREE),
        (SGDClassifier(loss="log_loss", random_state=0), THREE),
        (OneVsOneClassifier(LogisticRegression()), np.array(["a", "b", "c"])[THREE]),
        (OneVsOneClassifier(LogisticRegression()), TWO),
        (OneVsOneClassifier(GaussianNB()), THREE),
        (CalibratedClassifierCV(LogisticRegression(), method="isotonic", cv=2), THREE),
        (CalibratedClassifierCV(GaussianNB(), method="isotonic", cv=2), TWO),
        (CalibratedClassifierCV(LogisticRegression(), method="temperature", cv=2), TWO),
        (CalibratedClassifierCV(GaussianNB(), method="temperature", cv=2), THREE),
        (CalibratedClassifierCV(make_pipeline(StandardScaler(), LinearSVC()), cv=2), TWO),
        (KNeighborsClassifier(weights="distance", metric="manhattan"), THREE),
        (KNeighborsRegressor(weights="distance"), SCORE),
        (KNeighborsRegressor(weights="distance", p=3), np.stack([SCORE, -SCORE], axis=1)),
        (NuSVR(), SCORE),
        (SVR(kernel="poly"), SCORE),
        (SVR(kernel="sigmoid"), SCORE),
        (SVR(kernel="linear"), SCORE),
        (KernelRidge(kernel="rbf", gamma=0.1), SCORE),
        (DummyClassifier(), TWO),
        (DummyRegressor(), SCORE),
        (TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), np.abs(SCORE)),
        (TransformedTargetRegressor(Ridge(), transformer=StandardScaler()), SCORE),
        (TransformedTargetRegressor(Ridge(), transformer=MinMaxScaler()), SCORE),
        (RegressorChain(Ridge(), order=[1, 0]), np.stack([SCORE, SCORE**2], axis=1)),
        (FixedThresholdClassifier(LogisticRegression(), threshold=0.3, pos_label="no"), TWO),
        (TunedThresholdClassifierCV(LogisticRegression(), cv=2, scoring="accuracy"), THREE > 0),
        (VotingClassifier([("a", LinearDiscriminantAnalysis()), ("b", GaussianNB())], voting="soft"), THREE),
        (HistGradientBoostingClassifier(categorical_features=[4], max_iter=10), THREE),
    ],
    ids=lambda value: re.sub(r"\s+", "", str(value))[:70] if hasattr(value, "fit") else "",
)
def test_what_skl2onnx_gets_wrong_or_does_not_know(tmp_path: Path, estimator: Any, target: Any) -> None:
    rows = (ROWS / [1, 10, 100, 1, 1]).round(3)
    rows[:, 4] = np.arange(len(rows)) % 7
    report = export_sklearn(estimator.fit(rows, target), rows, tmp_path / "m" / "1")
    assert report.precision == "double"
    assert report.parity.max_absolute_error < 1e-5
    assert verify_package(report.directory).golden_cases == 8


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline("passthrough", StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), RFE(LogisticRegression(), n_features_to_select=2), GaussianNB()),
        make_pipeline(StandardScaler(), RFE(LogisticRegression(), n_features_to_select=2)),
        make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0), LogisticRegression()),
        make_pipeline(LinearDiscriminantAnalysis(), KNeighborsClassifier()),
        make_pipeline(make_pipeline(StandardScaler()), make_pipeline(PCA(2), LogisticRegression())),
        VotingClassifier([("a", make_pipeline(StandardScaler(), LinearSVC())), ("b", LogisticRegression())]),
        OneVsRestClassifier(make_pipeline(StandardScaler(), LogisticRegression())),
        GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [1, 10]}, cv=2),
    ],
    ids=lambda value: re.sub(r"\s+", "", str(value))[:70],
)
def test_pipelines_of_all_sorts(tmp_path: Path, estimator: Any) -> None:
    rows = ROWS / [1, 10, 100, 1, 1]
    report = export_sklearn(estimator.fit(rows, THREE), rows, tmp_path / "m" / "1")
    assert report.parity.max_absolute_error < 1e-5
    assert verify_package(report.directory).golden_cases == 8


def test_skl2onnx_is_left_as_it_was(tmp_path: Path) -> None:
    from skl2onnx import _parse, _supported_operators
    from skl2onnx.common import _registration

    registries = (
        _registration._converter_pool,
        _registration._shape_calculator_pool,
        _supported_operators.sklearn_operator_name_map,
        _parse.sklearn_parsers_map,
    )
    before = [dict(registry) for registry in registries]
    export_sklearn(RIDGE, ROWS, tmp_path / "m" / "1")
    with pytest.raises(ConversionError):
        export_sklearn(Unknown().fit(ROWS, SCORE), ROWS, tmp_path / "m" / "2")
    assert [dict(registry) for registry in registries] == before


def test_names_of_several_labels(tmp_path: Path) -> None:
    estimator = MultiOutputClassifier(DecisionTreeClassifier(random_state=0)).fit(ROWS, np.stack([THREE, THREE > 0], 1))
    report = export_sklearn(estimator, ROWS, tmp_path / "m" / "1", target_names=["size", "large"])
    assert [item.prediction.name for item in report.manifest.predictions] == ["size=0", "size=1", "size=2", "large"]
    assert report.manifest.outputs[0].output.description == "In this order: size, large."
    with pytest.raises(SourceError, match="target_names: expected 2, got 1"):
        export_sklearn(estimator, ROWS, tmp_path / "m" / "2", target_names=["size"])
    with pytest.raises(SourceError, match="class_names: they are for classifiers of one label"):
        export_sklearn(estimator, ROWS, tmp_path / "m" / "2", class_names=["size"])


def test_quality_is_in_the_manifest(tmp_path: Path) -> None:
    report = export_sklearn(RIDGE, ROWS, tmp_path / "m" / "1", quality=[Metric("r2", 0.5, 30)])
    (metric,) = read_package(report.directory).manifest.quality
    assert (metric.name, metric.value, metric.rows) == ("r2", 0.5, 30)
    for wrong in (Metric("", 0.5, 30), Metric("r2", float("nan"), 30), Metric("r2", 0.5, 0)):
        with pytest.raises(SourceError, match="quality: expected"):
            export_sklearn(RIDGE, ROWS, tmp_path / "m" / "2", quality=[wrong])


def passengers() -> Any:
    rng = np.random.default_rng(9)
    count = 200
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, count),
            "fare": np.where(rng.random(count) < 0.1, np.nan, rng.gamma(2, 30, count)),
            "sex": rng.choice(["male", "female"], count),
            "class": rng.choice([1, 2, 3], count),
            "alone": rng.random(count) < 0.4,
            "note": rng.choice(["a good book", "bad film", "fine trip now"], count),
        }
    )
    return frame, ((frame["sex"] == "female") & (frame["class"] < 3)).to_numpy()


def test_a_data_frame_and_columns_by_name(tmp_path: Path) -> None:
    frame, target = passengers()
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    chosen = ColumnTransformer(
        [
            ("numbers", numbers, ["age", "fare"]),
            ("words", TfidfVectorizer(), "note"),
            ("kinds", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["sex"]),
            ("classes", OneHotEncoder(handle_unknown="ignore"), make_column_selector("class")),
            ("rest", "passthrough", ["alone"]),
        ]
    )
    estimator = make_pipeline(chosen, GradientBoostingClassifier(n_estimators=10, random_state=0)).fit(frame, target)
    before = str(chosen.transformers_)
    report = export_sklearn(estimator, frame, tmp_path / "m" / "1")
    assert str(chosen.transformers_) == before
    kinds = [(item.feature.name, item.input) for item in report.manifest.features]
    assert kinds == [
        ("age", "int64_features"), ("fare", "float_features"), ("sex", "string_features"),
        ("class", "int64_features"), ("alone", "bool_features"), ("note", "string_features"),
    ]  # fmt: skip
    assert report.parity.max_ulp_error <= 1
    assert verify_package(report.directory).golden_cases == 8


def test_categories_of_a_data_frame(tmp_path: Path) -> None:
    frame, target = passengers()
    frame = frame.drop(columns=["note"]).astype({"sex": "category", "class": "category"})
    report = export_sklearn(HistGradientBoostingClassifier(max_iter=10).fit(frame, target), frame, tmp_path / "m" / "1")
    assert report.parity.max_ulp_error <= 1
    assert verify_package(report.directory).golden_cases == 8


def test_numbers_missing_in_pandas_own_way(tmp_path: Path) -> None:
    frame, target = passengers()
    frame = frame[["age", "fare", "alone"]].astype({"age": "Int64", "fare": "Float64", "alone": "boolean"})
    frame.loc[3:9] = None
    estimator = make_pipeline(SimpleImputer(), LogisticRegression(max_iter=1000)).fit(frame, target)
    report = export_sklearn(estimator, frame, tmp_path / "m" / "1")
    assert report.parity.max_ulp_error <= 1
    assert {item.feature.type for item in report.manifest.features} == {model_pb2.FEATURE_TYPE_FLOAT}


def test_rows_with_a_missing_text_are_left_out(tmp_path: Path) -> None:
    frame, target = passengers()
    frame = frame[["age", "sex"]].astype({"sex": object})
    frame.loc[[3, 5], "sex"] = [None, np.nan]
    chosen = ColumnTransformer(
        [("sex", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["sex"])]
    )
    estimator = make_pipeline(chosen, LogisticRegression()).fit(frame, target)
    report = export_sklearn(estimator, frame, tmp_path / "m" / "1")
    assert (report.real_rows, report.left_out) == (198, 2)
    with pytest.raises(SourceError, match="a text is missing in each of them"):
        export_sklearn(
            estimator, frame.loc[[3, 5]], tmp_path / "m" / "2", features=[Feature("a"), Feature("b", "string")]
        )


def test_the_demo_models(tmp_path: Path) -> None:
    cancer = export_source(breast_cancer.source(), tmp_path / "breast-cancer" / "1")
    assert [item.feature.name for item in cancer.manifest.features][:2] == ["mean radius", "mean texture"]
    assert len(cancer.manifest.features) == 30
    assert all(item.feature.description for item in cancer.manifest.features)
    assert [item.prediction.name for item in cancer.manifest.predictions] == ["benign", "malignant"]
    assert cancer.manifest.outputs[0].output.type == model_pb2.FEATURE_TYPE_STRING
    assert cancer.parity.max_ulp_error == 0
    assert cancer.parity.labels_compared == 1000
    assert cancer.manifest.batching.batchable

    iris = export_source(mixed.source(), tmp_path / "mixed" / "1")
    bindings = [(item.feature.name, item.input, item.column) for item in iris.manifest.features]
    assert bindings[:2] == [("species", "string_features", 0), ("sepal length (cm)", "float_features", 0)]
    assert [item.prediction.name for item in iris.manifest.predictions] == ["petal width (cm)"]
    assert iris.parity.max_ulp_error == 0
    assert iris.parity.labels_compared == 0


def test_an_export_can_be_made_again(tmp_path: Path) -> None:
    for version in ("1", "2"):
        export_source(breast_cancer.source(), tmp_path / "m" / version)
    for path in (tmp_path / "m" / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "m" / "2" / path.name).read_bytes()


def biased() -> Any:
    estimator = LogisticRegression().fit(ROWS / 100, TWO)
    true = estimator.predict_proba

    def predict_proba(rows: Any) -> Any:
        # As far off as the third feature is large.
        return true(rows) + 1e-3 * np.abs(rows[:, 2:3])

    estimator.predict_proba = predict_proba
    return estimator


def test_a_failure_of_parity_shows_the_worst_row(tmp_path: Path) -> None:
    rows = ROWS / 100
    worst = np.abs(rows[:, 2].astype(np.float32)).max()
    with pytest.raises(ParityError) as caught:
        export_sklearn(biased(), rows, tmp_path / "m" / "1", features=[Feature(f"f{index}") for index in range(5)])
    text = str(caught.value)
    assert re.search(r"does not answer like its source on \d+ of 1000 rows; the limit is 1e-05 \+ 1e-06", text)
    shown = {name: float(value) for name, value in re.findall(r"^    (f\d) +(\S+)$", text, re.MULTILINE)}
    assert set(shown) == {"f0", "f1", "f2", "f3", "f4"}
    # Made rows may lie a little outside of the given ones.
    assert abs(shown["f2"]) > 0.9 * worst
    answers = re.findall(
        r"^    (\w+) +expected (\S+), got (\S+), difference (\S+)  <- beyond the limit$", text, re.MULTILINE
    )
    assert [name for name, *_ in answers] == ["no", "yes"]
    for _, expected, got, difference in answers:
        assert float(expected) - float(got) == pytest.approx(1e-3 * abs(shown["f2"]), rel=1e-3)
        assert float(difference) == pytest.approx(1e-3 * abs(shown["f2"]), rel=1e-2)
    assert list(tmp_path.iterdir()) == []


def test_wider_limits_are_kept_and_recorded(tmp_path: Path) -> None:
    report = export_sklearn(biased(), ROWS / 100, tmp_path / "m" / "1", absolute_limit=0.01)
    assert report.parity.absolute_limit == 0.01
    assert 1e-3 < report.parity.max_absolute_error < 0.01
    assert read_package(report.directory).golden.absolute_tolerance == 0.01


def test_another_label_is_beyond_any_limit(tmp_path: Path) -> None:
    estimator = LogisticRegression().fit(ROWS / 100, TWO)
    estimator.predict = lambda rows: np.where(np.arange(len(rows)) == 17, "maybe", TWO[0])
    with pytest.raises(ParityError, match=r"label +expected \w+, got \w+  <- differs"):
        export_sklearn(estimator, ROWS / 100, tmp_path / "m" / "1", absolute_limit=100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("classes", "kind", "names"),
    [
        (["b", "a"], model_pb2.FEATURE_TYPE_STRING, ["a", "b"]),
        ([3, -7], model_pb2.FEATURE_TYPE_INT64, ["-7", "3"]),
        ([True, False], model_pb2.FEATURE_TYPE_BOOL, ["False", "True"]),
        ([1.0, 0.0], model_pb2.FEATURE_TYPE_INT64, ["0.0", "1.0"]),
    ],
)
def test_labels_keep_their_type(tmp_path: Path, classes: list[Any], kind: int, names: list[str]) -> None:
    target = np.array(classes, dtype=object if isinstance(classes[0], str) else None)[(SCORE > 0).astype(int)]
    report = export_sklearn(RandomForestClassifier(5, random_state=0).fit(ROWS, target), ROWS, tmp_path / "m" / "1")
    assert report.manifest.outputs[0].output.type == kind
    assert [item.prediction.name for item in report.manifest.predictions] == names
    case = read_package(report.directory).golden.cases[0]
    value = case.predictions.outputs["label"]
    assert getattr(value, value.WhichOneof("value")) in classes


def test_binary_decision_values_have_one_number(tmp_path: Path) -> None:
    report = export_sklearn(RidgeClassifier().fit(ROWS, TWO), ROWS, tmp_path / "m" / "1")
    assert [item.prediction.name for item in report.manifest.predictions] == ["decision"]
    assert "above 0 for yes" in report.manifest.predictions[0].prediction.description


def test_kinds_of_features_side_by_side(tmp_path: Path) -> None:
    """Strings, integers, booleans, floats and doubles in any order; one feature of two columns."""
    rng = np.random.default_rng(3)
    rows = np.empty((90, 8), dtype=object)
    rows[:, 0] = rng.standard_normal(90)
    rows[:, 1] = rng.choice(["red", "green", "blue"], 90)
    rows[:, 2] = rng.integers(0, 2**40, 90)
    rows[:, 3] = rng.random(90) < 0.5
    rows[:, 4:6] = rng.standard_normal((90, 2))
    rows[:, 6] = rng.choice(["s", "m"], 90)
    rows[:, 7] = rng.standard_normal(90)
    target = (
        rows[:, 0].astype(float) + (rows[:, 1] == "red") + rows[:, 2].astype(float) / 2**40 + rows[:, 3].astype(float)
    )
    transformer = ColumnTransformer(
        [
            ("colours", OneHotEncoder(), [1]),
            ("sizes", OrdinalEncoder(), [6]),
            ("rest", StandardScaler(), [0, 2, 3, 4, 5, 7]),
        ]
    )
    estimator = make_pipeline(transformer, LinearRegression()).fit(rows, target)
    report = export_sklearn(
        estimator,
        rows,
        tmp_path / "m" / "1",
        features=[
            Feature("a"),
            Feature("colour", "string", default="red"),
            Feature("count", "int64"),
            Feature("flag", "bool", default=False),
            Feature("pair", shape=(2,)),
            Feature("size", "string"),
            Feature("exact", "double", default=0.1),
        ],
    )
    bindings = {
        item.feature.name: (item.input, item.column, list(item.feature.shape)) for item in report.manifest.features
    }
    assert bindings == {
        "a": ("float_features", 0, []),
        "colour": ("string_features", 0, []),
        "count": ("int64_features", 0, []),
        "flag": ("bool_features", 0, []),
        "pair": ("float_features", 1, [2]),
        "size": ("string_features", 1, []),
        "exact": ("double_features", 0, []),
    }
    defaults = {
        item.feature.name: item.feature.default_value for item in report.manifest.features if not item.feature.required
    }
    assert defaults["colour"].string_value == "red"
    assert defaults["flag"].WhichOneof("value") == "bool_value"
    assert defaults["exact"].double_value == 0.1
    assert report.parity.max_ulp_error == 0
    model = onnx.load(report.directory / "model.onnx")
    assert [item.name for item in model.graph.input] == [
        "float_features", "string_features", "int64_features", "bool_features", "double_features",
    ]  # fmt: skip
    request = read_package(report.directory).golden.cases[0].features.features
    assert request["count"].WhichOneof("value") == "int64_value"
    assert len(request["pair"].float_array.values) == 2
    verify_package(report.directory)


def test_an_array_of_pixels(tmp_path: Path) -> None:
    rows = np.random.default_rng(5).integers(0, 17, (60, 64)).astype(float)
    estimator = RandomForestClassifier(5, random_state=0).fit(rows, np.arange(60) % 3)
    report = export_sklearn(estimator, rows, tmp_path / "m" / "1", features=[Feature("pixels", shape=(8, 8))])
    assert [list(item.feature.shape) for item in report.manifest.features] == [[8, 8]]
    verify_package(report.directory)


def test_texts(tmp_path: Path) -> None:
    texts = ["good book", "bad film", "a good film", "bad bad book", "fine", "good fine film"] * 3
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0, 1, 1] * 3)
    report = export_sklearn(estimator, texts, tmp_path / "m" / "1", features=[Feature("text", "string")])
    assert report.manifest.features[0].feature.type == model_pb2.FEATURE_TYPE_STRING
    verify_package(report.directory)


def test_the_reference_sees_what_the_wire_carries(tmp_path: Path) -> None:
    """0.1 is no 32-bit float: the source is asked about the float that clients send, not about the double."""
    asked: list[Any] = []
    estimator = LinearRegression().fit(ROWS, SCORE)
    true = estimator.predict

    def predict(rows: Any) -> Any:
        asked.append(np.asarray(rows))
        return true(rows)

    estimator.predict = predict
    export_sklearn(estimator, ROWS, tmp_path / "m" / "1")
    for rows in asked:
        assert rows.dtype == np.float64
        assert np.array_equal(rows, rows.astype(np.float32).astype(np.float64), equal_nan=True)


def test_a_row_that_depends_on_its_neighbours_is_not_batchable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concord_export.runtime import Session

    real = Session.run

    def run(self: Session, inputs: Any, outputs: Any = None) -> Any:
        given = real(self, inputs, outputs)
        if len(next(iter(inputs.values()))) > 1:
            given["scores"] = np.nextafter(given["scores"], np.float32(np.inf))
        return given

    monkeypatch.setattr(Session, "run", run)
    report = export_sklearn(LinearRegression().fit(ROWS, SCORE), ROWS, tmp_path / "m" / "1")
    assert not report.parity.batched_equals_single
    assert not report.manifest.batching.batchable
    assert report.parity.max_ulp_error == 1


def test_rows_that_the_source_refuses_are_left_out(tmp_path: Path) -> None:
    """As an encoder does that knows its own categories only."""
    estimator = Ridge().fit(ROWS, SCORE)
    true = estimator.predict

    def predict(rows: Any) -> Any:
        if (rows[:, 0] > ROWS[:, 0].max() + 1e-6).any() or np.isnan(rows).any():
            raise ValueError("never seen")
        return true(rows)

    estimator.predict = predict
    report = export_sklearn(estimator, ROWS, tmp_path / "m" / "1")
    assert 900 < report.parity.rows < 1000


class Unknown(Ridge):  # type: ignore[misc]
    """No converter knows it."""


@pytest.mark.parametrize(
    ("estimator", "rows", "options", "error", "message"),
    [
        ("model.pkl", ROWS, {}, SourceError, "unpickling runs"),
        (Path("model.joblib"), ROWS, {}, SourceError, "unpickling runs"),
        (b"\x80\x04", ROWS, {}, SourceError, "unpickling runs"),
        (Ridge(), ROWS, {}, SourceError, "not fitted yet"),
        (object(), ROWS, {}, SourceError, "has neither predict nor transform"),
        (RIDGE, ROWS[:0], {}, SourceError, "there are none"),
        (RIDGE, ROWS[0], {}, SourceError, "expected \\[rows, columns\\]"),
        (RIDGE, ROWS, {"features": [Feature("a")]}, SourceError, "take 1 columns, the rows have 5"),
        (RIDGE, ROWS, {"features": [Feature("a", shape=(4,)), Feature("a")]}, SourceError, "'a' is .* there twice"),
        (RIDGE, ROWS, {"features": [Feature("a", "int64", (5,))]}, SourceError, "row 0: expected a 64-bit integer"),
        (RIDGE, ROWS, {"features": [Feature("a", cast(Any, "text"), (5,))]}, SourceError, "kind: expected one of"),
        (RIDGE, ROWS, {"features": [Feature("a", shape=(5,), default="x")]}, SourceError, "'a': default"),
        (RIDGE, ROWS, {"target_names": ["a", "b"]}, SourceError, "target_names: expected 1, got 2"),
        (RIDGE, ROWS, {"class_names": ["a"]}, SourceError, "they are for classifiers"),
        (GaussianNB().fit(ROWS, TWO), ROWS, {"class_names": ["a"]}, SourceError, "class_names: expected 2, got 1"),
        (GaussianNB().fit(ROWS, TWO), ROWS, {"class_names": ["a", "a"]}, SourceError, "not unique"),
        (GaussianNB().fit(ROWS, TWO), ROWS, {"absolute_limit": float("nan")}, SourceError, "absolute_limit"),
        (Unknown().fit(ROWS, SCORE), ROWS, {}, ConversionError, "no converter knows .*Unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_says_why(
    tmp_path: Path, estimator: Any, rows: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_sklearn(estimator, rows, tmp_path / "m" / "1", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_version_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    with pytest.raises(PackageExistsError):
        export_sklearn("not even a model", ROWS, tmp_path / "m" / "1")


def test_exports_do_not_disturb_each_other(tmp_path: Path) -> None:
    estimator = RandomForestClassifier(5, random_state=0).fit(ROWS, TWO)
    failures: list[BaseException] = []

    def export(version: int) -> None:
        try:
            export_sklearn(estimator, ROWS, tmp_path / "m" / str(version))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=export, args=(version,)) for version in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    models = {(tmp_path / "m" / version / "model.onnx").read_bytes() for version in ("1", "2", "3")}
    assert len(models) == 1


def test_limits_treat_nan_and_infinities_as_values() -> None:
    limits = Limits(1e-5, 1e-6)
    nan, inf = float("nan"), float("inf")
    expected = np.array([nan, inf, -inf, 1.0, inf, nan, 0.0, 1e6])
    got = np.array([nan, inf, -inf, nan, 1.0, 1.0, 0.9e-5, 1e6 + 1])
    assert (limits.excess(expected, got) <= 1).tolist() == [True, True, True, False, False, False, True, True]
    assert Limits(0.0, 0.0).excess(np.array([1.0, 0.0]), np.array([1.0, 1e-300])).tolist() == [0.0, inf]


def test_ulp_distance() -> None:
    one = np.float32(1)
    expected = np.array([1.0, 1.0, -0.0, float("nan"), -1e-45])
    got = np.array([1.0, float(np.nextafter(one, np.float32(2))), 0.0, float("nan"), 1e-45])
    assert ulp_distance(expected, got).tolist() == [0, 1, 0, 0, 2]
