# SPDX-License-Identifier: Apache-2.0
"""Write the graphs of this folder and verdicts.txt: what admission must say of each, in both servers.

    python conformance/admission/build.py

Deterministic: building again changes nothing.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

FOLDER = pathlib.Path(__file__).resolve().parent
FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("com.microsoft", 1)]
DIVISION = (
    'model.onnx: integer {op} (node "{node}") by a divisor that an input can make 0 or -1 is refused: it can stop the '
    "process; allow_integer_division admits it"
)


def value(name: str, elem_type: int = FLOAT, shape: Sequence[int | str] = ("N",)) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, list(shape))


def tensor(name: str, values: Sequence[int | float], dtype: str) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    initializers: Sequence[TensorProto] = (),
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    opsets = [*OPSETS, *{f.domain: helper.make_opsetid(f.domain, 1) for f in functions}.values()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions), producer_name="")


def unary(op: str, *, domain: str = "", **attributes: Any) -> ModelProto:
    node = helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)
    return model([node], [value("x")], [value("y")])


def division(op: str, divisor: Sequence[int], dtype: str = "int64") -> ModelProto:
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node(op, ["x", "d"], ["y"], name="n")
    return model([node], [value("x", elem_type)], [value("y", elem_type)], [tensor("d", divisor, dtype)])


def nested(depth: int) -> GraphProto:
    """A graph with `depth` Ifs, each in the last one's branch."""
    name = f"y{depth}"
    if depth == 0:
        nodes = [helper.make_node("Identity", ["x"], [name])]
    else:
        branch = nested(depth - 1)
        nodes = [helper.make_node("If", ["c"], [name], then_branch=branch, else_branch=nested(0))]
    return helper.make_graph(nodes, "b", [], [value(name)])


def conditional(depth: int) -> ModelProto:
    """A model whose graphs are nested `depth` deep."""
    nodes = nested(depth).node
    return model(nodes, [value("x"), value("c", TensorProto.BOOL, [])], [value(f"y{depth}")])


def chain(depth: int) -> ModelProto:
    """Functions of which each calls the last one twice."""
    functions = []
    for i in range(depth):
        op, domain = ("Neg", "") if i == 0 else (f"f{i - 1}", "own")
        nodes = [helper.make_node(op, ["a"], ["b"], domain=domain), helper.make_node(op, ["b"], ["c"], domain=domain)]
        functions.append(
            helper.make_function("own", f"f{i}", ["a"], ["c"], nodes, [*OPSETS, helper.make_opsetid("own", 1)])
        )
    node = helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="own")
    return model([node], [value("x")], [value("y")], functions=functions)


