# SPDX-License-Identifier: Apache-2.0
"""Integer division: refused unless the divisor is a constant that is safe for every dividend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import FunctionProto, GraphProto, NodeProto, TensorProto

from concord_server.admission.operators import ABSENT_TYPE, GIVES, GIVES_INPUT, TYPE_ATTRIBUTE
from concord_server.admission.refused import Refused
from concord_server.fault import quote

UNKNOWN = TensorProto.UNDEFINED
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
_INTEGERS: dict[int, str] = {
    TensorProto.INT8: "<i1",
    TensorProto.UINT8: "<u1",
    TensorProto.INT16: "<i2",
    TensorProto.UINT16: "<u2",
    TensorProto.INT32: "<i4",
    TensorProto.UINT32: "<u4",
    TensorProto.INT64: "<i8",
    TensorProto.UINT64: "<u8",
}
_SAME_VALUES = frozenset({"Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten"})


@dataclass(frozen=True)
class Value:
    """What is known of a name in a graph without running it.

    `safe` says that it is a constant by which any integer of its type can be divided: it holds neither 0 nor -1.
    """

    elem_type: int = UNKNOWN
    safe: bool = False


class Divisions:
    """Follows element types through a graph; where a type cannot be known it is taken for an integer."""

    def __init__(self, functions: Mapping[tuple[str, str, str], FunctionProto]) -> None:
        self._functions = functions

    def follow(self, graph: GraphProto) -> None:
        """Raise Refused at the first division that an input could make trap."""
        self._graph(graph, {}, ())

    def _graph(self, graph: GraphProto, scope: dict[str, Value], inputs: Sequence[Value]) -> list[Value]:
        for info in graph.value_info:
            scope[info.name] = Value(info.type.tensor_type.elem_type)
        for tensor in graph.initializer:
            scope[tensor.name] = Value(tensor.data_type, _safe(tensor))
        for i, info in enumerate(graph.input):
            # An initializer of the same name is a default that a caller may override, so it is no constant.
            elem_type = info.type.tensor_type.elem_type
            if elem_type == UNKNOWN and i < len(inputs):
                elem_type = inputs[i].elem_type
            scope[info.name] = Value(elem_type)
        self._nodes(graph.node, scope)
        outputs = []
        for info in graph.output:
            known = scope.get(info.name, Value())
            if known.elem_type == UNKNOWN:
                known = replace(known, elem_type=info.type.tensor_type.elem_type)
            outputs.append(known)
        return outputs

    def _nodes(self, nodes: Sequence[NodeProto], scope: dict[str, Value]) -> None:
        for node in nodes:
            inputs = [scope.get(name, Value()) for name in node.input]
            domain = "" if node.domain == "ai.onnx" else node.domain
            function = self._functions.get((domain, node.op_type, node.overload))
            if function is None and domain == "" and node.op_type in ("Div", "Mod"):
                _check_division(node, inputs)
            outputs = self._node(node, function, inputs, scope)
            for i, name in enumerate(node.output):
                if not name:
                    continue
                known = outputs[i] if i < len(outputs) else Value()
                if known.elem_type == UNKNOWN:
                    known = replace(known, elem_type=scope.get(name, Value()).elem_type)
                scope[name] = known

    def _node(
        self, node: NodeProto, function: FunctionProto | None, inputs: list[Value], scope: dict[str, Value]
    ) -> list[Value]:
        if function is not None:
            inner = dict(zip(function.input, inputs, strict=False))
            self._nodes(function.node, inner)
            return [inner.get(name, Value()) for name in function.output]
        op = node.op_type
        bodies = []
        for attribute in node.attribute:
            graphs = [attribute.g, *attribute.graphs] if attribute.HasField("g") else list(attribute.graphs)
            for graph in graphs:
                bound: Sequence[Value] = ()
                if op == "Loop":
                    bound = [Value(TensorProto.INT64), Value(TensorProto.BOOL), *inputs[2:]]
                elif op == "Scan":
                    bound = inputs
                bodies.append(self._graph(graph, dict(scope), bound))
        if op == "Constant":
            return [Value(_constant_type(node), _safe_constant(node))]
        if op == "ConstantOfShape":
            return [Value(next((a.t.data_type for a in node.attribute if a.name == "value"), TensorProto.FLOAT))]
        if op == "Loop" and len(bodies) == 1:
            return bodies[0][1:]
        if op in ("If", "Scan") and bodies:
            return bodies[0]
        if op in _SAME_VALUES:
            return inputs[:1]
        outputs = [Value(_output_type(node, i, inputs)) for i in range(len(node.output))]
        if (
            op == "Cast"
            and inputs
            and inputs[0].safe
            and outputs
            and outputs[0].elem_type == TensorProto.INT64
            and inputs[0].elem_type not in _FLOATS
        ):
            outputs[0] = replace(outputs[0], safe=True)
        return outputs


def _check_division(node: NodeProto, inputs: Sequence[Value]) -> None:
    elem_type: int = UNKNOWN
    for value in inputs:
        if value.elem_type != UNKNOWN:
            elem_type = value.elem_type
    if elem_type in _FLOATS or (len(inputs) == 2 and inputs[1].safe):
        return
    name = quote(node.name)
    raise Refused(
        f"integer {node.op_type} (node {name}) by a divisor that an input can make 0 or -1 is refused: it can stop the "
        "process; allow_integer_division admits it"
    )


def _output_type(node: NodeProto, i: int, inputs: Sequence[Value]) -> int:
    """The element type of output i of a node without subgraphs, or UNKNOWN."""
    op = node.op_type
    for key in (op, f"{op}.{i}"):
        if key in GIVES:
            return GIVES[key]
    if op in TYPE_ATTRIBUTE:
        for attribute in node.attribute:
            if attribute.name == TYPE_ATTRIBUTE[op]:
                return int(attribute.i)
        if op in ABSENT_TYPE:
            return ABSENT_TYPE[op]
    source = GIVES_INPUT.get(op, 0)
    if source < len(inputs):
        return inputs[source].elem_type
    return TensorProto.UINT8 if op == "QuantizeLinear" else UNKNOWN


def _constant_type(node: NodeProto) -> int:
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                return int(attribute.t.data_type)
            case "sparse_value":
                return int(attribute.sparse_tensor.values.data_type)
            case "value_float" | "value_floats":
                return int(TensorProto.FLOAT)
            case "value_int" | "value_ints":
                return int(TensorProto.INT64)
            case "value_string" | "value_strings":
                return int(TensorProto.STRING)
    return int(UNKNOWN)


def _safe_constant(node: NodeProto) -> bool:
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                return _safe(attribute.t)
            case "value_int":
                return attribute.i not in (0, -1)
            case "value_ints":
                return len(attribute.ints) > 0 and not {0, -1}.intersection(attribute.ints)
    return False


def _safe(tensor: TensorProto) -> bool:
    """Whether an integer tensor holds neither 0 nor -1. Data outside the model is not looked at and so not safe."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type not in _INTEGERS:
        return False
    if tensor.raw_data:
        dtype = np.dtype(_INTEGERS[tensor.data_type])
        values = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // dtype.itemsize * dtype.itemsize], dtype)
        # All ones is -1 of a signed type; refusing the largest unsigned value too costs nobody anything.
        return values.size > 0 and not bool(np.any((values == 0) | (values == ~dtype.type(0))))
    values_ = [*tensor.int32_data, *tensor.int64_data, *tensor.uint64_data]
    return len(values_) > 0 and not {0, -1}.intersection(values_)
