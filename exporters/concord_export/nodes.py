# SPDX-License-Identifier: Apache-2.0
"""Nodes for the converters of this package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper
from skl2onnx._supported_operators import sklearn_operator_name_map
from skl2onnx.common._registration import get_converter
from skl2onnx.common.data_types import (
    DoubleTensorType,
    Int64TensorType,
    StringTensorType,
    guess_tensor_type,
)

__all__ = ["DOUBLE", "FLOAT", "INT64", "STRING", "Nodes", "Value"]

DOUBLE = int(TensorProto.DOUBLE)
FLOAT = int(TensorProto.FLOAT)
INT64 = int(TensorProto.INT64)
STRING = int(TensorProto.STRING)

Value = str | float | npt.NDArray[Any]
"""What a node takes: the name of a tensor, or a constant; a Python number is a double."""

_DOMAINS = {"TreeEnsemble": "ai.onnx.ml", "Tokenizer": "com.microsoft"}


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
        domain = _DOMAINS.get(op_type, "")
        self._container.add_node(
            op_type,
            list(inputs),
            [name],
            op_domain=domain,
            # skl2onnx 1.20 knows ai.onnx.ml up to 3; finish_opsets puts it right.
            op_version=1 if domain else None,
            name=self._scope.get_unique_operator_name(op_type),
            **attributes,
        )
        return name

    def op(self, op_type: str, *inputs: Value, **attributes: Any) -> str:
        """As `node`, with constants among the inputs."""
        names = [value if isinstance(value, str) else self.array(value) for value in inputs]
        return self.node(op_type, names, **attributes)

    def constant(self, data_type: int, shape: Sequence[int], values: Iterable[Any]) -> str:
        """Adds a constant tensor and gives its name."""
        name: str = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, data_type, list(shape), list(values))
        return name

    def array(self, value: float | npt.NDArray[Any]) -> str:
        """Adds a constant tensor of an array's own dtype, or a double, and gives its name."""
        array = np.asarray(value)
        if array.dtype.kind in "OU":
            return self.constant(STRING, array.shape, [str(item).encode() for item in array.ravel()])
        name: str = self._scope.get_unique_variable_name("constant")
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        self._container.add_initializer(name, tensor.data_type, list(array.shape), tensor)
        return name

    @property
    def input(self) -> str:
        """The operator's input; the converters here take one tensor."""
        if len(self._operator.inputs) != 1:
            raise NotImplementedError(f"{type(self.estimator).__name__} of several tensors cannot be exported")
        name: str = self._operator.inputs[0].full_name
        return name

    @property
    def input_type(self) -> type:
        """skl2onnx's type of the input."""
        return type(self._operator.inputs[0].type)

    def rows(self) -> str:
        """The input in doubles."""
        if issubclass(self.input_type, StringTensorType):
            raise NotImplementedError(f"{type(self.estimator).__name__} takes numbers, not strings")
        return self.input if issubclass(self.input_type, DoubleTensorType) else self.cast(self.input, DOUBLE)

    def columns(self) -> list[str]:
        """All columns of all inputs in order, [rows, 1] each: doubles, or strings."""
        columns = []
        for variable in self._operator.inputs:
            value: str = variable.full_name
            if not isinstance(variable.type, (StringTensorType, DoubleTensorType)):
                value = self.cast(value, DOUBLE)
            columns += [self.gather(value, [index]) for index in range(variable.type.shape[1])]
        return columns

    def cast(self, value: str, to: int) -> str:
        """The tensor in another type."""
        return self.node("Cast", [value], to=to)

    def sum(self, value: str, axis: int, *, keep: bool = False) -> str:
        """The sum along an axis."""
        return self.op("ReduceSum", value, np.array([axis]), keepdims=int(keep))

    def gather(self, value: str, columns: Sequence[int] | npt.NDArray[Any]) -> str:
        """Some columns of [rows, columns]."""
        return self.op("Gather", value, np.asarray(columns, np.int64), axis=1)

    def insert_axis(self, value: str, axis: int) -> str:
        """The tensor with one axis of length 1 more."""
        return self.op("Unsqueeze", value, np.array([axis]))

    def affine(self, value: str, matrix: npt.NDArray[Any], offset: npt.NDArray[Any] | float = 0.0) -> str:
        """value @ matrix + offset."""
        product = self.op("MatMul", value, np.asarray(matrix, np.float64))
        return self.op("Add", product, np.asarray(offset, np.float64))

    def top(self, value: str, count: int) -> tuple[str, str]:
        """The smallest values of each row, ascending, and their columns."""
        names = [self._scope.get_unique_variable_name(name) for name in ("smallest", "columns")]
        name = self._scope.get_unique_operator_name("TopK")
        inputs = [value, self.array(np.array([count]))]
        self._container.add_node("TopK", inputs, names, name=name, axis=1, largest=0, sorted=1, op_version=11)
        return names[0], names[1]

    def scan(self, state: npt.NDArray[Any], rows: str, body: Any) -> tuple[str, str]:
        """A Scan of one state and one input, row by row: the state at the end, and what each row gave."""
        names = [self._scope.get_unique_variable_name(name) for name in ("state", "scanned")]
        name = self._scope.get_unique_operator_name("Scan")
        self._container.add_node(
            "Scan", [self.array(state), rows], names, name=name, num_scan_inputs=1, body=body, op_version=11
        )
        return names[0], names[1]

    def give(self, index: int, name: str) -> None:
        """Makes the double tensor `name` the operator's output, in the type that skl2onnx declared."""
        output = self._operator.outputs[index]
        to = DOUBLE if isinstance(output.type, DoubleTensorType) else FLOAT
        self.node("Cast", [name], output.full_name, to=to)

    def give_as_is(self, index: int, name: str) -> None:
        """Makes the tensor `name`, of integers or strings, the operator's output."""
        self.node("Identity", [name], self._operator.outputs[index].full_name)

    def classes(self, class_index: str, classes: Any) -> str:
        """The classes of the int64 indices."""
        if all(isinstance(label, str) for label in classes):
            table = self.array(np.asarray(classes, dtype=object))
        else:
            table = self.constant(INT64, [len(classes)], [int(label) for label in classes])
        return self.node("Gather", [table, class_index], axis=0)

    def give_label(self, class_index: str, classes: Any) -> None:
        """Makes the class of the int64 indices [rows] the operator's first output."""
        self.give_as_is(0, self.classes(class_index, classes))

    def option(self, name: str) -> bool:
        """Whether a converter's option is set for this estimator."""
        return bool(self._container.get_options(self._operator.raw_operator, {name: False}).get(name, False))

    def inside(
        self, estimator: Any, outputs: Sequence[str], *, rows: str | None = None, raw_scores: bool = False
    ) -> list[str]:
        """Converts an estimator inside this one, on this one's input or on the double tensor `rows`.

        `outputs` are "label" or "numbers", as the estimator's own converter gives them; with `raw_scores` the numbers
        are decision values. Gives their names.
        """
        alias = sklearn_operator_name_map.get(type(estimator))
        if alias is None:
            raise NotImplementedError(f"no converter knows {type(estimator).__name__}")
        operator = self._scope.declare_local_operator(alias, estimator)
        if raw_scores:
            final = estimator
            while hasattr(final, "steps"):
                final = final.steps[-1][1]
            allowed = get_converter(sklearn_operator_name_map[type(final)]).get_allowed_options() or {}
            if "raw_scores" in allowed:
                for holder in (self._scope, self._container):
                    holder.add_options(id(final), {"raw_scores": True})
        kind = type(guess_tensor_type(self._operator.inputs[0].type))
        if rows is None:
            operator.inputs = self._operator.inputs
        else:
            variable = self._scope.declare_local_variable("inner", kind([None, estimator.n_features_in_]))
            self.node("Cast", [rows], variable.onnx_name, to=DOUBLE if kind is DoubleTensorType else FLOAT)
            operator.inputs.append(variable)
        for output in outputs:
            made = Int64TensorType() if output == "label" else kind()
            operator.outputs.append(self._scope.declare_local_variable(output, made))
        return [variable.onnx_name for variable in operator.outputs]