def recursive() -> ModelProto:
    nodes = [helper.make_node("f", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "f", ["a"], ["b"], nodes, [*OPSETS, helper.make_opsetid("own", 1)])
    node = helper.make_node("f", ["x"], ["y"], domain="own")
    return model([node], [value("x")], [value("y")], functions=[function])


def typed(kind: str) -> ModelProto:
    inner = helper.make_tensor_type_proto(FLOAT, ["N"])
    proto = {
        "sequence": helper.make_sequence_type_proto(inner),
        "map": helper.make_map_type_proto(INT64, inner),
        "optional": helper.make_optional_type_proto(inner),
        "sparse": helper.make_sparse_tensor_type_proto(FLOAT, ["N"]),
    }[kind]
    return model([helper.make_node("Identity", ["x"], ["y"])], [helper.make_value_info("x", proto)], [value("y")])


def external(location: str, *, attribute: bool = False) -> ModelProto:
    data = TensorProto(name="w", data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    data.external_data.add(key="location", value=location)
    if attribute:
        nodes = [helper.make_node("Constant", [], ["w"], value=data), helper.make_node("Add", ["x", "w"], ["y"])]
        return model(nodes, [value("x")], [value("y")])
    return model([helper.make_node("Add", ["x", "w"], ["y"])], [value("x")], [value("y")], [data])


def by_input(op: str, elem_type: int) -> ModelProto:
    attributes: dict[str, Any] = {"fmod": 1} if op == "Mod" and elem_type == FLOAT else {}
    node = helper.make_node(op, ["x", "z"], ["y"], name="n", **attributes)
    return model([node], [value("x", elem_type), value("z", elem_type)], [value("y", elem_type)])


def shape_arithmetic(divisor: int) -> ModelProto:
    """What exporters write for x.shape[0] // divisor."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Constant", [], ["d"], value_int=divisor),
        helper.make_node("Unsqueeze", ["d", "zero"], ["ds"]),
        helper.make_node("Div", ["s", "ds"], ["y"], name="n"),
    ]
    return model(nodes, [value("x")], [value("y", INT64)], [tensor("zero", [0], "int64")])


def cast_to_float() -> ModelProto:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=FLOAT),
        helper.make_node("Div", ["x", "f"], ["y"], name="n"),
    ]
    return model(nodes, [value("x")], [value("y")])


def in_loop(elem_type: int) -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Div", ["a", "z"], ["b"], name="n")],
        "body",
        [value("i", INT64, []), value("c", TensorProto.BOOL, []), ValueInfoProto(name="a")],
        [value("c2", TensorProto.BOOL, []), ValueInfoProto(name="b")],
    )
    node = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    inputs = [value("x", elem_type), value("z", elem_type)]
    return model([node], inputs, [value("y", elem_type)], [tensor("trips", [2], "int64")])


def in_function() -> ModelProto:
    function = helper.make_function(
        "own", "div", ["a", "b"], ["c"], [helper.make_node("Div", ["a", "b"], ["c"], name="n")], OPSETS
    )
    node = helper.make_node("div", ["x", "z"], ["y"], domain="own")
    return model([node], [value("x", INT32), value("z", INT32)], [value("y", INT32)], functions=[function])


def overridable() -> ModelProto:
    """The divisor is an initializer, but an input of the same name overrides it."""
    node = helper.make_node("Div", ["x", "d"], ["y"], name="n")
    return model([node], [value("x", INT64), value("d", INT64, [1])], [value("y", INT64)], [tensor("d", [3], "int64")])


def sequence_inside() -> ModelProto:
    """A division of what came out of a sequence: its type is not followed, so it counts as an integer."""
    nodes = [
        helper.make_node("SequenceConstruct", ["x"], ["s"]),
        helper.make_node("SequenceAt", ["s", "zero"], ["a"]),
        helper.make_node("Div", ["a", "a"], ["y"], name="n"),
    ]
    return model(nodes, [value("x")], [value("y")], [tensor("zero", [0], "int64")])


CASES: dict[str, tuple[ModelProto | bytes, str]] = {
    "identity": (unary("Identity"), ""),
    "ml-operator": (unary("Normalizer", domain="ai.onnx.ml", norm="L2"), ""),
    "contrib-listed": (unary("Gelu", domain="com.microsoft"), ""),
    "contrib-unlisted": (
        unary("ExpandDims", domain="com.microsoft"),
        "model.onnx: operator com.microsoft.ExpandDims is not on the list of admitted operators",
    ),
    "contrib-generator": (
        unary("GroupQueryAttention", domain="com.microsoft"),
        "model.onnx: operator com.microsoft.GroupQueryAttention is admitted in text generators alone",
    ),
    "domain-unknown": (
        unary("Run", domain="evil.corp"),
        'model.onnx: operator domain "evil.corp" is not admitted (operator Run)',
    ),
    "empty": (b"", "model.onnx: expected an ONNX model with a graph, got none"),
    "garbage": (b"<html>not found</html>", "model.onnx: expected an ONNX model, got 22 bytes that are none"),
    "sequence-input": (typed("sequence"), 'model.onnx: "x" is a sequence, which is not served'),
    "map-input": (typed("map"), 'model.onnx: "x" is a map, which is not served'),
    "optional-input": (typed("optional"), 'model.onnx: "x" is an optional, which is not served'),
    "sparse-input": (typed("sparse"), 'model.onnx: "x" is a sparse tensor, which is not served'),
    "float8-input": (
        model([helper.make_node("Identity", ["x"], ["y"])], [value("x", TensorProto.FLOAT8E4M3FN)], [value("y")]),
        'model.onnx: tensor "x" has type float8e4m3fn, which is not served',
    ),
    "int4-output": (
        model(
            [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT4)], [value("x")], [value("y", TensorProto.INT4)]
        ),
        'model.onnx: tensor "y" has type int4, which is not served',
    ),
    "complex-input": (
        model([helper.make_node("Identity", ["x"], ["y"])], [value("x", TensorProto.COMPLEX64)], [value("y")]),
        'model.onnx: tensor "x" has type complex64, which is not served',
    ),
    "nested-16": (conditional(16), ""),
    "nested-17": (conditional(17), "model.onnx: graphs are nested more than 16 deep"),
    "functions-doubling-8": (chain(8), ""),
    "functions-doubling-21": (
        chain(21),
        "model.onnx: expected at most 20000 nodes after its functions are inlined, got more",
    ),
    "function-recursive": (recursive(), 'model.onnx: function "f" calls itself'),
    "block-size-huge": (
        unary("DepthToSpace", blocksize=1 << 32),
        "model.onnx: DepthToSpace: expected a blocksize from 1 to 65536, got 4294967296",
    ),
    "block-size-zero": (
        unary("SpaceToDepth", blocksize=0),
        "model.onnx: SpaceToDepth: expected a blocksize from 1 to 65536, got 0",
    ),
    "external-outside": (
        external("../../etc/passwd"),
        'model.onnx: tensor "w" has its data in a file that is not part of the package',
    ),
    "external-in-attribute": (
        external("/etc/passwd", attribute=True),
        'model.onnx: tensor "w" has its data in a file that is not part of the package',
    ),
    "external-listed": (external("model.onnx.data"), ""),
    "divide-int64-by-3": (division("Div", [3]), ""),
    "divide-int32-by-0": (division("Div", [2, 0], "int32"), DIVISION.format(op="Div", node="n")),
    "divide-int8-by-minus-1": (division("Div", [-1], "int8"), DIVISION.format(op="Div", node="n")),
    "modulo-int64-by-7": (division("Mod", [7]), ""),
    "modulo-int64-by-minus-1": (division("Mod", [-1]), DIVISION.format(op="Mod", node="n")),
    "divide-float-by-input": (by_input("Div", FLOAT), ""),
    "modulo-float-by-input": (by_input("Mod", FLOAT), ""),
    "divide-int32-by-input": (by_input("Div", INT32), DIVISION.format(op="Div", node="n")),
    "modulo-int64-by-input": (by_input("Mod", INT64), DIVISION.format(op="Mod", node="n")),
    "shape-by-2": (shape_arithmetic(2), ""),
    "shape-by-0": (shape_arithmetic(0), DIVISION.format(op="Div", node="n")),
    "shape-cast-to-float": (cast_to_float(), ""),
    "divide-float-in-loop": (in_loop(FLOAT), ""),
    "divide-int64-in-loop": (in_loop(INT64), DIVISION.format(op="Div", node="n")),
    "divide-in-function": (in_function(), DIVISION.format(op="Div", node="n")),
    "divisor-overridable": (overridable(), DIVISION.format(op="Div", node="n")),
    "divide-after-sequence": (sequence_inside(), DIVISION.format(op="Div", node="n")),
}


def write(folder: pathlib.Path) -> None:
    """Write all graphs and their verdicts into `folder`."""
    for name, (graph, _) in CASES.items():
        content = graph if isinstance(graph, bytes) else graph.SerializeToString(deterministic=True)
        (folder / f"{name}.onnx").write_bytes(content)
    lines = [f"{name}: {verdict or 'admitted'}\n" for name, (_, verdict) in CASES.items()]
    (folder / "verdicts.txt").write_text("".join(lines))


if __name__ == "__main__":
    write(FOLDER)
