# SPDX-License-Identifier: Apache-2.0
"""Converters that take the place of skl2onnx's own where those are inexact, or give no graph in doubles."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from skl2onnx.common._registration import get_converter, register_converter
from skl2onnx.common.data_types import DoubleTensorType, StringTensorType

from concord_export import trees
from concord_export.nodes import DOUBLE, FLOAT, INT64, Nodes

__all__ = ["own_converters"]

Converter = Callable[[Any, Any, Any], None]

# ONNX Runtime has no Imputer for doubles, and skl2onnx leaves out the indicator's columns.


def _simple_imputer(original: Converter) -> Converter:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        nodes = Nodes(scope, operator, container)
        imputer = nodes.estimator
        if len(operator.inputs) != 1 or issubclass(nodes.input_type, StringTensorType):
            original(scope, operator, container)
            return
        double = issubclass(nodes.input_type, DoubleTensorType)
        data_type = DOUBLE if double else FLOAT
        rows = nodes.input if double else nodes.node("Cast", [nodes.input], to=FLOAT)
        missing = imputer.missing_values
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
    **{alias: _instead(own) for alias, own in trees.CONVERTERS.items()},
    "SklearnSimpleImputer": _simple_imputer,
    "SklearnVotingClassifier": _voting_classifier,
}
_LOCK = threading.Lock()


@contextmanager
def own_converters() -> Iterator[None]:
    """Within this context skl2onnx uses the converters of this package; afterwards its own again."""
    with _LOCK:
        before = {alias: get_converter(alias) for alias in _REPLACEMENTS}
        try:
            for alias, replacement in _REPLACEMENTS.items():
                registered = before[alias]
                own = replacement(registered._fct)
                register_converter(alias, own, overwrite=True, options=registered.get_allowed_options())
            yield
        finally:
            for alias, registered in before.items():
                register_converter(alias, registered._fct, overwrite=True, options=registered.get_allowed_options())
