# SPDX-License-Identifier: Apache-2.0
"""Writes conformance/fixtures: the tiny models whose behaviour the cases are about.

    python conformance/build_fixtures.py [DIRECTORY]

Same input, same bytes: a test builds them anew and compares. A model's behaviour induces the server's: `slow` loops,
`fail` gathers out of range, `big` expands, `version` is constant. So a server is certified without any code in it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from concord_export.package import write_package
from concord_proto.inference.v1 import inference_service_pb2, model_inference_pb2, model_pb2, tensor_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from onnx import TensorProto, helper

FLOAT, DOUBLE = model_pb2.FEATURE_TYPE_FLOAT, model_pb2.FEATURE_TYPE_DOUBLE
INT64, BOOL = model_pb2.FEATURE_TYPE_INT64, model_pb2.FEATURE_TYPE_BOOL
STRING = model_pb2.FEATURE_TYPE_STRING

FIXTURES = Path(__file__).resolve().parent / "fixtures"

Value = inference_service_pb2.FeatureValue
Golden = tuple[Mapping[str, Value], Mapping[str, float], Mapping[str, Value]]


# --- values of features ----------------------------------------------------------------------------------------------


def number(value: float) -> Value:
    """A FLOAT scalar."""
    return Value(float_value=value)


def wide(value: float) -> Value:
    """A DOUBLE scalar."""
    return Value(double_value=value)


def integer(value: int) -> Value:
    """An INT64 scalar."""
    return Value(int64_value=value)


def truth(value: bool) -> Value:
    """A BOOL scalar."""
    return Value(bool_value=value)


def text(value: str) -> Value:
    """A STRING scalar."""
    return Value(string_value=value)


def numbers(*values: float) -> Value:
    """A FLOAT or DOUBLE array."""
    return Value(float_array=inference_service_pb2.FloatArray(values=values))


def integers(*values: int) -> Value:
    """An INT64 or BOOL array."""
    return Value(int64_array=inference_service_pb2.Int64Array(values=values))


def texts(*values: str) -> Value:
    """A STRING array."""
    return Value(string_array=inference_service_pb2.StringArray(values=values))


# --- graphs and manifests --------------------------------------------------------------------------------------------


def tensor(name: str, dtype: int, *shape: int | str) -> onnx.ValueInfoProto:
    """An input or output of a graph; a text is an open axis."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def graph(
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto] = (),
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of IR 10, opset 21."""
    opsets = {"": 21, **(domains or {})}
    return helper.make_model(
        helper.make_graph(list(nodes), "fixture", list(inputs), list(outputs), list(constants)),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=10,
        producer_name="concord-fixtures",
    )


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    """A node."""
    return helper.make_node(operator, list(inputs), list(outputs), **attributes)


def constant(name: str, dtype: int, shape: Sequence[int], values: Sequence[Any]) -> onnx.TensorProto:
    """An initializer."""
    return helper.make_tensor(name, dtype, list(shape), list(values))


def feature(
    name: str,
    kind: int,
    shape: Sequence[int] = (),
    *,
    to: str = "",
    column: int = 0,
    default: Value | None = None,
    description: str = "",
) -> manifest_pb2.FeatureBinding:
    """A feature bound to the ONNX input `to`, by default the one of its own name."""
    return manifest_pb2.FeatureBinding(
        feature=model_pb2.Feature(
            name=name,
            type=kind,  # type: ignore[arg-type]
            shape=shape,
            required=default is None,
            default_value=default,
            description=description,
        ),
        input=to or name,
        column=column,
    )


def prediction(name: str, output: str = "", index: int = 0) -> manifest_pb2.PredictionBinding:
    """A prediction from the ONNX output of its own name, or another."""
    return manifest_pb2.PredictionBinding(
        prediction=model_pb2.Prediction(name=name), output=output or name, index=index
    )


def output(
    name: str, kind: int, shape: Sequence[int] = (), *, of: str = "", index: int = 0
) -> manifest_pb2.OutputBinding:
    """An output from the ONNX output `of`, by default the one of its own name."""
    return manifest_pb2.OutputBinding(
        output=model_pb2.Output(name=name, type=kind, shape=shape),  # type: ignore[arg-type]
        onnx_output=of or name,
        index=index,
    )


def manifest(
    description: str,
    features: Sequence[manifest_pb2.FeatureBinding],
    predictions: Sequence[manifest_pb2.PredictionBinding] = (),
    outputs: Sequence[manifest_pb2.OutputBinding] = (),
    *,
    batchable: bool = True,
    max_batch_rows: int = 0,
    kind: int = model_pb2.MODEL_KIND_TABULAR,
    axis_limits: Sequence[manifest_pb2.AxisLimit] = (),
    quality: Sequence[model_pb2.Metric] = (),
) -> manifest_pb2.Manifest:
    """A manifest but for what the package writer fills in."""
    return manifest_pb2.Manifest(
        kind=kind,  # type: ignore[arg-type]
        description=description,
        features=features,
        predictions=predictions,
        outputs=outputs,
        batching=manifest_pb2.Batching(batchable=batchable, max_batch_rows=max_batch_rows),
        axis_limits=axis_limits,
        quality=quality,
    )


def golden(*cases: Golden) -> golden_pb2.GoldenSet:
    """Golden cases, to hold exactly."""
    return golden_pb2.GoldenSet(
        cases=[
            golden_pb2.GoldenCase(
                features=inference_service_pb2.PredictRequest(features=features),
                predictions=inference_service_pb2.PredictResponse(predictions=predictions, outputs=outputs),
            )
            for features, predictions, outputs in cases
        ]
    )


# --- the models ------------------------------------------------------------------------------------------------------


def identity_graph() -> onnx.ModelProto:
    """y = x."""
    return graph(
        [tensor("x", TensorProto.FLOAT, "N", 1)],
        [tensor("y", TensorProto.FLOAT, "N", 1)],
        [node("Identity", ["x"], ["y"])],
    )


def identity_manifest(description: str = "What goes in comes out.") -> manifest_pb2.Manifest:
    """One float in, the same float out."""
    return manifest(description, [feature("x", FLOAT)], [prediction("y")])


def identity_golden() -> golden_pb2.GoldenSet:
    """A number that a float32 holds exactly."""
    return golden(({"x": number(1.5)}, {"y": 1.5}, {}))


def write_identity(root: Path) -> None:
    """identity: one float; every case's check that the server still answers uses it."""
    write_package(
        root / "identity" / "1", model=identity_graph(), manifest=identity_manifest(), golden=identity_golden()
    )


