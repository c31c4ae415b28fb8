# SPDX-License-Identifier: Apache-2.0
"""The judgement of a graph: `check` raises Refused, or returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from concord_server.admission.divisions import Divisions
from concord_server.admission.operators import CONTRIB_OPERATORS, GENERATOR_OPERATORS
from concord_server.admission.refused import Refused
from concord_server.fault import quote, shown

__all__ = ["Refused", "check"]

# What a real model needs lies far below these; what stalls or exhausts a loader lies above.
MAX_NODES = 100_000
MAX_DEPTH = 16
MAX_EXPANDED_NODES = 20_000
MAX_BLOCK_SIZE = 1 << 16

SERVED_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.UINT8,
        TensorProto.INT8,
        TensorProto.UINT16,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.STRING,
        TensorProto.BOOL,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.UINT32,
        TensorProto.UINT64,
        TensorProto.BFLOAT16,
    }
)
_NOT_SERVED = {
    "sequence_type": "a sequence",
    "map_type": "a map",
    "optional_type": "an optional",
    "sparse_tensor_type": "a sparse tensor",
    "opaque_type": "an opaque value",
}

FunctionKey = tuple[str, str, str]


def check(
    serialized: bytes,
    *,
    external_files: frozenset[str] = frozenset(),
    integer_division: bool = False,
    generator: bool = False,
) -> None:
    """Raise Refused if the serialized model must not be loaded.

    `external_files` are the names that external data may refer to. `generator` says that it is a text generator's,
    whose inputs the server alone makes. `integer_division` admits integer Div and Mod whose divisor is not a safe
    constant: ONNX Runtime traps, and the process dies, when an input makes such a divisor 0, or -1 for the smallest
    integer.
    """
    try:
        model = ModelProto.FromString(serialized)
    except DecodeError:
        raise Refused(f"expected an ONNX model, got {len(serialized)} bytes that are none") from None
    if not model.HasField("graph"):
        raise Refused("expected an ONNX model with a graph, got none")
    if model.training_info:
        raise Refused("training information is not served")
    for value in (*model.graph.input, *model.graph.output):
        _check_value_type(value)
    checker = _Checker(model, external_files, generator=generator)
    checker.graph(model.graph, 0)
    for function in model.functions:
        checker.nodes(function.node, 0)
    checker.expansion(model.graph)
    if not integer_division:
        Divisions(checker.functions).follow(model.graph)


def _check_value_type(value: onnx.ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    name = quote(value.name)
    if kind == "tensor_type":
        elem_type = value.type.tensor_type.elem_type
        if elem_type not in SERVED_TYPES:
            raise Refused(f"tensor {name} has type {_type_name(elem_type)}, which is not served")
    elif kind is not None:
        raise Refused(f"{name} is {_NOT_SERVED[kind]}, which is not served")
    # An output's type may be left for ONNX Runtime to infer; the session is asked again after loading.


def _type_name(elem_type: int) -> str:
    if elem_type in TensorProto.DataType.values():
        return str(TensorProto.DataType.Name(elem_type)).lower()
    return f"number {elem_type}"


def function_key(node: NodeProto | FunctionProto, name: str) -> FunctionKey:
    """What ties a call to its function: domain, name and overload."""
    return "" if node.domain == "ai.onnx" else node.domain, name, node.overload


def subgraphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    """The graphs of an attribute."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


class _Checker:
    def __init__(self, model: ModelProto, external_files: frozenset[str], *, generator: bool) -> None:
        self.functions = {function_key(f, f.name): f for f in model.functions}
        self._generator = generator
        self._external_files = external_files
        self._seen = 0

    def graph(self, graph: GraphProto, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Refused(f"graphs are nested more than {MAX_DEPTH} deep")
        for tensor in graph.initializer:
            self._tensor(tensor)
        for sparse in graph.sparse_initializer:
            self._sparse(sparse)
        self.nodes(graph.node, depth)

    def nodes(self, nodes: Sequence[NodeProto], depth: int) -> None:
        self._seen += len(nodes)
        if self._seen > MAX_NODES:
            raise Refused(f"expected at most {MAX_NODES} nodes, got more")
        for node in nodes:
            self._node(node, depth)

    def _node(self, node: NodeProto, depth: int) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if function_key(node, node.op_type) not in self.functions and domain not in ("", "ai.onnx.ml"):
            if domain != "com.microsoft":
                quoted = quote(domain)
                raise Refused(f"operator domain {quoted} is not admitted (operator {shown(node.op_type)})")
            if node.op_type not in CONTRIB_OPERATORS:
                raise Refused(f"operator com.microsoft.{shown(node.op_type)} is not on the list of admitted operators")
            if node.op_type in GENERATOR_OPERATORS and not self._generator:
                raise Refused(f"operator com.microsoft.{node.op_type} is admitted in text generators alone")
        for attribute in node.attribute:
            if (
                attribute.name == "blocksize"
                and node.op_type in ("DepthToSpace", "SpaceToDepth")
                and not 1 <= attribute.i <= MAX_BLOCK_SIZE
            ):
                raise Refused(f"{node.op_type}: expected a blocksize from 1 to {MAX_BLOCK_SIZE}, got {attribute.i}")
            self._attribute(attribute, depth)

    def _attribute(self, attribute: AttributeProto, depth: int) -> None:
        tensors: Iterable[TensorProto] = attribute.tensors
        if attribute.HasField("t"):
            tensors = (attribute.t, *attribute.tensors)
        for tensor in tensors:
            self._tensor(tensor)
        if attribute.HasField("sparse_tensor"):
            self._sparse(attribute.sparse_tensor)
        for sparse in attribute.sparse_tensors:
            self._sparse(sparse)
        for graph in subgraphs(attribute):
            self.graph(graph, depth + 1)

    def _sparse(self, sparse: SparseTensorProto) -> None:
        self._tensor(sparse.values)
        self._tensor(sparse.indices)

    def _tensor(self, tensor: TensorProto) -> None:
        """A tensor's bytes come from the model itself, or from a file that belongs to the package."""
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            return
        if not any(e.key == "location" and e.value in self._external_files for e in tensor.external_data):
            name = quote(tensor.name)
            raise Refused(f"tensor {name} has its data in a file that is not part of the package")

    def expansion(self, graph: GraphProto) -> None:
        """Bound how many nodes the graph has once its functions are inlined, and refuse recursion."""
        sizes: dict[FunctionKey, int] = {}
        active: set[FunctionKey] = set()

        def count(nodes: Sequence[NodeProto]) -> int:
            total = 0
            for node in nodes:
                total += 1
                for attribute in node.attribute:
                    total += sum(count(sub.node) for sub in subgraphs(attribute))
                key = function_key(node, node.op_type)
                function = self.functions.get(key)
                if function is not None:
                    if key in active:
                        quoted = quote(node.op_type)
                        raise Refused(f"function {quoted} calls itself")
                    if key not in sizes:
                        active.add(key)
                        sizes[key] = count(function.node)
                        active.remove(key)
                    total += sizes[key]
                if total > MAX_EXPANDED_NODES:
                    raise Refused(
                        f"expected at most {MAX_EXPANDED_NODES} nodes after its functions are inlined, got more"
                    )
            return total

        if self.functions:
            count(graph.node)
