# SPDX-License-Identifier: Apache-2.0
"""A scikit-learn estimator to one ONNX graph.

scikit-learn computes in 64-bit floats, so the graph does, too, wherever ONNX Runtime can: the wire's values are widened
at the start, which is exact, and the answers are rounded to 32 bits at the end. What has no such graph is converted in
32-bit floats.

The graph's inputs are one tensor for each kind of feature; in front of the converted graph they are split and joined
again into what the estimator was fitted on.
"""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx.common.exceptions import MissingShapeCalculator
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from concord_export.columns import INPUT_NAMES, Columns
from concord_export.converters import own_converters
from concord_export.errors import ConversionError
from concord_export.members import members_of
from concord_export.registry import Settings
from concord_export.source import FeatureKind
from concord_export.trees import finish_opsets

__all__ = ["LABEL", "SCORES", "Precision", "Wanted", "convert"]

Precision = Literal["double", "float"]

LABEL = "label"
"""The ONNX output of what the model decides: a class, a cluster, ...: [rows], or [rows, labels]."""
SCORES = "scores"
"""The ONNX output of what the model computes: probabilities, ...: 32-bit floats [rows, numbers]."""

_OPSET = 21
_IR_VERSION = 10
_PREFIX = "source/"
_ELEMENT_TYPES: dict[FeatureKind, int] = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


@dataclass(frozen=True)
class Wanted:
    """Which outputs the graph shall have: LABEL, as an array of so many values unless 0, and SCORES."""

    labelled: bool = False
    bool_label: bool = False
    label_count: int = 0
    scored: bool = True


def convert(
    estimator: Any, columns: Columns, wanted: Wanted, *, name: str, precision: Precision, locale: str = "C"
) -> onnx.ModelProto:
    """The estimator's graph with the outputs wanted. Raises ConversionError where there is no such graph.

    `locale` is what texts are lower-cased by, where the estimator does that.
    """
    runs = _runs(columns)
    while hasattr(estimator, "best_estimator_"):
        # A search answers with the best that it found.
        estimator = estimator.best_estimator_
    try:
        inner = _convert_estimator(
            _by_position(estimator), runs, name=name, settings=Settings(double=precision == "double", locale=locale)
        )
        return _wrap(inner, columns, runs, wanted, name=name, precision=precision)
    except ConversionError:
        raise
    except MissingShapeCalculator as error:
        missing = re.search(r"<class '([^']*)'>", str(error))
        raise ConversionError(f"no converter knows {missing[1] if missing else type(estimator).__name__}") from error
    except Exception as error:
        # The converter raises whatever its many authors found fit.
        raise ConversionError(f"{type(estimator).__name__} has no ONNX graph: {error}") from error


def _by_position(estimator: Any) -> Any:
    """The estimator, or a copy in which column transformers select by position what they were told by name."""

    def selects_by_name(member: Any) -> bool:
        return isinstance(member, ColumnTransformer) and any(
            not all(isinstance(column, int) for column in np.ravel(np.asarray(selected, dtype=object)))
            for _, _, selected in member.transformers_
        )

    if not any(selects_by_name(member) for member in members_of(estimator)):
        return estimator
    estimator = copy.deepcopy(estimator)
    for member in members_of(estimator):
        if isinstance(member, ColumnTransformer):
            places = member._transformer_to_input_indices
            member.transformers_ = [(name, inner, [*places[name]]) for name, inner, _ in member.transformers_]
    return estimator


def _runs(columns: Columns) -> list[tuple[bool, list[int]]]:
    """Neighbouring columns that one tensor can hold: whether they are strings, and which they are."""
    keyed = itertools.groupby(range(len(columns.columns)), key=lambda index: columns.columns[index].kind == "string")
    return [(strings, list(members)) for strings, members in keyed]


