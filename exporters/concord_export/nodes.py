# SPDX-License-Identifier: Apache-2.0
"""Nodes for the converters of this package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from onnx import TensorProto
from skl2onnx.common.data_types import DoubleTensorType

__all__ = ["DOUBLE", "FLOAT", "INT64", "Nodes"]

DOUBLE = int(TensorProto.DOUBLE)
FLOAT = int(TensorProto.FLOAT)
INT64 = int(TensorProto.INT64)


class Nodes:
    """Adds nodes to skl2onnx's container under fresh names, for one operator of its topology."""

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self._scope, self._operator, self._container = scope, operator, container

    @property
    def estimator(self) -> Any:
        """The fitted estimator that is converted."""
        return self._operator.raw_operator

    def node(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Adds a node of one output and gives that output's name."""
        name = output or self._scope.get_unique_variable_name(op_type.lower())
        ml = op_type == "TreeEnsemble"
        self._container.add_node(
            op_type,
            list(inputs),
            [name],
            op_domain="ai.onnx.ml" if ml else "",
            # skl2onnx 1.20 knows ai.onnx.ml up to 3; finish_opsets puts it right.
            op_version=1 if ml else None,
            name=self._scope.get_unique_operator_name(op_type),
            **attributes,
        )
        return name

    def constant(self, data_type: int, shape: Sequence[int], values: Iterable[Any]) -> str:
        """Adds a constant tensor and gives its name."""
        name: str = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, data_type, list(shape), list(values))
        return name

    @property
    def input(self) -> str:
        """The operator's input; the converters here take one tensor."""
        name: str = self._operator.inputs[0].full_name
        return name

    @property
    def input_type(self) -> type:
        """skl2onnx's type of the input."""
        return type(self._operator.inputs[0].type)

    def give(self, index: int, name: str) -> None:
        """Makes the double tensor `name` the operator's output, in the type that skl2onnx declared."""
        output = self._operator.outputs[index]
        to = DOUBLE if isinstance(output.type, DoubleTensorType) else FLOAT
        self.node("Cast", [name], output.full_name, to=to)

    def give_label(self, class_index: str, classes: Any) -> None:
        """Makes the class of the int64 indices [rows] the operator's first output."""
        if all(isinstance(label, str) for label in classes):
            table = self.constant(int(TensorProto.STRING), [len(classes)], [str(label).encode() for label in classes])
        else:
            table = self.constant(INT64, [len(classes)], [int(label) for label in classes])
        self.node("Gather", [table, class_index], self._operator.outputs[0].full_name, axis=0)

    def option(self, name: str) -> bool:
        """Whether a converter's option is set for this estimator."""
        return bool(self._container.get_options(self._operator.raw_operator, {name: False}).get(name, False))
