# SPDX-License-Identifier: Apache-2.0
"""How near exports are to their sources: every kind of model that can be exported, on real data.

    python -m concord_export.survey            a table on the terminal
    python -m concord_export.survey --markdown for the docs; with --summary one line for each group

Each is fitted on a data set that scikit-learn brings, exported, and verified. Exit code 1 if one fails.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from concord_export.errors import ExportError
from concord_export.from_sklearn import export_sklearn
from concord_export.verification import verify_package

__all__ = ["Case", "Outcome", "cases", "main", "run"]


@dataclass(frozen=True)
class Case:
    """A model to be fitted and exported. `group` is what it is for, `name` what it is called."""

    group: str
    name: str
    estimator: Any
    rows: Any
    target: Any = None
    fitting: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a case: the rows tried, the largest error, the labels compared; or why it failed."""

    case: Case
    rows: int = 0
    absolute_error: float = 0.0
    ulp_error: int = 0
    labels: int = 0
    precision: str = ""
    together: bool = False
    failure: str = ""


def cases() -> Iterator[Case]:
    """All of them, by group."""
    for make in (
        _classification,
        _several_labels,
        _regression,
        _clustering,
        _outliers,
        _transformers,
        _texts,
        _boosting,
    ):
        yield from make()


def run(case: Case, folder: Path) -> Outcome:
    """Fits, exports and verifies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = case.estimator.fit(case.rows, case.target, **dict(case.fitting))
        try:
            report = export_sklearn(estimator, case.rows, folder / "model" / "1")
            verify_package(report.directory)
        except ExportError as error:
            return Outcome(case, failure=str(error).splitlines()[0])
    parity = report.parity
    return Outcome(
        case,
        rows=parity.rows,
        absolute_error=parity.max_absolute_error,
        ulp_error=parity.max_ulp_error,
        labels=parity.labels_compared,
        precision=report.precision,
        together=parity.batched_equals_single,
    )


def _named(group: str, estimators: Iterable[Any], rows: Any, target: Any = None) -> Iterator[Case]:
    for estimator in estimators:
        yield Case(group, _name(estimator), estimator, rows, target)


def _name(estimator: Any) -> str:
    """The class and what is not its default; of a pipeline the steps."""
    if hasattr(estimator, "steps"):
        return " + ".join(_name(step) for _, step in estimator.steps)
    defaults = {}
    try:
        defaults = type(estimator)().get_params(deep=False)
    except TypeError:
        # It holds other estimators.
        inner = getattr(estimator, "estimator", None) or getattr(estimator, "regressor", None)
        members = [inner] if inner is not None else [member for _, member in estimator.estimators]
        return f"{type(estimator).__name__}({', '.join(type(member).__name__ for member in members)})"
    told = {
        name: value
        for name, value in estimator.get_params(deep=False).items()
        if isinstance(value, str) and value != defaults.get(name) and len(value) < 20
    }
    return type(estimator).__name__ + (
        f"({', '.join(f'{name}={value}' for name, value in told.items())})" if told else ""
    )


def _wine() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.object_]]:
    from sklearn.datasets import load_wine

    data = load_wine()
    return data.data, data.target_names[data.target].astype(object)


def _gaps(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(np.random.default_rng(0).random(rows.shape) < 0.1, np.nan, rows)


def _classification() -> Iterator[Case]:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.datasets import load_breast_cancer
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
    from sklearn.ensemble import (
        AdaBoostClassifier,
        BaggingClassifier,
        ExtraTreesClassifier,
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
        StackingClassifier,
        VotingClassifier,
    )
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
    from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC, LinearSVC, NuSVC
    from sklearn.tree import DecisionTreeClassifier

    def scaled(estimator: Any) -> Any:
        return make_pipeline(StandardScaler(), estimator)

    rows, target = _wine()
    yield from _named(
        "classification",
        [
            scaled(LogisticRegression()),
            scaled(SGDClassifier(loss="log_loss", random_state=0)),
            scaled(SGDClassifier(loss="modified_huber", random_state=0)),
            scaled(Perceptron(random_state=0)),
            RidgeClassifier(),
            scaled(LinearSVC()),
            scaled(SVC()),
            scaled(SVC(kernel="poly")),
            scaled(NuSVC()),
            scaled(KNeighborsClassifier()),
            scaled(KNeighborsClassifier(weights="distance")),
            scaled(MLPClassifier((16,), max_iter=500, random_state=0)),
            GaussianNB(),
            MultinomialNB(),
            ComplementNB(),
            BernoulliNB(binarize=2.0),
            scaled(LinearDiscriminantAnalysis()),
            QuadraticDiscriminantAnalysis(),
            DecisionTreeClassifier(random_state=0),
            RandomForestClassifier(30, random_state=0),
            ExtraTreesClassifier(30, random_state=0),
            GradientBoostingClassifier(n_estimators=20, random_state=0),
            AdaBoostClassifier(n_estimators=10, random_state=0),
            BaggingClassifier(n_estimators=5, random_state=0),
            VotingClassifier([("a", DecisionTreeClassifier(max_depth=3)), ("b", GaussianNB())], voting="soft"),
            StackingClassifier([("a", DecisionTreeClassifier(max_depth=3)), ("b", GaussianNB())], cv=3),
            scaled(OneVsRestClassifier(LogisticRegression())),
            scaled(OneVsOneClassifier(LogisticRegression())),
            CalibratedClassifierCV(RandomForestClassifier(10, random_state=0), cv=3),
            CalibratedClassifierCV(GaussianNB(), method="isotonic", cv=3),
            GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [2, 4]}, cv=3),
        ],
        rows,
        target,
    )
    gaps = _gaps(rows)
    yield from _named(
        "classification, values missing",
        [
            HistGradientBoostingClassifier(max_iter=20),
            make_pipeline(SimpleImputer(), RandomForestClassifier(10, random_state=0)),
        ],
        gaps,
        target,
    )
    cancer = load_breast_cancer()
    yield from _named(
        "classification, two classes",
        [
            scaled(LogisticRegression()),
            scaled(LinearDiscriminantAnalysis()),
            HistGradientBoostingClassifier(max_iter=20),
            scaled(SVC()),
        ],
        cancer.data,
        cancer.target,
    )


def _several_labels() -> Iterator[Case]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC
    from sklearn.tree import DecisionTreeClassifier

    rows, target = _wine()
    labels = np.stack([target == "class_0", rows[:, 0] > 13, rows[:, 9] > 5], axis=1).astype(int)
    yield from _named(
        "several labels",
        [
            OneVsRestClassifier(LogisticRegression()),
            OneVsRestClassifier(LinearSVC()),
            MultiOutputClassifier(LogisticRegression()),
            ClassifierChain(LogisticRegression()),
            DecisionTreeClassifier(random_state=0),
            RandomForestClassifier(20, random_state=0),
            KNeighborsClassifier(),
            MLPClassifier((16,), max_iter=500, random_state=0),
        ],
        StandardScaler().fit_transform(rows),
        labels,
    )


def _regression() -> Iterator[Case]:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.datasets import load_diabetes
    from sklearn.ensemble import (
        AdaBoostRegressor,
        ExtraTreesRegressor,
        GradientBoostingRegressor,
        HistGradientBoostingRegressor,
        RandomForestRegressor,
        StackingRegressor,
        VotingRegressor,
    )
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import (
        BayesianRidge,
        ElasticNet,
        HuberRegressor,
        Lasso,
        LinearRegression,
        PoissonRegressor,
        QuantileRegressor,
        Ridge,
        TweedieRegressor,
    )
    from sklearn.multioutput import MultiOutputRegressor, RegressorChain
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler
    from sklearn.svm import SVR, NuSVR
    from sklearn.tree import DecisionTreeRegressor

    rows, target = load_diabetes(return_X_y=True)
    yield from _named(
        "regression",
        [
            LinearRegression(),
            Ridge(),
            Lasso(),
            ElasticNet(),
            BayesianRidge(),
            HuberRegressor(max_iter=1000),
            QuantileRegressor(),
            PoissonRegressor(),
            TweedieRegressor(),
            make_pipeline(PolynomialFeatures(2), Ridge()),
            PLSRegression(2),
            make_pipeline(StandardScaler(), SVR(C=10)),
            make_pipeline(StandardScaler(), NuSVR(C=10)),
            KernelRidge(kernel="rbf", gamma=10),
            GaussianProcessRegressor(alpha=1.0, optimizer=None),
            KNeighborsRegressor(),
            KNeighborsRegressor(weights="distance"),
            make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(16,), max_iter=500, random_state=0)),
            DecisionTreeRegressor(random_state=0),
            RandomForestRegressor(20, random_state=0),
            ExtraTreesRegressor(20, random_state=0),
            GradientBoostingRegressor(random_state=0),
            HistGradientBoostingRegressor(max_iter=50),
            AdaBoostRegressor(n_estimators=10, random_state=0),
            VotingRegressor([("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=3))]),
            StackingRegressor([("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=3))], cv=3),
            TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
        ],
        rows,
        target,
    )
    both = np.stack([target, target**0.5], axis=1)
    yield from _named("regression, two targets", [MultiOutputRegressor(Ridge()), RegressorChain(Ridge())], rows, both)


def _clustering() -> Iterator[Case]:
    from sklearn.cluster import AffinityPropagation, Birch, BisectingKMeans, KMeans, MeanShift, MiniBatchKMeans
    from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
    from sklearn.preprocessing import StandardScaler

    yield from _named(
        "clustering",
        [
            KMeans(3, n_init=1, random_state=0),
            MiniBatchKMeans(3, n_init=1, random_state=0),
            BisectingKMeans(3, random_state=0),
            MeanShift(bandwidth=4),
            AffinityPropagation(random_state=0),
            Birch(n_clusters=3),
            GaussianMixture(3, random_state=0),
            BayesianGaussianMixture(n_components=3, random_state=0),
        ],
        StandardScaler().fit_transform(_wine()[0]),
    )


def _outliers() -> Iterator[Case]:
    from sklearn.covariance import EllipticEnvelope
    from sklearn.ensemble import IsolationForest
    from sklearn.linear_model import SGDOneClassSVM
    from sklearn.neighbors import LocalOutlierFactor
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    yield from _named(
        "outliers",
        [
            IsolationForest(n_estimators=50, contamination=0.1, random_state=0),
            OneClassSVM(nu=0.1),
            SGDOneClassSVM(random_state=0),
            LocalOutlierFactor(novelty=True),
            EllipticEnvelope(random_state=0),
        ],
        StandardScaler().fit_transform(_wine()[0]),
    )


def _transformers() -> Iterator[Case]:
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import PCA, FactorAnalysis, FastICA, KernelPCA, TruncatedSVD
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.feature_selection import SelectKBest, VarianceThreshold
    from sklearn.impute import IterativeImputer, SimpleImputer
    from sklearn.kernel_approximation import Nystroem, RBFSampler
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import (
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
        TargetEncoder,
    )
    from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

    rows, target = _wine()
    yield from _named(
        "transformers",
        [
            StandardScaler(),
            MinMaxScaler(),
            MaxAbsScaler(),
            RobustScaler(),
            Normalizer(),
            PolynomialFeatures(2),
            PowerTransformer(),
            QuantileTransformer(n_quantiles=50),
            KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf"),
            FunctionTransformer(np.log1p),
            PCA(4),
            TruncatedSVD(4),
            KernelPCA(3, kernel="linear"),
            FactorAnalysis(3),
            FastICA(3, random_state=0),
            GaussianRandomProjection(3, random_state=0),
            SparseRandomProjection(3, random_state=0),
            Nystroem(n_components=20, gamma=1e-6, random_state=0),
            RBFSampler(gamma=1e-6, random_state=0),
            SelectKBest(k=4),
            VarianceThreshold(0.5),
        ],
        rows,
        target,
    )
    yield from _named(
        "transformers, values missing",
        [SimpleImputer(add_indicator=True), IterativeImputer(random_state=0)],
        _gaps(rows),
    )
    table = np.empty((len(rows), 3), dtype=object)
    table[:, 0] = np.where(rows[:, 0] > 13, "strong", "mild")
    table[:, 1] = np.where(rows[:, 9] > 5, "dark", "pale")
    table[:, 2] = rows[:, 12]
    for encoder in (OneHotEncoder(), OrdinalEncoder(), TargetEncoder(random_state=0)):
        chosen = ColumnTransformer([("words", encoder, [0, 1]), ("number", StandardScaler(), [2])])
        pipeline = make_pipeline(chosen, LogisticRegression())
        # TargetEncoder's converter knows two classes only.
        labels = np.where(target == "class_0", "yes", "no").astype(object)
        name = f"{type(encoder).__name__} | StandardScaler + LogisticRegression"
        yield Case("strings and numbers", name, pipeline, table, labels)


def _texts() -> Iterator[Case]:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    from concord_export.models.sms_spam import messages

    texts, labels = messages()
    yield Case(
        "texts",
        "CountVectorizer + MultinomialNB",
        make_pipeline(CountVectorizer(), MultinomialNB()),
        texts[:1500],
        labels[:1500],
    )
    pairs = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2), LogisticRegression())
    yield Case("texts", "TfidfVectorizer(ngram_range=(1, 2)) + LogisticRegression", pairs, texts[:1500], labels[:1500])


def _boosting() -> Iterator[Case]:
    import lightgbm
    import xgboost
    from sklearn.datasets import load_diabetes

    rows, target = _wine()
    gaps = _gaps(rows)
    codes = np.unique(target, return_inverse=True)[1]
    numbers, progression = load_diabetes(return_X_y=True)
    quiet = {"n_estimators": 50, "verbosity": 0}
    yield Case("LightGBM", "LGBMClassifier", lightgbm.LGBMClassifier(n_estimators=50, verbose=-1), gaps, target)
    yield Case("LightGBM", "LGBMRegressor", lightgbm.LGBMRegressor(n_estimators=50, verbose=-1), numbers, progression)
    categorical = np.column_stack([numbers[:, 2:], np.arange(len(numbers)) % 12])
    yield Case(
        "LightGBM",
        "LGBMRegressor with a categorical feature",
        lightgbm.LGBMRegressor(n_estimators=50, verbose=-1),
        categorical,
        progression + 10 * (categorical[:, -1] % 5),
        (("categorical_feature", [categorical.shape[1] - 1]),),
    )
    yield Case("XGBoost", "XGBClassifier", xgboost.XGBClassifier(**quiet), gaps, codes)
    yield Case("XGBoost", "XGBRegressor", xgboost.XGBRegressor(**quiet), numbers, progression)
    yield Case("XGBoost", "XGBRFRegressor", xgboost.XGBRFRegressor(**quiet), numbers, progression)


@click.command()
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@click.option("--summary", is_flag=True, help="One line for each group.")
@click.argument("names", nargs=-1)
def main(markdown: bool, summary: bool, names: tuple[str, ...]) -> None:
    """Export every kind of model and print how near each export is to its source; of those that hold NAMES."""
    chosen = [case for case in cases() if not names or any(name in f"{case.group} {case.name}" for name in names)]
    progress = Console(stderr=True)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        shown = track(chosen, "exporting", console=progress, disable=not progress.is_terminal, transient=True)
        for index, case in enumerate(shown):
            outcomes.append(run(case, Path(folder) / str(index)))
    if summary:
        _print_summary(outcomes)
    elif markdown:
        _print_markdown(outcomes)
    else:
        _print_table(outcomes)
    failed = [outcome for outcome in outcomes if outcome.failure]
    right = len(outcomes) - len(failed)
    labels = sum(outcome.labels for outcome in outcomes)
    click.echo(
        f"\n{right} of {len(outcomes)} exported, {sum(outcome.rows for outcome in outcomes)} rows compared, "
        f"{labels} labels, all equal"
    )
    sys.exit(1 if failed else 0)


def _cells(outcome: Outcome) -> list[str]:
    if outcome.failure:
        return [outcome.case.name, outcome.failure, "", "", "", ""]
    labels = f"{outcome.labels} of {outcome.labels}" if outcome.labels else "-"
    error = f"{outcome.absolute_error:.1e}" if outcome.absolute_error else "0"
    together = "" if outcome.together else "one by one"
    return [
        outcome.case.name,
        str(outcome.rows),
        error,
        str(outcome.ulp_error),
        labels,
        f"{outcome.precision}s {together}".strip(),
    ]


_HEAD = ["model", "rows", "largest error", "ULP", "labels equal", "computed in"]


def _print_markdown(outcomes: Iterable[Outcome]) -> None:
    group = ""
    for outcome in outcomes:
        if outcome.case.group != group:
            group = outcome.case.group
            click.echo(f"\n**{group}**\n\n| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}")
        click.echo("| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(outcome)) + " |")


def _print_summary(outcomes: Iterable[Outcome]) -> None:
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.case.group, []).append(outcome)
    click.echo(
        "| group | models | rows | largest error | as the source in 32 bits | labels equal |\n|---|---|---|---|---|---|"
    )
    for group, members in groups.items():
        labels = sum(outcome.labels for outcome in members)
        same = sum(outcome.ulp_error == 0 and not outcome.failure for outcome in members)
        click.echo(
            f"| {group} | {len(members)} | {sum(outcome.rows for outcome in members)} "
            f"| {max(outcome.absolute_error for outcome in members):.1e} | {same} of {len(members)} "
            f"| {f'{labels} of {labels}' if labels else '-'} |"
        )


def _print_table(outcomes: Iterable[Outcome]) -> None:
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in _HEAD:
        table.add_column(head)
    group = ""
    for outcome in outcomes:
        if outcome.case.group != group:
            group = outcome.case.group
            table.add_row(f"[bold]{group}[/bold]")
        table.add_row(*_cells(outcome), style="red" if outcome.failure else "")
    console.print(table)


if __name__ == "__main__":
    main(prog_name="python -m concord_export.survey")
