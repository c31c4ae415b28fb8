# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import skl2onnx
from click.testing import CliRunner, Result
from concord_export import Wrapping, read_package, verify_package, wrap_onnx
from concord_export.__main__ import main
from concord_export.errors import ConversionError, PackageExistsError, SourceError
from concord_proto.inference.v1 import model_pb2
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

Values = list[onnx.ValueInfoProto]


def graph(nodes: list[onnx.NodeProto], inputs: Values, outputs: Values, constants: Any = ()) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def value(name: str, kind: int, *shape: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def doubled(kind: int = TensorProto.FLOAT, *shape: int | str | None) -> bytes:
    shape = shape or ("rows", 3)
    model = graph([helper.make_node("Add", ["x", "x"], ["y"])], [value("x", kind, *shape)], [value("y", kind, *shape)])
    return bytes(model.SerializeToString())


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "kind",
    [
        TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8,
        TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16,
        TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL, TensorProto.STRING,
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [("rows", 3), ("rows",), (2, 2), (), ("rows", "length", 2)])
@pytest.mark.parametrize("what", ["tensor", "tabular"])
def test_every_dtype_and_shape(tmp_path: Path, kind: int, shape: tuple[int | str, ...], what: str) -> None:
    model = graph(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", kind, *shape)], [value("y", kind, *shape)]
    ).SerializeToString()
    wrapped = wrap_onnx(model, tmp_path / "m" / "1", Wrapping(kind=what))
    assert (tmp_path / "m" / "1" / "model.onnx").read_bytes() == model
    assert wrapped.manifest.batching.batchable == (bool(shape) and shape[0] == "rows")
    verified = verify_package(tmp_path / "m" / "1")
    assert verified.golden_cases >= 3
    assert verified.max_absolute_error == 0
    if what == "tensor":
        case = verified.package.golden.cases[0]
        assert list(case.tensors.inputs["x"].shape) == [
            1 if axis == "rows" else 8 if isinstance(axis, str) else axis for axis in shape
        ]
    else:
        feature = verified.package.manifest.features[0].feature
        assert list(feature.shape) == {("rows", 3): [3], (2, 2): [2, 2], ("rows", "length", 2): [-1, 2]}.get(shape, [])


def test_columns_and_classes_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(doubled())
    done = call(
        "wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--kind", "tabular", "--columns", "x=a,b,c",
        "--classes", "y=one,two,three", "--description", "Twice as much.",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "may run requests together: 2 to 256 rows together gave the bits that each gave alone" in done.output
    manifest = read_package(tmp_path / "models" / "m" / "1").manifest
    assert [(item.feature.name, item.column) for item in manifest.features] == [("a", 0), ("b", 1), ("c", 2)]
    assert [(item.prediction.name, item.index) for item in manifest.predictions] == [
        ("one", 0),
        ("two", 1),
        ("three", 2),
    ]
    assert manifest.description == "Twice as much."


def test_a_manifest_of_the_authors_own(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(doubled())
    (tmp_path / "m.yaml").write_text(
        """
        kind: MODEL_KIND_TABULAR
        features:
          - {feature: {name: pair, type: FEATURE_TYPE_FLOAT, shape: [2], required: true}, input: x, column: 0}
          - {feature: {name: last, type: FEATURE_TYPE_FLOAT, default_value: {float_value: 7}}, input: x, column: 2}
        predictions:
          - {prediction: {name: sum, description: Twice the last.}, output: y, index: 2}
        batching: {max_batch_rows: 5}
        quality: [{name: r2, value: 0.5, rows: 10}]
        """
    )
    done = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--manifest", tmp_path / "m.yaml")
    assert done.exit_code == 0, done.output
    package = read_package(tmp_path / "models" / "m" / "1")
    assert [item.feature.name for item in package.manifest.features] == ["pair", "last"]
    assert package.manifest.batching.max_batch_rows == 5
    assert package.manifest.quality[0].rows == 10
    case = package.golden.cases[0]
    last = case.features.features["last"].float_value
    assert case.predictions.predictions["sum"] == 2 * last


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected fields of a manifest, got list"),
        ("a: [", "m.yaml"),
        ("files: []", "'files' is none of kind, description"),
        ("kind: TABLE", "kind"),
        ("features: [{input: x}]", "feature 0 has no name"),
        (
            "{kind: MODEL_KIND_TABULAR, features: [{feature: {name: a, type: FEATURE_TYPE_FLOAT, required: true}, "
            "input: x}], predictions: [{prediction: {name: p}, output: y}]}",
            "not each of its 3 columns is bound once",
        ),
    ],
)
def test_a_manifest_that_does_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(doubled())
    (tmp_path / "m.yaml").write_text(text)
    done = call(
        "wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--kind", "tabular", "--manifest", tmp_path / "m.yaml"
    )
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / "models").exists()