def write_types(root: Path) -> None:
    """types: a scalar of every type, and back; arrays: an array of every type, and back."""
    onnx_types = {
        "f": TensorProto.FLOAT,
        "d": TensorProto.DOUBLE,
        "i": TensorProto.INT64,
        "b": TensorProto.BOOL,
        "s": TensorProto.STRING,
    }
    kinds = {"f": FLOAT, "d": DOUBLE, "i": INT64, "b": BOOL, "s": STRING}
    values = {"f": number(0.5), "d": wide(0.1), "i": integer(-3), "b": truth(True), "s": text("ja")}
    write_package(
        root / "types" / "1",
        model=graph(
            [tensor(name, kind, "N", 1) for name, kind in onnx_types.items()],
            [tensor(name + "_out", kind, "N", 1) for name, kind in onnx_types.items()],
            [node("Identity", [name], [name + "_out"]) for name in onnx_types],
        ),
        manifest=manifest(
            "A scalar of every type comes out as it went in.",
            [feature(name, kind, description=f"scalar {name}") for name, kind in kinds.items()],
            [prediction("f_number", "f_out")],
            [output(name, kind, of=name + "_out") for name, kind in kinds.items()],
        ),
        golden=golden((values, {"f_number": 0.5}, values)),
    )
    lengths = {"f": 3, "d": 2, "i": 2, "b": 3, "s": 2}
    arrays = {
        "f": numbers(1, 2.5, -3),
        "d": numbers(0.5, 4),
        "i": integers(1, 2),
        "b": integers(1, 0, 1),
        "s": texts("a", "b"),
    }
    write_package(
        root / "arrays" / "1",
        model=graph(
            [tensor(name, kind, "N", lengths[name]) for name, kind in onnx_types.items()],
            [tensor(name + "_out", kind, "N", lengths[name]) for name, kind in onnx_types.items()],
            [node("Identity", [name], [name + "_out"]) for name in onnx_types],
        ),
        manifest=manifest(
            "An array of every type comes out as it went in.",
            [feature(name, kind, [lengths[name]]) for name, kind in kinds.items()],
            [],
            [output(name, kind, [lengths[name]], of=name + "_out") for name, kind in kinds.items() if name != "b"]
            + [output("b", BOOL, [3], of="b_out")],
        ),
        golden=golden((arrays, {}, arrays)),
    )


