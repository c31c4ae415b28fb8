# SPDX-License-Identifier: Apache-2.0
"""Tree ensembles that decide and add up exactly as scikit-learn's.

skl2onnx writes thresholds and leaves as 32-bit floats, so a row near a threshold can take the other branch, and a
forest's vote can tie in one and not in the other. These converters take the place of its own: the operator TreeEnsemble
(ai.onnx.ml 5) in double, thresholds from the estimator itself, and the sum in scikit-learn's own order.

- Trees, forests and gradient boosting compare a 32-bit float x with a 64-bit threshold t. x <= t holds exactly where
  x <= t rounded toward minus infinity to a 32-bit float holds, so that is the threshold written.
- Histogram gradient boosting compares doubles: its thresholds are written as they are.
- A leaf of TreeEnsemble adds to one target only: a tree with several outputs becomes one tree for each, and
  subtrees that make no difference to that output are merged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from concord_export.nodes import DOUBLE, FLOAT, INT64, Nodes
from concord_export.registry import Converter, Own

__all__ = [
    "CONVERTERS",
    "ML_OPSET",
    "REPLACEMENTS",
    "Tree",
    "add_ensemble",
    "bits_of",
    "finish_opsets",
    "floor_to_float32",
    "split_thresholds",
    "tree_ensemble_attributes",
]

ML_OPSET = 5
# Modes of TreeEnsemble's nodes.
_AT_MOST = 0
_MEMBER = 6
# ONNX Runtime takes 32-bit integers there.
_NO_CATEGORY = -2147483647.0


def floor_to_float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The largest 32-bit floats that are not above `values`."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
        above = nearest.astype(np.float64) > values
        nearest[above] = np.nextafter(nearest[above], np.float32(-np.inf))
    return nearest


@dataclass(frozen=True)
class Tree:
    """A tree for one target. Children are node indices; where `left` is -1 the node is a leaf, `value` its weight.

    A row goes left where its feature is at most the threshold or, at a node of `members`, where it is one of those.
    """

    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    missing_left: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float64]
    members: Mapping[int, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def constant(cls, value: float) -> Tree:
        """A tree that always gives `value`."""
        return cls(
            feature=np.zeros(1, np.int64),
            threshold=np.zeros(1),
            left=np.full(1, -1, np.int64),
            right=np.full(1, -1, np.int64),
            missing_left=np.zeros(1, np.bool_),
            value=np.array([value], np.float64),
        )

    @classmethod
    def of_sklearn(cls, tree: Any, output: int, class_index: int, scale: float = 1.0) -> Tree:
        """One output of a sklearn.tree._tree.Tree, each leaf times `scale`."""
        return cls(
            feature=tree.feature.astype(np.int64),
            threshold=floor_to_float32(tree.threshold).astype(np.float64),
            left=tree.children_left.astype(np.int64),
            right=tree.children_right.astype(np.int64),
            missing_left=tree.missing_go_to_left.astype(np.bool_),
            value=scale * tree.value[:, output, class_index],
        )

    @classmethod
    def of_isolation(cls, tree: Any, columns: npt.NDArray[np.int64], lengths: npt.NDArray[np.float64]) -> Tree:
        """A tree of an isolation forest that sees the columns `columns`; each leaf gives its node's length."""
        whole = cls.of_sklearn(tree, 0, 0)
        inner = whole.left >= 0
        feature = np.where(inner, columns[np.where(inner, whole.feature, 0)], 0)
        return dataclasses.replace(whole, feature=feature, value=np.asarray(lengths, np.float64))

    @classmethod
    def of_hist_gradient_boosting(cls, predictor: Any) -> Tree:
        """A TreePredictor of histogram gradient boosting."""
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(np.bool_)
        categorical = nodes["is_categorical"].astype(np.bool_) & ~leaf
        return cls(
            feature=nodes["feature_idx"].astype(np.int64),
            threshold=np.where(categorical, 0.0, nodes["num_threshold"].astype(np.float64)),
            left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
            right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
            missing_left=nodes["missing_go_to_left"].astype(np.bool_),
            value=nodes["value"].astype(np.float64),
            members={
                node: bits_of(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]])
                for node in np.flatnonzero(categorical).tolist()
            },
        )

    def merged(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """For each node whether all its leaves have the same value, and that value."""
        leaf = self.left < 0
        same, value = leaf.copy(), self.value.copy()
        for node in self._bottom_up():
            left, right = self.left[node], self.right[node]
            # Bit for bit, so that the sum stays the same.
            if same[left] and same[right] and value[left] == value[right]:
                same[node], value[node] = True, value[left]
        return same, value

    def _bottom_up(self) -> list[int]:
        order, pending = [], [0]
        while pending:
            node = pending.pop()
            if self.left[node] >= 0:
                order.append(node)
                pending += (int(self.left[node]), int(self.right[node]))
        return order[::-1]


def bits_of(words: npt.NDArray[np.uint32]) -> list[float]:
    """The numbers whose bits are set in words of 32 bits."""
    return [float(bit) for bit in range(32 * len(words)) if words[bit // 32] >> np.uint32(bit % 32) & np.uint32(1)]


def tree_ensemble_attributes(
    trees: Sequence[tuple[int, Tree]], n_targets: int, *, dtype: npt.DTypeLike = np.float64
) -> dict[str, Any]:
    """Attributes of a TreeEnsemble node that adds up `trees`, pairs of target and tree, in their order.

    `dtype` is that of the features, the thresholds and the sums: 64 or 32-bit floats.
    """
    roots: list[int] = []
    features: list[int] = []
    splits: list[float] = []
    missing: list[int] = []
    true_ids: list[int] = []
    false_ids: list[int] = []
    true_leafs: list[int] = []
    false_leafs: list[int] = []
    leaf_targets: list[int] = []
    leaf_weights: list[float] = []
    modes: list[int] = []
    members: list[float] = []

    def new_leaf(target: int, weight: float) -> int:
        leaf_targets.append(target)
        leaf_weights.append(weight)
        return len(leaf_weights) - 1

    def new_node(tree: Tree, source: int) -> int:
        features.append(int(tree.feature[source]))
        splits.append(float(tree.threshold[source]))
        missing.append(int(tree.missing_left[source]))
        modes.append(_MEMBER if source in tree.members else _AT_MOST)
        if source in tree.members:
            # A NaN ends each node's list, and no list may be empty.
            members.extend([*(tree.members[source] or [_NO_CATEGORY]), float("nan")])
        for column in (true_ids, false_ids, true_leafs, false_leafs):
            column.append(0)
        return len(features) - 1

    for target, tree in trees:
        same, value = tree.merged()
        if same[0]:
            # A single leaf is a node whose branches are the same leaf.
            node = new_node(Tree.constant(0.0), 0)
            roots.append(node)
            true_ids[node] = false_ids[node] = new_leaf(target, float(value[0]))
            true_leafs[node] = false_leafs[node] = 1
            continue
        roots.append(new_node(tree, 0))
        pending = [(0, roots[-1])]
        while pending:
            source, node = pending.pop()
            for child, ids, leafs in (
                (int(tree.left[source]), true_ids, true_leafs),
                (int(tree.right[source]), false_ids, false_leafs),
            ):
                if same[child]:
                    ids[node], leafs[node] = new_leaf(target, float(value[child])), 1
                else:
                    ids[node] = new_node(tree, child)
                    pending.append((child, ids[node]))
    attributes: dict[str, Any] = {
        "n_targets": n_targets,
        "aggregate_function": 1,
        "post_transform": 0,
        "tree_roots": roots,
        "nodes_modes": helper.make_tensor("nodes_modes", TensorProto.UINT8, [len(modes)], bytes(modes), True),
        "nodes_featureids": features,
        "nodes_splits": numpy_helper.from_array(np.array(splits, dtype), "nodes_splits"),
        "nodes_missing_value_tracks_true": missing,
        "nodes_truenodeids": true_ids,
        "nodes_falsenodeids": false_ids,
        "nodes_trueleafs": true_leafs,
        "nodes_falseleafs": false_leafs,
        "leaf_targetids": leaf_targets,
        "leaf_weights": numpy_helper.from_array(np.array(leaf_weights, dtype), "leaf_weights"),
    }
    if members:
        attributes["membership_values"] = numpy_helper.from_array(np.array(members, dtype), "membership_values")
    return attributes


def split_thresholds(estimator: Any) -> list[tuple[int, float]]:
    """(feature, threshold) of every split in the estimator itself; not of the estimators inside it."""
    found: list[tuple[int, float]] = []
    if hasattr(estimator, "tree_"):
        tree = estimator.tree_
        inner = tree.children_left >= 0
        found += zip(tree.feature[inner].tolist(), tree.threshold[inner].tolist(), strict=True)
    for predictors in getattr(estimator, "_predictors", ()):
        for predictor in predictors:
            inner = (predictor.nodes["is_leaf"] == 0) & (predictor.nodes["is_categorical"] == 0)
            found += zip(
                predictor.nodes["feature_idx"][inner].tolist(),
                predictor.nodes["num_threshold"][inner].tolist(),
                strict=True,
            )
    return found


def finish_opsets(model: onnx.ModelProto) -> None:
    """Gives `model` the ai.onnx.ml version that TreeEnsemble needs, if it has such a node.

    Raises NotImplementedError where another node no longer exists in that version.
    """
    types = {node.op_type for node in model.graph.node if node.domain == "ai.onnx.ml"}
    if "TreeEnsemble" not in types:
        return
    for op_type in sorted(types - {"TreeEnsemble"}):
        if onnx.defs.get_schema(op_type, ML_OPSET, "ai.onnx.ml").deprecated:
            raise NotImplementedError(f"{op_type} and TreeEnsemble cannot be in one graph")
    for opset in model.opset_import:
        if opset.domain == "ai.onnx.ml":
            opset.version = ML_OPSET


def add_ensemble(graph: Nodes, trees: Sequence[tuple[int, Tree]], n_targets: int, *, float_input: bool) -> str:
    """The sums of the trees, double [rows, targets]. `float_input`: the trees see the features as 32-bit floats."""
    features = graph.input
    if float_input and not issubclass(graph.input_type, FloatTensorType):
        features = graph.node("Cast", [features], to=FLOAT)
    if float_input or not issubclass(graph.input_type, DoubleTensorType):
        features = graph.node("Cast", [features], to=DOUBLE)
    return graph.node("TreeEnsemble", [features], **tree_ensemble_attributes(trees, n_targets))


def _trees_of(estimator: Any) -> list[Any]:
    return [member.tree_ for member in getattr(estimator, "estimators_", [estimator])]


def _convert_tree_classifier(scope: Any, operator: Any, container: Any) -> None:
    """DecisionTreeClassifier, ExtraTreeClassifier, RandomForestClassifier, ExtraTreesClassifier."""
    graph = Nodes(scope, operator, container)
    estimator = graph.estimator
    trees = _trees_of(estimator)
    several = estimator.n_outputs_ > 1
    classes = estimator.classes_ if several else [estimator.classes_]
    firsts = np.cumsum([0, *(len(each) for each in classes)]).tolist()
    votes = [
        (first + index, Tree.of_sklearn(tree, output, index))
        for tree in trees
        for output, (first, each) in enumerate(zip(firsts, classes, strict=False))
        for index in range(len(each))
    ]
    probability = add_ensemble(graph, votes, firsts[-1], float_input=True)
    if hasattr(estimator, "estimators_"):
        probability = graph.op("Div", probability, np.array([float(len(trees))]))
    if not several:
        graph.give_label(graph.op("ArgMax", probability, axis=1, keepdims=0), estimator.classes_)
    else:
        labels = []
        for first, each in zip(firsts, classes, strict=False):
            own = graph.gather(probability, range(first, first + len(each)))
            labels.append(graph.classes(graph.op("ArgMax", own, axis=1, keepdims=1), each))
        graph.give_as_is(0, graph.op("Concat", *labels, axis=1))
    graph.give(1, probability)


def _convert_tree_regressor(scope: Any, operator: Any, container: Any) -> None:
    """DecisionTreeRegressor, ExtraTreeRegressor, RandomForestRegressor, ExtraTreesRegressor."""
    graph = Nodes(scope, operator, container)
    estimator = graph.estimator
    trees = _trees_of(estimator)
    count = estimator.n_outputs_
    sums = [(output, Tree.of_sklearn(tree, output, 0)) for tree in trees for output in range(count)]
    prediction = add_ensemble(graph, sums, count, float_input=True)
    if hasattr(estimator, "estimators_"):
        prediction = graph.node("Div", [prediction, graph.constant(DOUBLE, [1], [float(len(trees))])])
    graph.give(0, prediction)


def _boosted(estimator: Any, baseline: npt.NDArray[np.float64]) -> list[tuple[int, Tree]]:
    """The trees of GradientBoosting, the baseline first: scikit-learn starts the sum with it."""
    start = [(target, Tree.constant(float(value))) for target, value in enumerate(baseline)]
    return start + [
        (target, Tree.of_sklearn(member.tree_, 0, 0, scale=estimator.learning_rate))
        for stage in estimator.estimators_
        for target, member in enumerate(stage)
    ]


def _boosting_baseline(estimator: Any) -> npt.NDArray[np.float64]:
    if estimator.init is not None and estimator.init != "zero":
        raise NotImplementedError("GradientBoosting with an estimator as `init` cannot be exported")
    row = np.zeros((1, estimator.n_features_in_), np.float32)
    return np.asarray(estimator._raw_predict_init(row), np.float64).ravel()


def _binary_probability(graph: Nodes, raw: str, factor: float = 1.0) -> str:
    scaled = raw if factor == 1.0 else graph.node("Mul", [raw, graph.constant(DOUBLE, [1], [factor])])
    second = graph.node("Sigmoid", [scaled])
    first = graph.node("Sub", [graph.constant(DOUBLE, [1], [1.0]), second])
    return graph.node("Concat", [first, second], axis=1)


def _convert_boosting(graph: Nodes, classes: Any, raw: str, *, comparison: str, factor: float = 1.0) -> None:
    """Label and scores from the raw sums of a boosting classifier; `comparison` with 0 chooses the second class."""
    if len(classes) == 2:
        zero = graph.constant(DOUBLE, [1], [0.0])
        second = graph.node(comparison, [raw, zero])
        index = graph.node("Reshape", [second, graph.constant(INT64, [1], [-1])])
        index = graph.node("Cast", [index], to=INT64)
        if graph.option("raw_scores"):
            scores = graph.node("Concat", [graph.node("Neg", [raw]), raw], axis=1)
        else:
            scores = _binary_probability(graph, raw, factor)
    else:
        index = graph.node("ArgMax", [raw], axis=1, keepdims=0)
        scores = raw if graph.option("raw_scores") else graph.node("Softmax", [raw], axis=1)
    graph.give_label(index, classes)
    graph.give(1, scores)


def _convert_gradient_boosting_classifier(scope: Any, operator: Any, container: Any) -> None:
    graph = Nodes(scope, operator, container)
    estimator = graph.estimator
    baseline = _boosting_baseline(estimator)
    raw = add_ensemble(graph, _boosted(estimator, baseline), len(baseline), float_input=True)
    factor = 2.0 if estimator.loss == "exponential" else 1.0
    _convert_boosting(graph, estimator.classes_, raw, comparison="GreaterOrEqual", factor=factor)


def _convert_gradient_boosting_regressor(scope: Any, operator: Any, container: Any) -> None:
    graph = Nodes(scope, operator, container)
    estimator = graph.estimator
    baseline = _boosting_baseline(estimator)
    graph.give(0, add_ensemble(graph, _boosted(estimator, baseline), len(baseline), float_input=True))


def _hist_boosted(graph: Nodes, estimator: Any) -> str:
    baseline = np.asarray(estimator._baseline_prediction, np.float64).ravel()
    trees = [(target, Tree.constant(float(value))) for target, value in enumerate(baseline)]
    for predictors in estimator._predictors:
        trees += [(target, Tree.of_hist_gradient_boosting(tree)) for target, tree in enumerate(predictors)]
    if getattr(estimator, "is_categorical_", None) is None:
        return add_ensemble(graph, trees, len(baseline), float_input=False)
    return graph.op("TreeEnsemble", _encoded(graph, estimator), **tree_ensemble_attributes(trees, len(baseline)))


def _encoded(graph: Nodes, estimator: Any) -> str:
    """The columns as histogram gradient boosting's own encoder hands them on: categories first, as their places.

    An unknown category becomes NaN, as a missing one.
    """
    columns = graph.columns()
    categorical = np.asarray(estimator.is_categorical_, np.bool_)
    encoder = estimator._preprocessor.named_transformers_["encoder"]
    parts = []
    for index, categories in zip(np.flatnonzero(categorical).tolist(), encoder.categories_, strict=True):
        known = [item for item in categories.tolist() if item is not None and item == item]
        parts.append(place_of(graph, columns[index], known))
    parts += [columns[index] for index in np.flatnonzero(~categorical).tolist()]
    return graph.op("Concat", *parts, axis=1)


def place_of(graph: Nodes, column: str, categories: Sequence[Any]) -> str:
    """Where among the categories, numbers or strings, each value of a column [rows, 1] is; NaN where it is not."""
    strings = any(isinstance(item, str) for item in categories)
    table = np.array(categories, dtype=object if strings else np.float64)
    found = graph.cast(graph.op("Equal", column, table), DOUBLE)
    place = graph.sum(graph.op("Mul", found, np.arange(len(categories), dtype=np.float64)), 1, keep=True)
    return graph.op("Where", graph.op("Greater", graph.sum(found, 1, keep=True), 0.0), place, float("nan"))


def _hist_gradient_boosting_classifier(graph: Nodes) -> None:
    estimator = graph.estimator
    _convert_boosting(graph, estimator.classes_, _hist_boosted(graph, estimator), comparison="Greater")


def _hist_gradient_boosting_regressor(graph: Nodes) -> None:
    estimator = graph.estimator
    prediction = _hist_boosted(graph, estimator)
    link = type(estimator._loss.link).__name__
    if link == "LogLink":
        prediction = graph.node("Exp", [prediction])
    elif link != "IdentityLink":
        raise NotImplementedError(f"HistGradientBoostingRegressor with loss {estimator.loss!r} cannot be exported")
    graph.give(0, prediction)


CONVERTERS = [
    Own(HistGradientBoostingClassifier, ("label", "numbers"), _hist_gradient_boosting_classifier),
    Own(HistGradientBoostingRegressor, ("numbers",), _hist_gradient_boosting_regressor),
]

REPLACEMENTS: dict[str, Converter] = {
    "SklearnDecisionTreeClassifier": _convert_tree_classifier,
    "SklearnDecisionTreeRegressor": _convert_tree_regressor,
    "SklearnExtraTreeClassifier": _convert_tree_classifier,
    "SklearnExtraTreeRegressor": _convert_tree_regressor,
    "SklearnExtraTreesClassifier": _convert_tree_classifier,
    "SklearnExtraTreesRegressor": _convert_tree_regressor,
    "SklearnGradientBoostingClassifier": _convert_gradient_boosting_classifier,
    "SklearnGradientBoostingRegressor": _convert_gradient_boosting_regressor,
    "SklearnRandomForestClassifier": _convert_tree_classifier,
    "SklearnRandomForestRegressor": _convert_tree_regressor,
}
