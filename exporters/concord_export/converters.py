# SPDX-License-Identifier: Apache-2.0
"""Converters that take the place of skl2onnx's own where those are inexact, or give no graph in doubles."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from skl2onnx.common.data_types import DoubleTensorType, StringTensorType

from concord_export import (
    boosting,
    calibration,
    clusters,
    kernels,
    linear,
    neighbours,
    networks,
    outliers,
    pipelines,
    preprocessing,
    targets,
    texts,
    trees,
)
from concord_export.nodes import DOUBLE, FLOAT, INT64, Nodes
from concord_export.registry import Converter, Own, Settings, Shapes, installed, width

__all__ = ["own_converters"]

# ONNX Runtime has no Imputer for doubles, and skl2onnx leaves out the indicator's columns.


def _simple_imputer(original: Converter) -> Converter:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        nodes = Nodes(scope, operator, container)
        imputer = nodes.estimator
        missing = imputer.missing_values
        if any(isinstance(given.type, StringTensorType) for given in operator.inputs):
            if missing is None or missing != missing:
                # On the wire a text is never missing.
                names = [given.full_name for given in operator.inputs]
                nodes.give_as_is(0, nodes.node("Concat", names, axis=1) if len(names) > 1 else names[0])
            else:
                original(scope, operator, container)
            return
        if len(operator.inputs) != 1:
            original(scope, operator, container)
            return
        double = issubclass(nodes.input_type, DoubleTensorType)
        data_type = DOUBLE if double else FLOAT
        rows = nodes.input if double else nodes.node("Cast", [nodes.input], to=FLOAT)
        if isinstance(missing, float) and np.isnan(missing):
            absent = nodes.node("IsNaN", [rows])
        elif isinstance(missing, (int, float)):
            absent = nodes.node("Equal", [rows, nodes.constant(data_type, [1], [float(missing)])])
        else:
            raise NotImplementedError(f"SimpleImputer with missing_values={missing!r} cannot be exported")
        statistics = np.asarray(imputer.statistics_, np.float64)
        filled = nodes.node("Where", [absent, nodes.constant(data_type, [1, len(statistics)], statistics), rows])
        # A column without any value in training has no statistic and is dropped.
        kept = np.flatnonzero(~np.isnan(statistics))
        if len(kept) < len(statistics):
            filled = nodes.node("Gather", [filled, nodes.constant(INT64, [len(kept)], kept)], axis=1)
        if imputer.indicator_ is not None:
            features = imputer.indicator_.features_
            marked = nodes.node("Gather", [absent, nodes.constant(INT64, [len(features)], features)], axis=1)
            filled = nodes.node("Concat", [filled, nodes.node("Cast", [marked], to=data_type)], axis=1)
        nodes.give(0, filled)

    return convert


def _imputer_shapes(original: Shapes) -> Shapes:
    """skl2onnx takes the outputs to be as wide as the inputs; the next step would not fit."""

    def calculate(operator: Any) -> None:
        original(operator)
        columns = width(operator.raw_operator)
        if columns is not None:
            operator.outputs[0].type.shape[1] = columns

    return calculate


def _voting_classifier(original: Converter) -> Converter:
    """flatten_transform is about transform only; skl2onnx refuses its default all the same."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        given = operator.raw_operator
        if given.flatten_transform:
            operator.raw_operator = copy.copy(given)
            operator.raw_operator.flatten_transform = False
        try:
            original(scope, operator, container)
        finally:
            operator.raw_operator = given

    return convert


def _instead(own: Converter) -> Callable[[Converter], Converter]:
    return lambda original: own


_REPLACEMENTS: dict[str, Callable[[Converter], Converter]] = {
    **{alias: _instead(own) for alias, own in trees.REPLACEMENTS.items()},
    **linear.REPLACEMENTS,
    "SklearnPipeline": pipelines.convert_pipeline,
    "SklearnSimpleImputer": _simple_imputer,
    "SklearnVotingClassifier": _voting_classifier,
}
_SHAPES = {"SklearnSimpleImputer": _imputer_shapes}
_OWN: list[Own] = [
    *boosting.CONVERTERS,
    *calibration.CONVERTERS,
    *clusters.CONVERTERS,
    *kernels.CONVERTERS,
    *linear.CONVERTERS,
    *neighbours.CONVERTERS,
    *networks.CONVERTERS,
    *outliers.CONVERTERS,
    *preprocessing.CONVERTERS,
    *targets.CONVERTERS,
    *texts.CONVERTERS,
    *trees.CONVERTERS,
]


@contextmanager
def own_converters(settings: Settings) -> Iterator[None]:
    """Within this context skl2onnx uses the converters of this package; afterwards its own again."""
    own = [*_OWN]
    # An estimator of theirs is there only if they are loaded.
    if "lightgbm" in sys.modules:
        from concord_export import from_lightgbm

        own += from_lightgbm.CONVERTERS
    if "xgboost" in sys.modules:
        from concord_export import from_xgboost

        own += from_xgboost.CONVERTERS
    with installed(own, _REPLACEMENTS, _SHAPES, settings):
        pipelines.install()
        yield