def write_columns(root: Path) -> None:
    """columns: how features find their places in the inputs."""
    write_package(
        root / "columns" / "1",
        model=graph(
            [
                tensor("x", TensorProto.FLOAT, "N", 4),
                tensor("m", TensorProto.FLOAT, "N", 2, 3),
                tensor("k", TensorProto.FLOAT, "N"),
            ],
            [
                tensor("row", TensorProto.FLOAT, "N", 4),
                tensor("turned", TensorProto.FLOAT, "N", 3, 2),
                tensor("k_out", TensorProto.FLOAT, "N"),
            ],
            [
                node("Identity", ["x"], ["row"]),
                node("Transpose", ["m"], ["turned"], perm=[0, 2, 1]),
                node("Identity", ["k"], ["k_out"]),
            ],
        ),
        manifest=manifest(
            "Features in columns, in another order; a matrix that comes back transposed; an input without columns.",
            [
                feature("last", FLOAT, to="x", column=3),
                feature("pair", FLOAT, [2], to="x", column=1),
                feature("first", FLOAT, to="x", column=0),
                feature("matrix", FLOAT, [2, 3], to="m"),
                feature("plain", FLOAT, to="k"),
            ],
            [prediction("third", "row", 2), prediction("plain", "k_out"), prediction("corner", "turned", 4)],
            [output("row", FLOAT, [4]), output("turned", FLOAT, [3, 2])],
        ),
        golden=golden(
            (
                {
                    "last": number(4),
                    "pair": numbers(2, 3),
                    "first": number(1),
                    "matrix": numbers(1, 2, 3, 4, 5, 6),
                    "plain": number(9),
                },
                {"third": 3, "plain": 9, "corner": 3},
                {"row": numbers(1, 2, 3, 4), "turned": numbers(1, 4, 2, 5, 3, 6)},
            )
        ),
    )


def write_narrow(root: Path) -> None:
    """narrow: INT64 features into integer tensors of every width; floats: FLOAT features into float16 and bfloat16."""
    widths = {
        "i8": TensorProto.INT8,
        "u8": TensorProto.UINT8,
        "i16": TensorProto.INT16,
        "u16": TensorProto.UINT16,
        "i32": TensorProto.INT32,
        "u32": TensorProto.UINT32,
        "u64": TensorProto.UINT64,
    }
    values = {name: integer(index) for index, name in enumerate(widths)}
    write_package(
        root / "narrow" / "1",
        model=graph(
            [tensor(name, kind, "N", 1) for name, kind in widths.items()],
            [tensor(name + "_out", kind, "N", 1) for name, kind in widths.items()],
            [node("Identity", [name], [name + "_out"]) for name in widths],
        ),
        manifest=manifest(
            "Integers of every width; what does not fit is refused.",
            [feature(name, INT64) for name in widths],
            [],
            [output(name, INT64, of=name + "_out") for name in widths],
        ),
        golden=golden((values, {}, values)),
    )
    halves = {"f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    write_package(
        root / "halves" / "1",
        model=graph(
            [tensor(name, kind, "N", 1) for name, kind in halves.items()],
            [tensor(name + "_out", kind, "N", 1) for name, kind in halves.items()]
            + [tensor(name + "_float", TensorProto.FLOAT, "N", 1) for name in halves],
            [node("Identity", [name], [name + "_out"]) for name in halves]
            + [node("Cast", [name], [name + "_float"], to=TensorProto.FLOAT) for name in halves],
        ),
        manifest=manifest(
            "Floats rounded to float16 and bfloat16, to nearest, ties to even.",
            [feature(name, FLOAT) for name in halves],
            [prediction(name, name + "_float") for name in halves],
            [output(name, FLOAT, of=name + "_out") for name in halves],
        ),
        golden=golden(
            (
                {"f16": number(1.5), "bf16": number(-2)},
                {"f16": 1.5, "bf16": -2},
                {"f16": number(1.5), "bf16": number(-2)},
            )
        ),
    )


