# SPDX-License-Identifier: Apache-2.0
"""XGBoost: its JSON model format to trees, and its estimators inside scikit-learn's pipelines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from concord_export.boosting import Boosted, BoostedClassifier, BoostedRegressor, Link, convert_boosted
from concord_export.errors import SourceError
from concord_export.nodes import Nodes
from concord_export.registry import Own
from concord_export.trees import Tree

__all__ = ["CONVERTERS", "boosted_of", "parse", "read_xgboost"]

_LINKS: dict[str, Link] = {
    "binary:logistic": "sigmoid",
    "reg:logistic": "sigmoid",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"), "exp"),
    **dict.fromkeys(
        (
            "reg:squarederror", "reg:squaredlogerror", "reg:absoluteerror", "reg:quantileerror",
            "reg:pseudohubererror", "binary:logitraw", "rank:pairwise", "rank:ndcg", "rank:map",
        ),
        "identity",
    ),
}  # fmt: skip


def read_xgboost(path: Path) -> BoostedClassifier | BoostedRegressor:
    """A model that `Booster.save_model` wrote as JSON. Raises SourceError where it is none or cannot be exported."""
    data = path.read_bytes()
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise SourceError(f"{path.name}: is no JSON; write the model with save_model('model.json')") from None
    if not isinstance(document, dict) or "learner" not in document:
        raise SourceError(f"{path.name}: is no model of XGBoost; write one with save_model('model.json')")
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(data))
    except xgboost.core.XGBoostError as error:
        raise SourceError(f"{path.name}: {error}") from None
    return adapter(booster)


def adapter(booster: xgboost.Booster) -> BoostedClassifier | BoostedRegressor:
    """A booster as an estimator."""
    document = json.loads(booster.save_raw("json"))
    boosted = parse(document)
    objective = document["learner"]["objective"]["name"]
    types = booster.feature_types

    def ask(rows: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        matrix = xgboost.DMatrix(
            rows.astype(np.float32),
            feature_names=booster.feature_names,
            feature_types=types,
            enable_categorical=types is not None and "c" in types,
        )
        if objective == "multi:softmax":
            # It answers with classes; what they are chosen by are the sums.
            sums = booster.predict(matrix, output_margin=True)
            powers = np.exp(sums - sums.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        return np.asarray(booster.predict(matrix))

    if boosted.classes and objective != "reg:logistic":
        return BoostedClassifier(boosted, ask)
    return BoostedRegressor(boosted, ask)


def parse(document: dict[str, Any], *, rounds: int | None = None, missing: float = float("nan")) -> Boosted:
    """The trees of a JSON model, of the first `rounds` rounds only if that is given."""
    learner = document["learner"]
    settings = learner["learner_model_param"]
    objective = learner["objective"]["name"]
    if objective not in _LINKS:
        raise SourceError(f"XGBoost's objective {objective!r} cannot be exported")
    gradient_booster = learner["gradient_booster"]
    if gradient_booster["name"] not in ("gbtree", "dart"):
        raise SourceError(f"XGBoost's booster {gradient_booster['name']!r} cannot be exported")
    dropped = gradient_booster.get("weight_drop")
    model = gradient_booster.get("gbtree", gradient_booster)["model"]
    if model.get("cats", {}).get("enc"):
        raise SourceError(
            "XGBoost re-codes the categories of data frames itself, which cannot be exported; encode them before "
            "(OrdinalEncoder), or fit on an array with feature_types"
        )
    count = len(model["trees"]) if rounds is None else model["iteration_indptr"][rounds]
    classes, targets = int(settings["num_class"]), int(settings.get("num_target", "1"))
    groups = max(classes, targets, 1)
    trees = []
    for index in range(count):
        weight = 1.0 if dropped is None else float(dropped[index])
        trees.append((int(model["tree_info"][index]), _tree(model["trees"][index], weight)))
    link = _LINKS[objective]
    start = _start(settings["base_score"], groups, objective)
    categorical = {int(tree.feature[node]) for _, tree in trees for node in tree.members}
    return Boosted(
        features=int(settings["num_feature"]),
        targets=groups,
        trees=[*((group, Tree.constant(value)) for group, value in enumerate(start)), *trees],
        link=link,
        floats=True,
        names=learner.get("feature_names") or (),
        categorical=sorted(categorical),
        missing=missing,
    )


def _start(text: str, groups: int, objective: str) -> list[float]:
    """What each sum starts with: base_score is what the answer starts with."""
    scores = np.array([float(item) for item in text.strip("[]").split(",")], np.float32)
    if len(scores) == 1:
        scores = np.repeat(scores, groups)
    link = _LINKS[objective]
    if link == "sigmoid" or objective == "binary:logitraw":
        scores = -np.log(np.float32(1) / scores - np.float32(1))
    elif link == "exp":
        scores = np.log(scores)
    return [float(score) for score in scores]


def _tree(document: dict[str, Any], weight: float) -> Tree:
    if int(document["tree_param"].get("size_leaf_vector", "1")) > 1:
        raise SourceError("XGBoost's trees of several targets (multi_strategy='multi_output_tree') cannot be exported")
    left = np.array(document["left_children"], np.int64)
    conditions = np.array(document["split_conditions"], np.float32)
    leaf = left < 0
    right = np.where(leaf, -1, np.array(document["right_children"], np.int64))
    missing_left = np.array(document["default_left"], np.bool_)
    members: dict[int, list[float]] = {}
    for node, begin, size in zip(
        document["categories_nodes"], document["categories_segments"], document["categories_sizes"], strict=True
    ):
        members[int(node)] = [float(item) for item in document["categories"][begin : begin + size]]
    for node in members:
        # Its categories go right.
        left[node], right[node] = right[node], left[node]
        missing_left[node] = not missing_left[node]
    # x < t of 32-bit floats is x <= the float before t.
    before = np.nextafter(conditions, np.float32(-np.inf))
    values = conditions * np.float32(weight)
    return Tree(
        feature=np.array(document["split_indices"], np.int64),
        threshold=np.where(leaf | np.isin(np.arange(len(left)), [*members]), 0.0, before.astype(np.float64)),
        left=left,
        right=right,
        missing_left=missing_left,
        value=np.where(leaf, values.astype(np.float64), 0.0),
        members=members,
    )


def boosted_of(estimator: Any) -> Boosted:
    """The trees of a fitted XGBClassifier or XGBRegressor, or one of their random forests."""
    booster = estimator.get_booster()
    rounds = None
    if getattr(estimator, "early_stopping_rounds", None) is not None and booster.attr("best_iteration") is not None:
        rounds = int(booster.attr("best_iteration")) + 1
    boosted = parse(json.loads(booster.save_raw("json")), rounds=rounds, missing=float(estimator.missing))
    if isinstance(estimator, xgboost.XGBClassifier) and not boosted.classes:
        raise NotImplementedError(f"XGBClassifier with objective {estimator.objective!r} cannot be exported")
    return boosted


def _convert(graph: Nodes) -> None:
    convert_boosted(graph, boosted_of(graph.estimator))


CONVERTERS: Iterable[Own] = [
    Own(xgboost.XGBClassifier, ("label", "numbers"), _convert),
    Own(xgboost.XGBRFClassifier, ("label", "numbers"), _convert),
    Own(xgboost.XGBRegressor, ("numbers",), _convert),
    Own(xgboost.XGBRFRegressor, ("numbers",), _convert),
]