def learnt_places() -> bytes:
    """Adds to each value what it has learnt of its place, of which there are four."""
    return graph(
        [
            helper.make_node("Shape", ["x"], ["length"], start=1, end=2),
            helper.make_node("Slice", ["table", "zero", "length"], ["places"]),
            helper.make_node("Add", ["x", "places"], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, "rows", "length")],
        [value("y", TensorProto.FLOAT, "rows", "length")],
        [
            numpy_helper.from_array(np.arange(4, dtype=np.float32), "table"),
            numpy_helper.from_array(np.array([0]), "zero"),
        ],
    ).SerializeToString()


@pytest.mark.parametrize("kind", ["tensor", "tabular"])
def test_an_axis_with_a_limit(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.onnx").write_bytes(learnt_places())
    wrap = ("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--kind", kind)
    assert "It was tried on inputs of the shapes {'x': [1, 8]}" in call(*wrap).stderr
    for axis in ("length", "x.1"):
        made = call(*wrap, "--max-length", f"{axis}=4")
        assert made.exit_code == 0, made.output
    package = read_package(tmp_path / "models" / "m" / "2")
    [limit] = package.manifest.axis_limits
    assert (limit.input, limit.axis, limit.max_length) == ("x", 1, 4)
    assert call("verify", package.directory).exit_code == 0
    assert "Axis 1 of x: at most 4" in call("inspect", package.directory).stdout
    for option, message in (
        ("y.1=4", "no input has an open axis 'y.1'; there are ['length', 'rows', 'x.0', 'x.1']"),
        ("length=0", 'axis_limits: input "x": expected a max_length from 1 to 2147483648, got 0'),
        ("length=few", "expected a length, got few"),
    ):
        refused = call(*wrap, "--length", "length=4", "--max-length", option)
        assert refused.exit_code != 0
        assert message in refused.stderr
    (tmp_path / "m.yaml").write_text("axis_limits: [{input: x, axis: 2, max_length: 4}]")
    refused = call(*wrap, "--length", "length=4", "--manifest", tmp_path / "m.yaml")
    assert "axis_limits: input \"x\": expected an open axis, got axis 2 of ['rows', 'length']" in refused.stderr


def test_inputs_that_are_given(tmp_path: Path) -> None:
    model = graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        [value("ids", TensorProto.INT64, "rows", "length")],
        [value("y", TensorProto.FLOAT, "rows", "length", 2)],
        [numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "table")],
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    failed = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m")
    assert failed.exit_code == 1
    assert "It was tried on inputs of the shapes {'ids': [1, 8]}" in failed.stderr
    made = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--range", "ids=0:2", "--length", "length=4")
    assert made.exit_code == 0, made.output
    assert list(read_package(tmp_path / "models" / "m" / "1").golden.cases[0].tensors.inputs["ids"].shape) == [1, 4]
    for name, ids in (("a", [[2, 1]]), ("b", [[0, 2]])):
        np.savez(tmp_path / f"{name}.npz", ids=np.array(ids))
    given = call(
        "wrap",
        tmp_path / "m.onnx",
        tmp_path / "models" / "m",
        "--inputs",
        tmp_path / "a.npz",
        "--inputs",
        tmp_path / "b.npz",
    )
    assert given.exit_code == 0, given.output
    cases = read_package(tmp_path / "models" / "m" / "2").golden.cases
    assert np.frombuffer(cases[0].tensors.inputs["ids"].data, "<i8").tolist() == [2, 1]
    assert np.frombuffer(cases[0].outputs.outputs["y"].data, "<f4").tolist() == [4, 5, 2, 3]
    np.savez(tmp_path / "c.npz", ids=np.array([[1]], np.int32))
    np.savez(tmp_path / "d.npz", words=np.array([["a"]]))
    (tmp_path / "e.npz").write_text("no arrays")
    for name, message in (
        ("c", "expected int64, got int32"),
        ("d", "expected ['ids'], got ['words']"),
        ("e", "no .npz"),
    ):
        wrong = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--inputs", tmp_path / f"{name}.npz")
        assert wrong.exit_code == 1
        assert message in wrong.stderr