def _convert_estimator(
    estimator: Any, runs: list[tuple[bool, list[int]]], *, name: str, settings: Settings
) -> onnx.ModelProto:
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    number = DoubleTensorType if settings.double else FloatTensorType
    initial_types = [
        (f"run_{index}", (StringTensorType if strings else number)([None, len(members)]))
        for index, (strings, members) in enumerate(runs)
    ]
    with own_converters(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: onnx.ModelProto = skl2onnx.convert_sklearn(
            estimator,
            name=name,
            initial_types=initial_types,
            options=_options(estimator),
            target_opset={"": _OPSET, "ai.onnx.ml": 3},
        )
    finish_opsets(model)
    return model


def _options(estimator: Any) -> dict[int, dict[str, Any]]:
    """The converter's options for the step that gives the answer."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common._registration import get_converter

    final = estimator
    while isinstance(final, Pipeline) or hasattr(final, "best_estimator_"):
        final = final.steps[-1][1] if isinstance(final, Pipeline) else final.best_estimator_
    if isinstance(final, str):
        # The pipeline ends with "passthrough".
        return {}
    alias = sklearn_operator_name_map.get(type(final))
    options: dict[int, dict[str, Any]] = {}
    if is_classifier(final) and alias is not None:
        allowed = get_converter(alias).get_allowed_options() or {}
        if "zipmap" in allowed:
            options.setdefault(id(final), {})["zipmap"] = False
        if "raw_scores" in allowed and not hasattr(final, "predict_proba"):
            options.setdefault(id(final), {})["raw_scores"] = True
    return options


def _wrap(
    inner: onnx.ModelProto,
    columns: Columns,
    runs: list[tuple[bool, list[int]]],
    wanted: Wanted,
    *,
    name: str,
    precision: Precision,
) -> onnx.ModelProto:
    """Puts the wire's inputs in front of the converted graph and plain outputs behind it."""
    inner = onnx.compose.add_prefix(inner, _PREFIX)
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for index, (strings, members) in enumerate(runs):
        _feed(columns, members, f"{_PREFIX}run_{index}", strings, precision, nodes, initializers)
    nodes += inner.graph.node

    given = [output.name for output in inner.graph.output]
    if len(given) < wanted.labelled + wanted.scored:
        raise ConversionError(f"the converter gave the outputs {given}; expected label and scores")
    outputs = []
    if wanted.labelled:
        label_type = inner.graph.output[0].type.tensor_type.elem_type
        flat = "label/flat"
        tail = [wanted.label_count] if wanted.label_count else []
        initializers.append(helper.make_tensor("label/shape", TensorProto.INT64, [1 + len(tail)], [-1, *tail]))
        nodes.append(helper.make_node("Reshape", [given[0], "label/shape"], [flat]))
        if wanted.bool_label:
            label_type = TensorProto.BOOL
            nodes.append(helper.make_node("Cast", [flat], [LABEL], to=label_type))
        else:
            nodes.append(helper.make_node("Identity", [flat], [LABEL]))
        outputs.append(helper.make_tensor_value_info(LABEL, label_type, ["rows", *tail]))
    if wanted.scored:
        # Flatten: [rows] and [rows, 1] are the same then.
        nodes.append(helper.make_node("Flatten", [given[-1]], ["scores/flat"], axis=1))
        nodes.append(helper.make_node("Cast", ["scores/flat"], [SCORES], to=TensorProto.FLOAT))
        outputs.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["rows", None]))

    inputs = [
        helper.make_tensor_value_info(
            INPUT_NAMES[kind],
            _ELEMENT_TYPES[kind],
            ["rows", sum(column.kind == kind for column in columns.columns)],
        )
        for kind in columns.kinds
    ]
    graph = helper.make_graph(nodes, name, inputs, outputs, [*inner.graph.initializer, *initializers])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*opset) for opset in _opsets(inner)],
        functions=list(inner.functions),
        ir_version=_IR_VERSION,
        producer_name="concord-export",
    )
    onnx.checker.check_model(model)
    return model


def _feed(
    columns: Columns,
    members: list[int],
    target: str,
    strings: bool,
    precision: Precision,
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
) -> None:
    """Adds the nodes that make the tensor `target` from the columns `members` of the wire's inputs."""
    to = TensorProto.DOUBLE if precision == "double" else TensorProto.FLOAT
    parts: list[str] = []
    for part, (kind, group) in enumerate(itertools.groupby(members, key=lambda index: columns.columns[index].kind)):
        places = [columns.columns[index].place for index in group]
        value = INPUT_NAMES[kind]
        if len(places) < sum(column.kind == kind for column in columns.columns):
            # Columns of one kind keep their order, so neighbours are neighbours in the input, too.
            bounds = [f"{target}/{part}/{bound}" for bound in ("from", "to", "axis")]
            for bound, number in zip(bounds, (places[0], places[-1] + 1, 1), strict=True):
                initializers.append(helper.make_tensor(bound, TensorProto.INT64, [1], [number]))
            nodes.append(helper.make_node("Slice", [value, *bounds], [f"{target}/{part}/slice"]))
            value = f"{target}/{part}/slice"
        if not strings and _ELEMENT_TYPES[kind] != to:
            nodes.append(helper.make_node("Cast", [value], [f"{target}/{part}/cast"], to=to))
            value = f"{target}/{part}/cast"
        parts.append(value)
    if len(parts) == 1:
        nodes.append(helper.make_node("Identity", parts, [target]))
    else:
        nodes.append(helper.make_node("Concat", parts, [target], axis=1))


def _opsets(inner: onnx.ModelProto) -> list[tuple[str, int]]:
    versions = {opset.domain: opset.version for opset in inner.opset_import}
    versions[""] = max(_OPSET, versions.get("", 0))
    return sorted(versions.items())
