# SPDX-License-Identifier: Apache-2.0
"""Fixtures of ModelInference: models without a manifest, whose tensors go in and come out as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from build_fixtures import constant, graph, node, tensor, write_bare
from onnx import TensorProto, helper

# The DataType of the contract, which has ONNX's numbers, by the name that a fixture has it under.
DTYPES = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


def write_tensor_fixtures(root: Path) -> None:
    """All of them."""
    for name, dtype in DTYPES.items():
        write_bare(
            root / f"any-{name}" / "1",
            graph([unranked("x", dtype)], [unranked("y", dtype)], [node("Identity", ["x"], ["y"])]),
        )
    _write_requests(root)
    _write_nets(root)
    _write_sizes_from_data(root)


def unranked(name: str, dtype: int) -> onnx.ValueInfoProto:
    """An input or output of unknown rank."""
    return helper.make_tensor_value_info(name, dtype, None)


def floats(name: str, shape: Sequence[int], values: Sequence[float]) -> onnx.TensorProto:
    """A float32 initializer."""
    return constant(name, TensorProto.FLOAT, shape, values)


def _write_requests(root: Path) -> None:
    """add-sub: two in, two out; mixed-inputs: many kinds; nothing-in: no input; cubed: an open axis among three."""
    write_bare(
        root / "add-sub" / "1",
        graph(
            [tensor("a", TensorProto.FLOAT, "N"), tensor("b", TensorProto.FLOAT, "N")],
            [tensor("sum", TensorProto.FLOAT, "N"), tensor("difference", TensorProto.FLOAT, "N")],
            [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])],
        ),
    )
    write_bare(
        root / "mixed-inputs" / "1",
        graph(
            [
                tensor("matrix", TensorProto.FLOAT, "N", 3),
                tensor("flag", TensorProto.BOOL),
                tensor("words", TensorProto.STRING, "W"),
                tensor("count", TensorProto.INT32, 2),
            ],
            [
                tensor("matrix out", TensorProto.FLOAT, "N", 3),
                tensor("flag out", TensorProto.BOOL),
                tensor("words out", TensorProto.STRING, "W"),
                tensor("count out", TensorProto.INT32, 2),
            ],
            [node("Identity", [name], [f"{name} out"]) for name in ("matrix", "flag", "words", "count")],
        ),
    )
    write_bare(
        root / "nothing-in" / "1",
        graph(
            [],
            [tensor("y", TensorProto.FLOAT, 2)],
            [node("Identity", ["v"], ["y"])],
            [floats("v", [2], [1, 2])],
        ),
    )
    write_bare(
        root / "cubed" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, 2, "H", 3)],
            [tensor("y", TensorProto.FLOAT, 3, "H", 2)],
            [node("Transpose", ["x"], ["y"], perm=[2, 1, 0])],
        ),
    )


def _write_nets(root: Path) -> None:
    """mlp, conv: small whole numbers all the way, so that adding in any order gives the same bits."""
    write_bare(
        root / "mlp" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, "N", 4)],
            [tensor("scores", TensorProto.FLOAT, "N", 3), tensor("best", TensorProto.INT64, "N")],
            [
                node("Gemm", ["x", "w1", "b1"], ["h1"]),
                node("Relu", ["h1"], ["h2"]),
                node("Gemm", ["h2", "w2", "b2"], ["scores"]),
                node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
            ],
            [
                floats("w1", [4, 8], [(7 * i) % 11 - 5 for i in range(32)]),
                floats("b1", [8], [i - 3 for i in range(8)]),
                floats("w2", [8, 3], [(5 * i) % 7 - 3 for i in range(24)]),
                floats("b2", [3], [1, -2, 0]),
            ],
        ),
    )
    write_bare(
        root / "conv" / "1",
        graph(
            [tensor("image", TensorProto.FLOAT, "N", 1, "H", "W")],
            [tensor("features", TensorProto.FLOAT, "N", 2, "H2", "W2"), tensor("total", TensorProto.FLOAT, "N", 2)],
            [
                node("Conv", ["image", "kernel", "bias"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
                node("Relu", ["c"], ["r"]),
                node("MaxPool", ["r"], ["features"], kernel_shape=[2, 2], strides=[2, 2]),
                node("ReduceSum", ["features", "plane"], ["total"], keepdims=0),
            ],
            [
                floats("kernel", [2, 1, 3, 3], [-1, 0, 1, -2, 0, 2, -1, 0, 1, 1, 2, 1, 0, 0, 0, -1, -2, -1]),
                floats("bias", [2], [1, -1]),
                constant("plane", TensorProto.INT64, [2], [2, 3]),
            ],
        ),
    )


def _write_sizes_from_data(root: Path) -> None:
    """Models whose outputs have the shape that the input's values say: the lengths cannot be known beforehand."""
    write_bare(
        root / "non-zero" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, "N", "M")],
            [tensor("at", TensorProto.INT64, 2, "count")],
            [node("NonZero", ["x"], ["at"])],
        ),
    )
    write_bare(
        root / "split-words" / "1",
        graph(
            [tensor("text", TensorProto.STRING, "N")],
            [tensor("words", TensorProto.STRING, "N", "most"), tensor("counts", TensorProto.INT64, "N")],
            [node("StringSplit", ["text"], ["words", "counts"], delimiter=" ")],
        ),
    )
    write_bare(
        root / "zeros" / "1",
        graph(
            [tensor("shape", TensorProto.INT64, "rank")],
            [unranked("zeros", TensorProto.FLOAT)],
            [node("ConstantOfShape", ["shape"], ["zeros"])],
        ),
    )
    write_bare(
        root / "range" / "1",
        graph(
            [tensor(name, TensorProto.INT64) for name in ("start", "limit", "delta")],
            [tensor("y", TensorProto.INT64, "count")],
            [node("Range", ["start", "limit", "delta"], ["y"])],
        ),
    )
    write_bare(
        root / "tile" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, "N"), tensor("repeats", TensorProto.INT64, 1)],
            [tensor("y", TensorProto.FLOAT, "M")],
            [node("Tile", ["x", "repeats"], ["y"])],
        ),
    )
    write_bare(
        root / "pad" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, "N"), tensor("pads", TensorProto.INT64, 2)],
            [tensor("y", TensorProto.FLOAT, "M")],
            [node("Pad", ["x", "pads"], ["y"])],
        ),
    )
    write_bare(
        root / "one-hot" / "1",
        graph(
            [tensor("at", TensorProto.INT64, "N"), tensor("depth", TensorProto.INT64)],
            [tensor("y", TensorProto.FLOAT, "N", "depth")],
            [node("OneHot", ["at", "depth", "values"], ["y"])],
            [floats("values", [2], [0, 1])],
        ),
    )
    write_bare(
        root / "reshape" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, "N"), tensor("shape", TensorProto.INT64, "rank")],
            [unranked("y", TensorProto.FLOAT)],
            [node("Reshape", ["x", "shape"], ["y"])],
        ),
    )
    write_bare(
        root / "slice" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, "N")]
            + [tensor(name, TensorProto.INT64, 1) for name in ("start", "end", "step")],
            [tensor("y", TensorProto.FLOAT, "M")],
            [node("Slice", ["x", "start", "end", "axis", "step"], ["y"])],
            [constant("axis", TensorProto.INT64, [1], [0])],
        ),
    )
