# SPDX-License-Identifier: Apache-2.0
"""Pipelines, also inside other estimators: skl2onnx stumbles on steps that pass through, and on some in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from skl2onnx import _parse
from skl2onnx._supported_operators import sklearn_operator_name_map
from skl2onnx.common._registration import get_converter
from skl2onnx.common.data_types import guess_proto_type
from sklearn.base import BaseEstimator, TransformerMixin, is_classifier
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import RFE, RFECV
from sklearn.pipeline import Pipeline

from concord_export.nodes import Nodes
from concord_export.registry import Converter

__all__ = ["Projection", "convert_pipeline", "install", "parse_pipeline"]


class Projection(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What a predictor does as a step in between: an affine transformation of n_features_in_ columns."""

    def __init__(self, project: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], width: int) -> None:
        self.project = project
        self.n_features_in_ = width

    def transform(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The rows transformed."""
        return self.project(rows)


def parse_pipeline(scope: Any, model: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """skl2onnx's parser of a pipeline: step by step, one's outputs are the next one's inputs."""
    steps = [step for _, step in model.steps if step is not None and not isinstance(step, str)]
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        for part in _parts(step, last=last):
            options = {"zipmap": False}
            alias = sklearn_operator_name_map.get(type(part))
            allowed = {} if alias is None else get_converter(alias).get_allowed_options() or {}
            if is_classifier(part) and "zipmap" in allowed:
                scope.add_options(id(part), options)
            outputs = _parse._parse_sklearn(scope, part, inputs, custom_parsers=custom_parsers)
            # Of a clustering in between the distances go on, which are its transformation.
            inputs = outputs if last else outputs[-1:]
    return inputs


def _parts(step: Any, *, last: bool) -> list[Any]:
    if isinstance(step, LinearDiscriminantAnalysis) and not last:
        return [Projection(step.transform, step.n_features_in_)]
    if isinstance(step, (RFE, RFECV)) and last:
        # It selects columns and lets its estimator predict.
        return [step, step.estimator_]
    return [step]


def convert_pipeline(original: Converter) -> Converter:
    """A pipeline inside another estimator."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        variables = parse_pipeline(scope, operator.raw_operator, operator.inputs)
        for _, step in operator.raw_operator.steps:
            # What the scope was told the container must know, too.
            if scope.options is not None and id(step) in scope.options:
                container.add_options(id(step), scope.options[id(step)])
        nodes = Nodes(scope, operator, container)
        for index, (variable, output) in enumerate(zip(variables, operator.outputs, strict=True)):
            if isinstance(output.type, type(variable.type)):
                nodes.give_as_is(index, variable.full_name)
            else:
                nodes.node("Cast", [variable.full_name], output.full_name, to=guess_proto_type(output.type))

    return convert


def install() -> None:
    """Puts the parser into skl2onnx's registry."""
    _parse.sklearn_parsers_map[Pipeline] = parse_pipeline