def write_defaults(root: Path) -> None:
    """defaults: what a request leaves out takes its default; many: twenty required features."""
    write_package(
        root / "defaults" / "1",
        model=graph(
            [
                tensor("x", TensorProto.FLOAT, "N", 4),
                tensor("i", TensorProto.INT64, "N", 1),
                tensor("s", TensorProto.STRING, "N", 1),
            ],
            [
                tensor("row", TensorProto.FLOAT, "N", 4),
                tensor("i_out", TensorProto.INT64, "N", 1),
                tensor("s_out", TensorProto.STRING, "N", 1),
            ],
            [node("Identity", ["x"], ["row"]), node("Identity", ["i"], ["i_out"]), node("Identity", ["s"], ["s_out"])],
        ),
        manifest=manifest(
            "One required feature; the others have defaults.",
            [
                feature("a", FLOAT, to="x", column=0),
                feature("b", FLOAT, to="x", column=1, default=number(2.5)),
                feature("v", FLOAT, [2], to="x", column=2, default=numbers(-1, 0.25)),
                feature("i", INT64, default=integer(7)),
                feature("s", STRING, default=text("none")),
            ],
            [],
            [output("row", FLOAT, [4]), output("i", INT64, of="i_out"), output("s", STRING, of="s_out")],
        ),
        golden=golden(
            (
                {"a": number(1)},
                {},
                {"row": numbers(1, 2.5, -1, 0.25), "i": integer(7), "s": text("none")},
            )
        ),
    )
    names = [f"f{index:02d}" for index in range(20)]
    write_package(
        root / "many" / "1",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", 20)],
            [tensor("y", TensorProto.FLOAT, "N", 1)],
            [node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
            [constant("axes", TensorProto.INT64, [1], [1])],
        ),
        manifest=manifest(
            "The sum of twenty features.",
            [feature(name, FLOAT, to="x", column=index) for index, name in enumerate(names)],
            [prediction("y")],
        ),
        golden=golden(({name: number(1) for name in names}, {"y": 20}, {})),
    )


def write_names(root: Path) -> None:
    """names: features and predictions whose names need quoting."""
    names = ["mean radius", 'say "hi"', "back\\slash", "größe ✓", "tab\there", "a<b>&c", "n" * 100]
    write_package(
        root / "names" / "1",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", len(names))],
            [tensor("y", TensorProto.FLOAT, "N", len(names))],
            [node("Identity", ["x"], ["y"])],
        ),
        manifest=manifest(
            "Names with blanks, quotes, other scripts and a hundred letters.",
            [feature(name, FLOAT, to="x", column=index) for index, name in enumerate(names)],
            [prediction(name, "y", index) for index, name in enumerate(names)],
        ),
        golden=golden(
            (
                {name: number(index) for index, name in enumerate(names)},
                {name: float(index) for index, name in enumerate(names)},
                {},
            )
        ),
    )


