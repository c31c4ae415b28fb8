# SPDX-License-Identifier: Apache-2.0
"""Make the graphs that the Go tests run: python make.py, in this directory, with the onnx package."""

from __future__ import annotations

import pathlib

import numpy as np
from onnx import TensorProto as T
from onnx import checker, helper, numpy_helper
from onnx.external_data_helper import set_external_data

HERE = pathlib.Path(__file__).parent
OPSET = [helper.make_opsetid("", 21)]


def save(name, nodes, inputs, outputs, initializers=(), check=True):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(initializers))
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=10, producer_name="concord-test")
    if check:
        checker.check_model(model)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def value(name, dtype, shape=None):
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


# Two numbers and a name to a doubled pair, the name and the rounded sum: every kind of binding.
save(
    "tabular",
    [
        helper.make_node("Mul", ["numbers", "two"], ["doubled"]),
        helper.make_node("Identity", ["name"], ["same"]),
        helper.make_node("ReduceSum", ["numbers", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["rounded"], to=T.INT64),
    ],
    [value("numbers", T.FLOAT, ["rows", 2]), value("name", T.STRING, ["rows", 1])],
    [value("doubled", T.FLOAT, ["rows", 2]), value("same", T.STRING, ["rows", 1]), value("rounded", T.INT64, ["rows"])],
    [constant("two", np.float32(2)), constant("axis", np.array([1], np.int64))],
)

# Each type that is served, of any rank, through unchanged.
TYPES = {
    "float": T.FLOAT, "uint8": T.UINT8, "int8": T.INT8, "uint16": T.UINT16, "int16": T.INT16,
    "int32": T.INT32, "int64": T.INT64,
    "string": T.STRING, "bool": T.BOOL, "float16": T.FLOAT16, "double": T.DOUBLE,
    "uint32": T.UINT32, "uint64": T.UINT64,
    "bfloat16": T.BFLOAT16,
}  # fmt: skip
for name, dtype in TYPES.items():
    save(
        f"identity_{name}",
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", dtype)],
        [value("y", dtype)],
        check=False,
    )

# Looks an index up in three numbers: any other index fails, and with it everything that runs with it.
save(
    "lookup",
    [helper.make_node("Gather", ["numbers", "index"], ["number"])],
    [value("index", T.INT64, ["rows"])],
    [value("number", T.FLOAT, ["rows"])],
    [constant("numbers", np.array([10, 20, 30], np.float32))],
)

# Counts to n, one iteration each.
body = helper.make_graph(
    [helper.make_node("Add", ["before", "one"], ["after"]), helper.make_node("Identity", ["go_on"], ["still"])],
    "body",
    [value("i", T.INT64, []), value("go_on", T.BOOL, []), value("before", T.INT64, [])],
    [value("still", T.BOOL, []), value("after", T.INT64, [])],
    [constant("one", np.int64(1))],
)
save(
    "count",
    [helper.make_node("Loop", ["n", "", "zero"], ["total"], body=body)],
    [value("n", T.INT64, [])],
    [value("total", T.INT64, [])],
    [constant("zero", np.int64(0))],
)

# The output's length depends on the values.
save(
    "nonzero",
    [helper.make_node("NonZero", ["x"], ["where"])],
    [value("x", T.FLOAT, ["n"])],
    [value("where", T.INT64, [1, "found"])],
)

# A weight in a file of its own.
weight = constant("weight", np.array([3, 4], np.float32))
(HERE / "external.onnx.data").write_bytes(weight.raw_data)
set_external_data(weight, "model.onnx.data", offset=0, length=8)
weight.ClearField("raw_data")
save(
    "external",
    [helper.make_node("Mul", ["x", "weight"], ["y"])],
    [value("x", T.FLOAT, ["rows", 2])],
    [value("y", T.FLOAT, ["rows", 2])],
    [weight],
    check=False,
)

# What is not served: a sequence, an 8-bit float.
save(
    "sequence",
    [helper.make_node("SequenceConstruct", ["x"], ["s"])],
    [value("x", T.FLOAT, ["n"])],
    [helper.make_tensor_sequence_value_info("s", T.FLOAT, ["n"])],
)
save(
    "float8",
    [helper.make_node("Cast", ["x"], ["y"], to=T.FLOAT8E4M3FN)],
    [value("x", T.FLOAT, ["n"])],
    [value("y", T.FLOAT8E4M3FN, ["n"])],
)

# 1 GiB that ONNX Runtime computes while it loads.
save(
    "folded",
    [helper.make_node("Expand", ["one", "length"], ["y"])],
    [value("x", T.FLOAT, ["n"])],
    [value("y", T.FLOAT, ["length"])],
    [constant("one", np.ones(1, np.float32)), constant("length", np.array([1 << 28]))],
)
