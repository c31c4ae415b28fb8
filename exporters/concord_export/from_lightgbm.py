# SPDX-License-Identifier: Apache-2.0
"""LightGBM: its text model format to trees, and its estimators inside scikit-learn's pipelines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from concord_export.boosting import Boosted, BoostedClassifier, BoostedRegressor, Link, convert_boosted
from concord_export.errors import SourceError
from concord_export.nodes import Nodes
from concord_export.registry import Own
from concord_export.trees import Tree, bits_of, place_of

__all__ = ["CONVERTERS", "boosted_of", "parse", "read_lightgbm"]

_LINKS: dict[str, Link] = {
    "binary": "sigmoid",
    "cross_entropy": "sigmoid",
    "cross_entropy_lambda": "log1p of exp",
    "multiclass": "softmax",
    "multiclassova": "sigmoid of each",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    **dict.fromkeys(
        (
            "regression", "regression_l2", "regression_l1", "huber", "fair", "quantile", "mape",
            "lambdarank", "rank_xendcg", "custom",
        ),
        "identity",
    ),
}  # fmt: skip
# Bits of a node's decision_type.
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_CATEGORICAL_COLUMNS = re.compile(r"^\[categorical_feature: ([0-9,]+)\]$", re.MULTILINE)
_TINY = float(np.float32(1e-35))
_MISSING_NONE, _MISSING_ZERO, _MISSING_NAN = 0, 1, 2


def read_lightgbm(path: Path) -> BoostedClassifier | BoostedRegressor:
    """A model that `Booster.save_model` wrote. Raises SourceError where it is none, or has what cannot be exported."""
    text = path.read_text("utf-8", errors="replace")
    if not text.startswith("tree"):
        raise SourceError(f"{path.name}: is no text model of LightGBM; write one with Booster.save_model")
    try:
        booster = lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise SourceError(f"{path.name}: {error}") from None
    return adapter(booster)


def adapter(booster: lightgbm.Booster) -> BoostedClassifier | BoostedRegressor:
    """A booster as an estimator."""
    boosted = parse(booster.model_to_string())

    def ask(rows: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return np.asarray(booster.predict(rows))

    # What is fitted to shares is no class.
    classifier = boosted.classes and "cross_entropy" not in booster.model_to_string().partition("feature_names=")[0]
    return BoostedClassifier(boosted, ask) if classifier else BoostedRegressor(boosted, ask)


def parse(text: str) -> Boosted:
    """The trees of a text model."""
    head, *parts = text.split("\nTree=")
    fields = dict(_fields(head))
    rounds = int(fields["num_tree_per_iteration"])
    name, *options = fields.get("objective", "custom").split()
    if name not in _LINKS:
        raise SourceError(f"LightGBM's objective {name!r} cannot be exported")
    settings = dict(option.partition(":")[::2] for option in options)
    link: Link = "square" if "sqrt" in options else _LINKS[name]
    trees = [_tree(dict(_fields(part.partition("\nend of trees")[0]))) for part in parts]
    count = int(fields["max_feature_idx"]) + 1
    zero, categorical = set(), set()
    for tree, kinds in trees:
        for node, kind in enumerate(kinds):
            if kind & _CATEGORICAL:
                categorical.add(int(tree.feature[node]))
            elif kind >> 2 == _MISSING_ZERO:
                zero.add(int(tree.feature[node]))
    return Boosted(
        features=count,
        targets=rounds,
        trees=[(index % rounds, tree) for index, (tree, _) in enumerate(trees)],
        link=link,
        factor=float(settings.get("sigmoid", 1.0)),
        divisor=len(trees) / rounds if "\naverage_output" in head else 1.0,
        names=fields["feature_names"].split(" "),
        ranges=[_range(info) for info in fields["feature_infos"].split(" ")],
        # What is that small LightGBM leaves out of a row. It matters where a threshold is, too.
        tiny_is_zero=any(bool((np.abs(tree.threshold[tree.left >= 0]) <= _TINY).any()) for tree, _ in trees),
        zero_is_missing=sorted(zero),
        categorical=sorted(categorical),
    )


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        name, equals, value = line.partition("=")
        if equals:
            yield name, value


def _range(info: str) -> tuple[float, float] | None:
    low, colon, high = info.strip("[]").partition(":")
    # Of categories it lists them; of a feature without any use there is none.
    return (float(low), float(high)) if info.startswith("[") and colon else None


def _tree(fields: dict[str, str]) -> tuple[Tree, list[int]]:
    """A tree, and the decision types of its inner nodes."""
    if fields.get("is_linear", "0") != "0":
        raise SourceError("LightGBM's linear trees (linear_tree) cannot be exported")
    leaves = np.array(_floats(fields["leaf_value"]))
    if int(fields["num_leaves"]) == 1:
        return Tree.constant(float(leaves[0])), []
    thresholds = np.array(_floats(fields["threshold"]))
    kinds = _integers(fields["decision_type"])
    inner = len(kinds)
    children = [np.array(_integers(fields[name]), np.int64) for name in ("left_child", "right_child")]
    # A leaf is written as the complement of its number; here leaves follow the inner nodes.
    left, right = (np.where(child < 0, inner + ~child, child) for child in children)
    nowhere = np.full(len(leaves), -1, np.int64)
    members: dict[int, list[float]] = {}
    missing_left = np.zeros(inner + len(leaves), np.bool_)
    if any(kind & _CATEGORICAL for kind in kinds):
        bounds, words = _integers(fields["cat_boundaries"]), np.array(_integers(fields["cat_threshold"]), np.uint32)
    for node, kind in enumerate(kinds):
        if kind & _CATEGORICAL:
            place = int(thresholds[node])
            members[node] = bits_of(words[bounds[place] : bounds[place + 1]])
            thresholds[node] = 0.0
        elif kind >> 2 == _MISSING_NONE:
            # NaN is taken for 0.
            missing_left[node] = thresholds[node] >= 0
        else:
            missing_left[node] = bool(kind & _DEFAULT_LEFT)
    tree = Tree(
        feature=np.concatenate(
            [np.array(_integers(fields["split_feature"]), np.int64), np.zeros(len(leaves), np.int64)]
        ),
        threshold=np.concatenate([thresholds, np.zeros(len(leaves))]),
        left=np.concatenate([left, nowhere]),
        right=np.concatenate([right, nowhere]),
        missing_left=missing_left,
        value=np.concatenate([np.zeros(inner), leaves]),
        members=members,
    )
    return tree, kinds


def _floats(text: str) -> list[float]:
    return [float(item) for item in text.split()]


def _integers(text: str) -> list[int]:
    return [int(item) for item in text.split()]


def boosted_of(estimator: Any) -> Boosted:
    """The trees of a fitted LGBMClassifier or LGBMRegressor."""
    boosted = parse(estimator.booster_.model_to_string())
    if isinstance(estimator, lightgbm.LGBMClassifier) and not boosted.classes:
        raise NotImplementedError(f"LGBMClassifier with objective {estimator.objective_!r} cannot be exported")
    return boosted


def _convert(graph: Nodes) -> None:
    booster = graph.estimator.booster_
    rows = _coded(graph, booster, booster.pandas_categorical) if booster.pandas_categorical else None
    convert_boosted(graph, boosted_of(graph.estimator), rows)


def _coded(graph: Nodes, booster: lightgbm.Booster, fitted: Sequence[Sequence[Any]]) -> str:
    """The columns as LightGBM makes them of a data frame: of a category its place among those that were fitted.

    An unknown category becomes NaN, as a missing one.
    """
    columns = graph.columns()
    categorical = _CATEGORICAL_COLUMNS.search(booster.model_to_string())
    indices = _integers(categorical[1].replace(",", " ")) if categorical else []
    if len(indices) != len(fitted):
        raise NotImplementedError("LightGBM's categories beside categorical_feature of its own cannot be exported")
    for index, categories in zip(indices, fitted, strict=True):
        columns[index] = place_of(graph, columns[index], categories)
    return graph.op("Concat", *columns, axis=1)


CONVERTERS: Iterable[Own] = [
    Own(lightgbm.LGBMClassifier, ("label", "numbers"), _convert),
    Own(lightgbm.LGBMRegressor, ("numbers",), _convert),
]