def write_open(root: Path) -> None:
    """open: arrays of any length; at-most-512: of up to so many; open-matrix: of rows of eight; empty: of no length."""
    write_package(
        root / "open" / "1",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", "L")],
            [tensor("sum", TensorProto.FLOAT, "N", 1), tensor("same", TensorProto.FLOAT, "N", "L")],
            [node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1), node("Identity", ["x"], ["same"])],
            [constant("axes", TensorProto.INT64, [1], [1])],
        ),
        manifest=manifest(
            "The sum of any number of values, and the values.",
            [feature("x", FLOAT, [-1])],
            [prediction("sum")],
            [output("same", FLOAT, [-1])],
        ),
        golden=golden(({"x": numbers(1, 2, 3)}, {"sum": 6}, {"same": numbers(1, 2, 3)})),
    )
    write_package(
        root / "at-most-512" / "1",
        # Each value times its place's own weight, as a network adds what it has learnt of places: there are 512.
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", "L")],
            [tensor("sum", TensorProto.FLOAT, "N", 1)],
            [
                node("Shape", ["x"], ["shape"]),
                node("Gather", ["shape", "one"], ["length"]),
                node("Range", ["zero", "length", "one"], ["places"]),
                node("Gather", ["weights", "places"], ["learnt"]),
                node("Mul", ["x", "learnt"], ["weighed"]),
                node("ReduceSum", ["weighed", "axes"], ["sum"], keepdims=1),
            ],
            [
                constant("zero", TensorProto.INT64, [], [0]),
                constant("one", TensorProto.INT64, [], [1]),
                constant("axes", TensorProto.INT64, [1], [1]),
                constant("weights", TensorProto.FLOAT, [512], [float(place) for place in range(512)]),
            ],
        ),
        manifest=manifest(
            "The sum of values, each times its place.",
            [feature("x", FLOAT, [-1])],
            [prediction("sum")],
            axis_limits=[manifest_pb2.AxisLimit(input="x", axis=1, max_length=512)],
            quality=[model_pb2.Metric(name="r2", value=0.75, rows=10)],
        ),
        golden=golden(({"x": numbers(1, 2, 3)}, {"sum": 8}, {})),
    )
    eight = [float(value) for value in range(8)]
    write_package(
        root / "open-matrix" / "1",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", "L", 8)],
            [tensor("sums", TensorProto.FLOAT, "N", 8)],
            [node("ReduceSum", ["x", "axes"], ["sums"], keepdims=0)],
            [constant("axes", TensorProto.INT64, [1], [1])],
        ),
        manifest=manifest(
            "Column sums of a matrix of eight columns.",
            [feature("x", FLOAT, [-1, 8])],
            [],
            [output("sums", FLOAT, [8])],
        ),
        golden=golden(({"x": numbers(*eight, *eight)}, {}, {"sums": numbers(*(2 * value for value in eight))})),
    )
    write_package(
        root / "empty" / "1",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", 1), tensor("nothing", TensorProto.FLOAT, "N", 0)],
            [tensor("y", TensorProto.FLOAT, "N", 1)],
            [node("Concat", ["x", "nothing"], ["y"], axis=1)],
        ),
        manifest=manifest(
            "A feature of length 0.", [feature("x", FLOAT), feature("nothing", FLOAT, [0])], [prediction("y")]
        ),
        golden=golden(({"x": number(2), "nothing": numbers()}, {"y": 2}, {})),
    )


def write_numbers(root: Path) -> None:
    """numbers: predictions from outputs that are no float32; uint64: an output that may exceed an int64."""
    write_package(
        root / "numbers" / "1",
        model=graph(
            [
                tensor("i", TensorProto.INT64, "N", 1),
                tensor("d", TensorProto.DOUBLE, "N", 1),
            ],
            [
                tensor("i_out", TensorProto.INT64, "N", 1),
                tensor("d_out", TensorProto.DOUBLE, "N", 1),
            ],
            [node("Identity", [name], [name + "_out"]) for name in "id"],
        ),
        manifest=manifest(
            "Predictions from an integer and a double: rounded to float32.",
            [feature("i", INT64), feature("d", DOUBLE)],
            [prediction("i", "i_out"), prediction("d", "d_out")],
        ),
        golden=golden(({"i": integer(2), "d": wide(0.5)}, {"i": 2, "d": 0.5}, {})),
    )
    write_package(
        root / "uint64" / "1",
        model=graph(
            [tensor("i", TensorProto.INT64, "N", 1)],
            [tensor("u", TensorProto.UINT64, "N", 1)],
            [node("Cast", ["i"], ["u"], to=TensorProto.UINT64)],
        ),
        manifest=manifest(
            "An int64's bits as uint64; a negative one gives more than an int64 holds.",
            [feature("i", INT64)],
            [],
            [output("u", INT64)],
        ),
        golden=golden(({"i": integer(5)}, {}, {"u": integer(5)})),
    )