def test_rows_with_the_sources_answers(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(doubled())
    rows = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows, y=rows * 2)
    done = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--rows", tmp_path / "rows.npz")
    assert done.exit_code == 0, done.output
    assert "parity: 30 rows, largest difference 0 (0 ULP)" in done.output
    package = read_package(tmp_path / "models" / "m" / "1")
    assert package.manifest.parity.rows == 30
    assert package.manifest.parity.batched_equals_single
    # Sixteen of the rows alone, and some together.
    assert len(package.golden.cases) == 17
    for arrays, message in (
        ({"x": rows, "y": rows * 2.1}, "does not answer like its source on"),
        ({"x": rows, "z": rows}, "the graph has no output 'z'; it has ['y']"),
        ({"x": rows, "y": (rows * 2).astype(np.float64)}, "expected float32, got float64"),
        ({"x": rows, "y": rows[:1]}, "arrays of the same number of rows"),
        ({"y": rows}, "one for each input"),
    ):
        np.savez(tmp_path / "rows.npz", **arrays)
        wrong = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--rows", tmp_path / "rows.npz")
        assert wrong.exit_code == 1
        assert message in wrong.stderr
    both = call(
        "wrap",
        tmp_path / "m.onnx",
        tmp_path / "m",
        *["--rows", tmp_path / "rows.npz", "--inputs"],
        tmp_path / "rows.npz",
    )
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr


def test_what_keras_writes(tmp_path: Path) -> None:
    """tests/data/keras holds an export that Keras made, and what the model itself answered."""
    data = Path(__file__).parent / "data" / "keras"
    done = call(
        "wrap", data / "model.onnx", tmp_path / "models" / "k", "--kind", "tabular", "--rows", data / "rows.npz"
    )
    assert done.exit_code == 0, done.output
    manifest = verify_package(tmp_path / "models" / "k" / "1").package.manifest
    assert manifest.parity.rows == 40
    assert 0 < manifest.parity.max_absolute_error < 1e-6
    assert [(item.feature.name, list(item.feature.shape)) for item in manifest.features] == [("pixels", [64])]


def test_zip_maps_are_taken_off(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    labels = np.where(rows[:, 0] > 0, "yes", "no")
    model = skl2onnx.to_onnx(LogisticRegression().fit(rows, labels), rows[:1], target_opset={"": 21, "ai.onnx.ml": 3})
    assert any(node.op_type == "ZipMap" for node in model.graph.node)
    wrapped = wrap_onnx(model.SerializeToString(), tmp_path / "m" / "1", Wrapping(kind="tabular"))
    assert [item.prediction.name for item in wrapped.manifest.predictions] == ["no", "yes"]
    assert [item.output.name for item in wrapped.manifest.outputs] == ["output_label"]
    assert "was a list of maps (ZipMap)" in wrapped.notes[0]
    assert verify_package(wrapped.directory).golden_cases == 3


def test_external_data_is_packed(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", TensorProto.FLOAT, "rows", 3)],
        [value("y", TensorProto.FLOAT, "rows", 3)],
        [weights],
    )
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    done = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m")
    assert done.exit_code == 0, done.output
    package = verify_package(tmp_path / "models" / "m" / "1").package
    assert [file.name for file in package.manifest.files] == ["golden.binpb", "model.onnx", "w.data"]
    with pytest.raises(SourceError, match="hand it over as a file"):
        wrap_onnx((tmp_path / "m.onnx").read_bytes(), tmp_path / "n" / "1")
    (tmp_path / "w.data").unlink()
    gone = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m")
    assert gone.exit_code == 1
    assert "w.data: is no file" in gone.stderr


def test_rows_that_depend_on_each_other(tmp_path: Path) -> None:
    mean = graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])],
        [value("x", TensorProto.FLOAT, "rows", 3)],
        [value("y", TensorProto.FLOAT, "rows", 3)],
        [numpy_helper.from_array(np.array([0]), "axes")],
    ).SerializeToString()
    for together in ("exact", "within-limits"):
        wrapped = wrap_onnx(mean, tmp_path / together / "1", Wrapping(together=together))
        assert not wrapped.manifest.batching.batchable
        assert "output 'y' of 2 rows together is not that of each alone" in wrapped.notes[-1]
    wrapped = wrap_onnx(doubled(), tmp_path / "never" / "1", Wrapping(together="never"))
    assert not wrapped.manifest.batching.batchable
    assert wrap_onnx(doubled(TensorProto.FLOAT, 1, 3), tmp_path / "one" / "1").notes[-1].endswith("no open axis 0")


def test_rows_that_differ_in_their_last_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concord_export.runtime import Session

    real = Session.run

    def run(self: Session, inputs: Any, outputs: Any = None) -> Any:
        given = real(self, inputs, outputs)
        if len(inputs["x"]) > 1:
            given["y"] = np.nextafter(given["y"], np.float32(np.inf))
        return given

    monkeypatch.setattr(Session, "run", run)
    exact = wrap_onnx(doubled(), tmp_path / "m" / "1")
    assert not exact.manifest.batching.batchable
    assert "--together within-limits allows it" in exact.notes[-1]
    assert wrap_onnx(doubled(), tmp_path / "m" / "2", Wrapping(together="within-limits")).manifest.batching.batchable