def write_strings(root: Path) -> None:
    """bytes-out: a string output that may be no UTF-8; size: a small answer to a text of any length."""
    write_package(
        root / "bytes-out" / "1",
        model=graph(
            [tensor("i", TensorProto.INT64, "N", 1)],
            [tensor("s", TensorProto.STRING, "N", 1)],
            [node("Gather", ["table", "i"], ["s"])],
            [constant("table", TensorProto.STRING, [2], [b"good", b"\xff\xfe"])],
        ),
        manifest=manifest("0 gives a text, 1 bytes that are none.", [feature("i", INT64)], [], [output("s", STRING)]),
        golden=golden(({"i": integer(0)}, {}, {"s": text("good")})),
    )
    write_package(
        root / "size" / "1",
        model=graph(
            [tensor("s", TensorProto.STRING, "N", 1)],
            [tensor("count", TensorProto.INT64, "N", 1)],
            [node("Shape", ["s"], ["shape"]), node("Expand", ["one", "shape"], ["count"])],
            [constant("one", TensorProto.INT64, [1, 1], [1])],
        ),
        manifest=manifest("1, however long the text.", [feature("s", STRING)], [], [output("count", INT64)]),
        golden=golden(({"s": text("x")}, {}, {"count": integer(1)})),
    )


def write_classifier(root: Path) -> None:
    """classifier: linear, three classes with text labels; mlp: two layers."""
    write_package(
        root / "classifier" / "1",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", 2)],
            [tensor("label", TensorProto.STRING, "N", 1), tensor("probabilities", TensorProto.FLOAT, "N", 3)],
            [
                node("Gemm", ["x", "w", "b"], ["scores"]),
                node("Softmax", ["scores"], ["probabilities"], axis=1),
                node("ArgMax", ["scores"], ["best"], axis=1, keepdims=1),
                node("Gather", ["labels", "best"], ["label"]),
            ],
            [
                constant("w", TensorProto.FLOAT, [2, 3], [1, 0, -1, 0, 1, -1]),
                constant("b", TensorProto.FLOAT, [3], [0, 0, 0]),
                constant("labels", TensorProto.STRING, [3], [b"east", b"north", b"other"]),
            ],
        ),
        manifest=manifest(
            "East, north or other, from two coordinates.",
            [
                feature("x", FLOAT, to="x", column=0, description="eastward, in metres"),
                feature("y", FLOAT, to="x", column=1, description="northward, in metres"),
            ],
            [
                prediction("p_east", "probabilities", 0),
                prediction("p_north", "probabilities", 1),
                prediction("p_other", "probabilities", 2),
            ],
            [output("label", STRING)],
        ),
        golden=golden(
            ({"x": number(200), "y": number(0)}, {"p_east": 1, "p_north": 0, "p_other": 0}, {"label": text("east")})
        ),
    )


def write_versions(root: Path) -> None:
    """version: versions 1, 2 and 10 answer their own number, with labels; labels-only: a model without versions."""
    for version in (1, 2, 10):
        write_package(
            root / "version" / str(version),
            model=graph(
                [tensor("x", TensorProto.FLOAT, "N", 1)],
                [tensor("y", TensorProto.FLOAT, "N", 1)],
                [node("Shape", ["x"], ["shape"]), node("Expand", ["number", "shape"], ["y"])],
                [constant("number", TensorProto.FLOAT, [1, 1], [version])],
            ),
            manifest=manifest(f"Answers {version}.", [feature("x", FLOAT)], [prediction("y")]),
            golden=golden(({"x": number(0)}, {"y": float(version)}, {})),
        )
    (root / "version" / "labels.json").write_text('{"stable": "1", "canary": 10, "gone": "7"}\n', encoding="utf-8")
    (root / "labels-only").mkdir()
    (root / "labels-only" / "labels.json").write_text('{"stable": "1"}\n', encoding="utf-8")


def write_batches(root: Path) -> None:
    """batch-mean, batch-rows: not batchable, as rows depend on their neighbours; small-batch: two rows at most."""
    write_package(
        root / "batch-mean" / "1",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", 1)],
            [tensor("y", TensorProto.FLOAT, "N", 1)],
            [node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1), node("Sub", ["x", "mean"], ["y"])],
            [constant("axes", TensorProto.INT64, [1], [0])],
        ),
        manifest=manifest(
            "The distance from the mean of all rows of the run: 0 for a row alone.",
            [feature("x", FLOAT)],
            [prediction("y")],
            batchable=False,
        ),
        golden=golden(({"x": number(3)}, {"y": 0}, {})),
    )
    write_package(
        root / "batch-rows" / "1",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", 1)],
            [tensor("rows", TensorProto.INT64, "N", 1)],
            [
                node("Shape", ["x"], ["shape"]),
                node("Gather", ["shape", "zero"], ["count"]),
                node("Expand", ["count", "shape"], ["rows"]),
            ],
            [constant("zero", TensorProto.INT64, [1], [0])],
        ),
        manifest=manifest(
            "How many rows the run had: 1 for a row alone.",
            [feature("x", FLOAT)],
            [],
            [output("rows", INT64)],
            batchable=False,
        ),
        golden=golden(({"x": number(3)}, {}, {"rows": integer(1)})),
    )
    write_package(
        root / "small-batch" / "1",
        model=identity_graph(),
        manifest=manifest("Two rows in a run at most.", [feature("x", FLOAT)], [prediction("y")], max_batch_rows=2),
        golden=identity_golden(),
    )


def write_behaviour(root: Path) -> None:
    """slow: loops n times; fail: gathers from a table of four; big: answers n values."""
    body = helper.make_graph(
        [
            node("MatMul", ["state_in", "matrix"], ["state_out"]),
            node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [
            tensor("turn", TensorProto.INT64),
            tensor("go", TensorProto.BOOL),
            tensor("state_in", TensorProto.FLOAT, 1, 64),
        ],
        [tensor("go_out", TensorProto.BOOL), tensor("state_out", TensorProto.FLOAT, 1, 64)],
    )
    write_package(
        root / "slow" / "1",
        model=graph(
            [tensor("n", TensorProto.INT64, "N", 1)],
            [tensor("y", TensorProto.FLOAT, 1, 1)],
            [
                node("Expand", ["one", "square"], ["ones"]),
                node("EyeLike", ["ones"], ["matrix"]),
                node("Expand", ["one", "row"], ["state"]),
                node("Reshape", ["n", "single"], ["count"]),
                node("Squeeze", ["count"], ["trips"]),
                node("Loop", ["trips", "go", "state"], ["final"], body=body),
                node("ReduceMax", ["final"], ["y"], keepdims=1),
            ],
            [
                constant("one", TensorProto.FLOAT, [1, 1], [1]),
                constant("square", TensorProto.INT64, [2], [64, 64]),
                constant("row", TensorProto.INT64, [2], [1, 64]),
                constant("single", TensorProto.INT64, [1], [1]),
                constant("go", TensorProto.BOOL, [], [True]),
            ],
        ),
        manifest=manifest(
            "Answers 1 after n turns of a loop, each a product of matrices.",
            [feature("n", INT64, description="turns")],
            [prediction("y")],
            batchable=False,
        ),
        golden=golden(({"n": integer(3)}, {"y": 1}, {})),
    )
    write_package(
        root / "fail" / "1",
        model=graph(
            [tensor("index", TensorProto.INT64, "N", 1)],
            [tensor("y", TensorProto.FLOAT, "N", 1)],
            [node("Gather", ["table", "index"], ["y"])],
            [constant("table", TensorProto.FLOAT, [4], [10, 20, 30, 40])],
        ),
        manifest=manifest(
            "A table of four; another index makes ONNX Runtime fail.",
            [feature("index", INT64, description="0 to 3")],
            [prediction("y")],
        ),
        golden=golden(({"index": integer(1)}, {"y": 20}, {})),
    )
    write_package(
        root / "big" / "1",
        model=graph(
            [tensor("n", TensorProto.INT64, 1, 1)],
            [tensor("ones", TensorProto.FLOAT, 1, "n")],
            [
                node("Reshape", ["n", "single"], ["count"]),
                node("Concat", ["single", "count"], ["shape"], axis=0),
                node("Expand", ["one", "shape"], ["ones"]),
            ],
            [constant("one", TensorProto.FLOAT, [1, 1], [1]), constant("single", TensorProto.INT64, [1], [1])],
        ),
        manifest=manifest("Answers n ones.", [feature("n", INT64)], [], [output("ones", FLOAT, [-1])], batchable=False),
        golden=golden(({"n": integer(2)}, {}, {"ones": numbers(1, 1)})),
    )


def write_tensors(root: Path) -> None:
    """tensor: kind TENSOR with a manifest; bare, bare-kinds, bare-whole, bare-open: model.onnx alone."""
    pair = b"\x00\x00\x80\x3f\x00\x00\x00\x40"  # 1.0 and 2.0 as float32
    write_package(
        root / "tensor" / "1",
        model=pair_graph(),
        manifest=manifest("x and its sum, as tensors.", [], batchable=True, kind=model_pb2.MODEL_KIND_TENSOR),
        golden=golden_pb2.GoldenSet(
            cases=[
                golden_pb2.GoldenCase(
                    tensors=model_inference_pb2.PredictionRequest(
                        inputs={"x": tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=[1, 2], data=pair)}
                    ),
                    outputs=model_inference_pb2.PredictionResponse(
                        outputs={"same": tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=[1, 2], data=pair)}
                    ),
                )
            ]
        ),
    )
    write_bare(root / "bare" / "1", pair_graph())
    write_bare(
        root / "bare-kinds" / "1",
        graph(
            [
                tensor("row", TensorProto.FLOAT, "N", 3),
                tensor("fixed", TensorProto.FLOAT, 3),
                tensor("one", TensorProto.INT32, 1, 2),
                tensor("scalar", TensorProto.BOOL),
                tensor("words", TensorProto.STRING, "N"),
                tensor("any", TensorProto.DOUBLE, "N", "L"),
                tensor("half", TensorProto.FLOAT16, "N"),
            ],
            [
                tensor("row_out", TensorProto.FLOAT, "N", 3),
                tensor("one_out", TensorProto.INT32, 1, 2),
                tensor("words_out", TensorProto.STRING, "N"),
                tensor("half_out", TensorProto.FLOAT, "N"),
            ],
            [
                node("Identity", ["row"], ["row_out"]),
                node("Identity", ["one"], ["one_out"]),
                node("Identity", ["words"], ["words_out"]),
                node("Cast", ["half"], ["half_out"], to=TensorProto.FLOAT),
            ],
        ),
    )
    write_bare(
        root / "bare-whole" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, 3)],
            [
                tensor("same", TensorProto.FLOAT, 3),
                tensor("row", TensorProto.FLOAT, 1, 3),
                tensor("total", TensorProto.FLOAT),
            ],
            [
                node("Identity", ["x"], ["same"]),
                node("Unsqueeze", ["x", "axes"], ["row"]),
                node("ReduceSum", ["x", "axes"], ["total"], keepdims=0),
            ],
            [constant("axes", TensorProto.INT64, [1], [0])],
        ),
    )
    write_bare(
        root / "bare-open" / "1",
        graph(
            [tensor("x", TensorProto.FLOAT, "N", "H", "W")],
            [tensor("y", TensorProto.FLOAT, "N", "H", "W")],
            [node("Identity", ["x"], ["y"])],
        ),
    )