@pytest.mark.parametrize(
    ("model", "wrapping", "error", "message"),
    [
        (b"no graph", Wrapping(), SourceError, "expected an ONNX model, got 8 bytes"),
        (b"", Wrapping(), SourceError, "at least one node"),
        (doubled(), Wrapping(kind="table"), SourceError, "expected tensor or tabular"),
        (doubled(), Wrapping(columns={"x": ["a"]}), SourceError, "for kind tabular"),
        (doubled(), Wrapping("tabular", columns={"z": ["a"]}), SourceError, "no input 'z'; it has \\['x'\\]"),
        (doubled(), Wrapping("tabular", columns={"x": ["a"]}), SourceError, "rows of shape \\[3\\], not of 1 columns"),
        (doubled(), Wrapping("tabular", classes={"y": ["a"]}), SourceError, "rows of shape \\[3\\], not of 1 numbers"),
        (
            doubled(TensorProto.FLOAT, "rows", "a", "b"),
            Wrapping("tabular"),
            SourceError,
            "leaves 2 axes open.* kind tensor",
        ),
        (doubled(TensorProto.FLOAT8E4M3FN), Wrapping(), ConversionError, "servers would refuse the graph"),
        (
            graph(
                [helper.make_node("RandomUniformLike", ["x"], ["y"])],
                [value("x", TensorProto.FLOAT, "rows")],
                [value("y", TensorProto.FLOAT, "rows")],
            ).SerializeToString(),
            Wrapping(),
            ConversionError,
            "the graph answers at random",
        ),
        (
            graph(
                [helper.make_node("Div", ["x", "x"], ["y"])],
                [value("x", TensorProto.INT64, "rows")],
                [value("y", TensorProto.INT64, "rows")],
            ).SerializeToString(),
            Wrapping(),
            ConversionError,
            "servers would refuse the graph: .*Div",
        ),
    ],
    ids=lambda item: item[:40] if isinstance(item, str) else "",
)
def test_what_cannot_be_wrapped_says_why(
    tmp_path: Path, model: bytes, wrapping: Wrapping, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        wrap_onnx(model, tmp_path / "m" / "1", wrapping)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "x"], "expected NAME=VALUE, got x"),
        (["--length", "rows=many"], "expected a length, got many"),
        (["--range", "x=1"], "expected LOW:HIGH, got 1"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(doubled())
    result = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_integer_division_by_request(tmp_path: Path) -> None:
    divided = graph(
        [helper.make_node("Div", ["x", "y"], ["z"])],
        [value("x", TensorProto.INT64, "rows"), value("y", TensorProto.INT64, "rows")],
        [value("z", TensorProto.INT64, "rows")],
    )
    (tmp_path / "m.onnx").write_bytes(divided.SerializeToString())
    arguments = ["wrap", tmp_path / "m.onnx", tmp_path / "models" / "m", "--range", "y=1:9"]
    assert "allow_integer_division admits it" in call(*arguments).stderr
    assert call(*arguments, "--allow-integer-division").exit_code == 0
    assert verify_package(tmp_path / "models" / "m" / "1").golden_cases == 4


def test_names_that_a_terminal_would_obey(tmp_path: Path) -> None:
    named = graph(
        [helper.make_node("Identity", ["in/0:ü"], ["out\x1b]0;\n"])],
        [value("in/0:ü", TensorProto.FLOAT, "rows")],
        [value("out\x1b]0;\n", TensorProto.FLOAT, "rows")],
    )
    (tmp_path / "m.onnx").write_bytes(named.SerializeToString())
    shown = call("wrap", tmp_path / "m.onnx", tmp_path / "models" / "m").stdout
    assert "  in  in/0:ü: float ['rows']\n  out out\\x1b]0;\\n: float ['rows']\n" in shown


def test_a_version_that_is_there(tmp_path: Path) -> None:
    wrap_onnx(doubled(), tmp_path / "m" / "1")
    with pytest.raises(PackageExistsError):
        wrap_onnx(doubled(), tmp_path / "m" / "1")
    wrap_onnx(doubled(TensorProto.INT32), tmp_path / "m" / "1", replace_existing=True)
    document = json.loads(call("inspect", tmp_path / "m" / "1", "--json").output)
    assert document["manifest"]["kind"] == model_pb2.ModelKind.Name(model_pb2.MODEL_KIND_TENSOR)
    assert "parity" not in document["manifest"]