def pair_graph() -> onnx.ModelProto:
    """Two floats in; the same, and their sum out."""
    return graph(
        [tensor("x", TensorProto.FLOAT, "N", 2)],
        [tensor("same", TensorProto.FLOAT, "N", 2), tensor("sum", TensorProto.FLOAT, "N")],
        [node("Identity", ["x"], ["same"]), node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0)],
        [constant("axes", TensorProto.INT64, [1], [1])],
    )


def write_bare(directory: Path, model: onnx.ModelProto) -> None:
    """A version that is model.onnx alone."""
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def build(root: Path) -> None:
    """Writes all fixtures below `root`, which must not exist."""
    from admission_fixtures import write_admission_fixtures
    from broken_fixtures import write_broken
    from generator_fixtures import write_generators
    from tensor_fixtures import write_tensor_fixtures

    root.mkdir(parents=True)
    for write in (
        write_identity,
        write_types,
        write_columns,
        write_narrow,
        write_defaults,
        write_names,
        write_open,
        write_numbers,
        write_strings,
        write_classifier,
        write_versions,
        write_batches,
        write_behaviour,
        write_tensors,
        write_tensor_fixtures,
        write_generators,
        write_broken,
        write_admission_fixtures,
    ):
        write(root)


def main() -> None:
    """Replaces conformance/fixtures, or writes the directory given."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES
    if root == FIXTURES and root.exists():
        shutil.rmtree(root)
    build(root)


if __name__ == "__main__":
    main()
