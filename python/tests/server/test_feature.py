# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from concord_server.fault import Fault, Reason
from concord_server.feature import BindError, EncodeError, Plan, from_graph, from_manifest
from concord_server.tensor import DType, Spec, Tensor
from hypothesis import given
from hypothesis import strategies as st

FeatureValue = inference_service_pb2.FeatureValue
PredictResponse = inference_service_pb2.PredictResponse

NARROW = Spec("narrow", DType.INT8, (-1,))
# Every type as a scalar and as an array, and one of open length.
EVERY = [
    Spec("f", DType.FLOAT, (-1, 1)),
    Spec("d", DType.DOUBLE, (-1,)),
    Spec("i", DType.UINT8, (-1,)),
    Spec("b", DType.BOOL, (-1,)),
    Spec("s", DType.STRING, (-1,)),
    Spec("fs", DType.FLOAT16, (-1, 3)),
    Spec("ds", DType.DOUBLE, (1, 2)),
    Spec("is", DType.INT16, (5,)),
    Spec("bs", DType.BOOL, (-1, 2)),
    Spec("ss", DType.STRING, (-1, 2)),
    Spec("open", DType.FLOAT, (-1, -1, 2)),
]
OUT = [Spec("y", DType.FLOAT, (-1, 2))]


def value_of(kit: SimpleNamespace, given: Any) -> FeatureValue:
    made = FeatureValue()
    kit.set_value(made, given)
    return made


def decode(kit: SimpleNamespace, plan: Plan, **features: Any) -> list[Tensor]:
    return plan.decode(kit.request(**features).features)


def test_every_type_reaches_its_tensor(kit: SimpleNamespace) -> None:
    plan = from_graph(EVERY, OUT)
    tensors = decode(
        kit,
        plan,
        f=[1.5],
        d=np.float64(0.1),
        i=255,
        b=True,
        s="é",
        fs=[1.0, 65520.0, -0.0],
        ds=[0.5, 0.25],
        **{"is": [1, -2, 3, -32768, 32767]},
        bs=[0, 1],
        ss=["a", ""],
        open=[1.0, 2.0, 3.0, 4.0],
    )
    assert [tensor.dtype for tensor in tensors] == [spec.dtype for spec in EVERY]
    got = {spec.name: tensor.array for spec, tensor in zip(EVERY, tensors, strict=True)}
    assert {name: array.shape for name, array in got.items()} == {
        "f": (1, 1), "d": (1,), "i": (1,), "b": (1,), "s": (1,), "fs": (1, 3), "ds": (1, 2), "is": (5,), "bs": (1, 2),
        "ss": (1, 2), "open": (1, 2, 2),
    }  # fmt: skip
    assert got["fs"].tolist() == [[0x3C00, 0x7C00, 0x8000]]
    assert got["d"].tolist() == [0.1]
    assert got["is"].tolist() == [1, -2, 3, -32768, 32767]
    assert got["bs"].tolist() == [[False, True]]
    assert got["ss"].tolist() == [[b"a", b""]]


GOOD: dict[str, Any] = {
    "f": [1.5], "d": 1.5, "i": 1, "b": True, "s": "", "fs": [1.0] * 3, "ds": [1.0] * 2, "is": [1] * 5, "bs": [0, 1],
    "ss": ["", ""], "open": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "reason", "message"),
    [
        ("f", 1.5, Reason.FEATURE_TYPE_MISMATCH, "expected 1 floats, got float_value"),
        ("d", "x", Reason.FEATURE_TYPE_MISMATCH, "expected a double, got string_value"),
        ("d", None, Reason.FEATURE_TYPE_MISMATCH, "expected a double, got no value"),
        ("i", 1.0, Reason.FEATURE_TYPE_MISMATCH, "expected an integer, got float_value"),
        ("i", True, Reason.FEATURE_TYPE_MISMATCH, "expected an integer, got bool_value"),
        ("i", 256, Reason.FEATURE_OUT_OF_RANGE, "expected an integer from 0 to 255, got 256"),
        ("i", -1, Reason.FEATURE_OUT_OF_RANGE, "expected an integer from 0 to 255, got -1"),
        ("b", 1, Reason.FEATURE_TYPE_MISMATCH, "expected a bool, got int64_value"),
        ("s", [""], Reason.FEATURE_TYPE_MISMATCH, "expected a string, got string_array"),
        ("fs", [1.0] * 2, Reason.FEATURE_SHAPE_MISMATCH, "expected 3 values, got 2"),
        ("fs", [1, 2, 3], Reason.FEATURE_TYPE_MISMATCH, "expected 3 floats, got int64_array"),
        ("is", [1, 2, 3, 4, 32768], Reason.FEATURE_OUT_OF_RANGE, "expected an integer from -32768 to 32767, got 32768"),
        ("bs", [0, 2], Reason.FEATURE_OUT_OF_RANGE, "expected an integer from 0 to 1, got 2"),
        ("open", [1.0], Reason.FEATURE_SHAPE_MISMATCH, "expected a multiple of 2 values, got 1"),
        ("open", 1.0, Reason.FEATURE_TYPE_MISMATCH, "expected floats, got float_value"),
    ],
)
def test_bad_values(kit: SimpleNamespace, name: str, given: Any, reason: Reason, message: str) -> None:
    plan = from_graph(EVERY, OUT)
    with pytest.raises(Fault) as caught:
        decode(kit, plan, **{**GOOD, name: given})
    (violation,) = caught.value.violations
    assert (caught.value.reason, caught.value.message) == (reason, f'feature "{name}": {message}')
    assert violation.field == f'features["{name}"]'


def test_violations_come_in_the_manifests_order_then_unknown_names_in_byte_order(kit: SimpleNamespace) -> None:
    plan = from_manifest(kit.parse_manifest(kit.manifest()), [Spec("x", DType.FLOAT, (-1, 2))], OUT)
    with pytest.raises(Fault) as caught:
        decode(kit, plan, z=1.0, é=1.0, B=1.0, b="x")
    assert caught.value.message == 'feature "a": expected a float, got nothing (and 4 more)'
    assert [v.field for v in caught.value.violations] == [f'features["{name}"]' for name in ("a", "b", "B", "z", "é")]
    assert caught.value.violations[-1].message == 'feature "é": the model has no such feature'


def test_a_feature_that_is_left_out_takes_its_default(kit: SimpleNamespace) -> None:
    document = kit.manifest()
    document["features"][1]["feature"] = {
        "name": "b",
        "type": "FEATURE_TYPE_FLOAT",
        "defaultValue": {"floatValue": 7.5},
    }
    plan = from_manifest(kit.parse_manifest(document), [Spec("x", DType.FLOAT, (-1, 2))], OUT)
    assert decode(kit, plan, a=1.0)[0].array.tolist() == [[1.0, 7.5]]
    assert decode(kit, plan, a=1.0, b=2.0)[0].array.tolist() == [[1.0, 2.0]]


SIGNALLING = 0x7F800001


def test_a_signalling_nan_reaches_its_tensor_bit_for_bit() -> None:
    scalar = FeatureValue.FromString(b"\x0d" + struct.pack("<I", SIGNALLING))
    array = FeatureValue.FromString(b"\x1a\x0a\x0a\x08" + struct.pack("<2I", SIGNALLING, 0xFFC12345))
    plan = from_graph([Spec("x", DType.FLOAT, (-1,)), Spec("xs", DType.FLOAT, (-1, 2))], OUT)
    one, two = plan.decode({"x": scalar, "xs": array})
    assert one.array.view(np.uint32).tolist() == [SIGNALLING]
    assert two.array.view(np.uint32).tolist() == [[SIGNALLING, 0xFFC12345]]


def test_unknown_fields_in_an_array_do_no_harm() -> None:
    # Field 15 of FloatArray, which a newer client may know.
    array = FeatureValue.FromString(b"\x1a\x0c\x78\x05\x0a\x08" + struct.pack("<2f", 1.5, 2.5))
    plan = from_graph([Spec("xs", DType.FLOAT, (-1, 2))], OUT)
    assert plan.decode({"xs": array})[0].array.tolist() == [[1.5, 2.5]]


@given(st.dictionaries(st.sampled_from([spec.name for spec in EVERY]), st.binary(max_size=20)))
def test_whatever_the_wire_holds_is_decoded_or_refused(data: dict[str, bytes]) -> None:
    plan = from_graph(EVERY, OUT)
    features = {}
    for name, raw in data.items():
        value = FeatureValue()
        try:
            value.ParseFromString(raw)
        except Exception:  # protobuf's own business
            continue
        features[name] = value
    try:
        decoded: Any = plan.decode(features)
    except Fault as fault:
        decoded = fault.violations
    assert 1 <= len(decoded) <= 16


X = Spec("x", DType.FLOAT, (-1, 2))


def feature(name: str = "a", kind: str = "FLOAT", column: int = 0, into: str = "x", **more: Any) -> dict[str, Any]:
    public = {"name": name, "type": f"FEATURE_TYPE_{kind}", "required": True, **more}
    return {"feature": public, "input": into, "column": column}


@pytest.mark.parametrize(
    ("features", "spec", "message"),
    [
        ([], X, 'input "x": no feature is bound to it'),
        ([feature()], X, 'input "x": expected 2 columns, got features for 1'),
        ([feature(), feature("b")], X, 'input "x": column 0 is bound twice'),
        ([feature(), feature("b", column=2)], X, 'input "x": column 1 is bound to no feature'),
        (
            [feature(), feature("b", column=1), feature("c", column=2)],
            X,
            'input "x": expected 2 columns, got features for 3',
        ),
        ([feature(), feature("a", column=1)], X, 'feature "a": bound twice'),
        ([feature(""), feature("b", column=1)], X, 'feature "": expected a name, got nothing'),
        ([feature(into="z")], X, 'feature "a": the graph has no input "z"'),
        ([feature(kind="STRING")], X, 'feature "a": a STRING does not fit input "x", float'),
        ([feature(kind="UNSPECIFIED")], X, 'feature "a": a UNSPECIFIED does not fit input "x", float'),
        ([feature(kind="INT64")], X, 'feature "a": a INT64 does not fit input "x", float'),
        ([feature(column=-1), feature("b", column=1)], X, 'feature "a": expected a column of at least 0, got -1'),
        ([feature(shape=[-1, -1])], X, 'feature "a": expected at most one open axis, got shape [-1, -1]'),
        ([feature(shape=[-2])], X, 'feature "a": expected lengths of at least 0 or -1, got shape [-2]'),
        (
            [feature(shape=[1 << 20, 1 << 20])],
            X,
            'feature "a": expected at most 2147483648 elements, got shape [1048576, 1048576]',
        ),
        ([feature(shape=[-1])], X, 'input "x": feature "a" of open shape must fill it alone'),
        (
            [feature(shape=[3])],
            Spec("x", DType.FLOAT, (-1, 2, 2)),
            'input "x": expected one feature that fills it or the columns of a row, got 1 features for float [-1, 2, 2]',  # noqa: E501
        ),
        (
            [feature(required=False)],
            Spec("x", DType.FLOAT, (-1,)),
            'feature "a": it is not required and has no default',
        ),
        (
            [feature(defaultValue={"floatValue": 1})],
            Spec("x", DType.FLOAT, (-1,)),
            'feature "a": it is required and has a default',
        ),
        (
            [feature(required=False, defaultValue={"stringValue": "x"})],
            Spec("x", DType.FLOAT, (-1,)),
            'feature "a": default: feature "a": expected a float, got string_value',
        ),
        (
            [feature(kind="INT64", required=False, defaultValue={"int64Value": "300"})],
            Spec("x", DType.INT8, (-1,)),
            'feature "a": default: feature "a": expected an integer from -128 to 127, got 300',
        ),
    ],
)
def test_features_that_do_not_fit_the_graph(kit: SimpleNamespace, features: Any, spec: Spec, message: str) -> None:
    with pytest.raises(BindError) as caught:
        from_manifest(kit.parse_manifest(kit.manifest(features=features)), [spec], OUT)
    assert str(caught.value) == message


def prediction(**more: Any) -> dict[str, Any]:
    return {"predictions": [{"prediction": {"name": "p"}, "output": "y", **more}], "outputs": []}


def output(kind: str = "FLOAT", index: int = 0, onnx: str = "y", name: str = "o", **more: Any) -> dict[str, Any]:
    public = {"name": name, "type": f"FEATURE_TYPE_{kind}", **more}
    return {"predictions": [], "outputs": [{"output": public, "onnxOutput": onnx, "index": index}]}


@pytest.mark.parametrize(
    ("changes", "spec", "message"),
    [
        ({"predictions": [], "outputs": []}, OUT[0], "expected at least one prediction or output, got none"),
        (prediction(output="z"), OUT[0], 'prediction "p": the graph has no output "z"'),
        (prediction(index=2), OUT[0], 'prediction "p": index 2 is outside output "y", which has 2 in a row'),
        (prediction(index=-1), OUT[0], 'prediction "p": expected an index of at least 0, got -1'),
        (prediction(prediction={}), OUT[0], 'prediction "": expected a name, got nothing'),
        (
            prediction(),
            Spec("y", DType.STRING, (-1,)),
            'prediction "p": expected a numeric output, got "y" string [-1]',
        ),
        (
            prediction(),
            Spec("y", DType.BOOL, (-1,)),
            'prediction "p": expected a numeric output, got "y" bool [-1]',
        ),
        ({"predictions": prediction()["predictions"] * 2}, OUT[0], 'prediction "p": bound twice'),
        ({"outputs": output(shape=[2])["outputs"] * 2}, OUT[0], 'output "o": bound twice'),
        (output(kind="INT64"), OUT[0], 'output "o": expected type FLOAT for output "y", float, got INT64'),
        (output(index=2), OUT[0], 'output "o": index 2 is outside output "y", which has 2 in a row'),
        (output(index=1, shape=[2]), OUT[0], 'output "o": expected index 0 for an array, got 1'),
        (output(shape=[-2]), OUT[0], 'output "o": expected lengths of at least 0 or -1, got shape [-2]'),
        (output(shape=[3]), OUT[0], 'output "o": expected 2 elements as output "y" has in a row, got shape [3]'),
        (output(name=""), OUT[0], 'output "": expected a name, got nothing'),
    ],
)
def test_answers_that_do_not_fit_the_graph(kit: SimpleNamespace, changes: Any, spec: Spec, message: str) -> None:
    with pytest.raises(BindError) as caught:
        from_manifest(kit.parse_manifest(kit.manifest(**changes)), [X], [spec])
    assert str(caught.value) == message


def test_an_array_of_no_elements(kit: SimpleNamespace) -> None:
    nothing = Spec("y", DType.FLOAT, (-1, 0))
    plan = from_manifest(kit.parse_manifest(kit.manifest(**output(shape=[0]))), [X], [nothing])
    assert list(plan.public_outputs[0].shape) == [0]
    with pytest.raises(BindError) as caught:
        from_manifest(kit.parse_manifest(kit.manifest(**output())), [X], [nothing])
    assert str(caught.value) == 'output "o": index 0 is outside output "y", which has 0 in a row'


def test_an_array_may_be_columns_or_fill_an_input_of_any_rank(kit: SimpleNamespace) -> None:
    wide = Spec("x", DType.FLOAT, (-1, -1))
    features = [feature("pair", shape=[2], column=1), feature("one")]
    plan = from_manifest(kit.parse_manifest(kit.manifest(features=features)), [wide], OUT)
    assert decode(kit, plan, pair=[2.0, 3.0], one=1.0)[0].array.tolist() == [[1.0, 2.0, 3.0]]
    flat = [feature("pixels", shape=[4])]
    square = Spec("x", DType.FLOAT, (-1, 2, 2))
    plan = from_manifest(kit.parse_manifest(kit.manifest(features=flat)), [square], OUT)
    assert decode(kit, plan, pixels=[1.0, 2.0, 3.0, 4.0])[0].array.tolist() == [[[1, 2], [3, 4]]]
    closing = [feature("window", shape=[3, 2])]
    open_axes = Spec("x", DType.FLOAT, (-1, -1, -1))
    plan = from_manifest(kit.parse_manifest(kit.manifest(features=closing)), [open_axes], OUT)
    assert decode(kit, plan, window=[0.0] * 6)[0].array.shape == (1, 3, 2)


def test_a_bare_graph_with_two_open_axes_takes_tensors_only() -> None:
    with pytest.raises(BindError, match='input "x" has 2 open axes'):
        from_graph([Spec("x", DType.FLOAT, (-1, -1, -1))], OUT)


def test_a_bare_graph_tells_its_answers() -> None:
    specs = [
        Spec("one", DType.FLOAT, (-1, 1)),
        Spec("half", DType.BFLOAT16, (-1,)),
        Spec("label", DType.STRING, (-1,)),
        Spec("wide", DType.DOUBLE, (-1,)),
        Spec("rows", DType.FLOAT, (3,)),
        Spec("unknown", DType.FLOAT, (), unranked=True),
    ]
    plan = from_graph([X], specs)
    assert [p.name for p in plan.public_predictions] == ["one", "half"]
    assert [(o.name, o.type, list(o.shape)) for o in plan.public_outputs] == [
        ("one", model_pb2.FEATURE_TYPE_FLOAT, [1]),
        ("half", model_pb2.FEATURE_TYPE_FLOAT, []),
        ("label", model_pb2.FEATURE_TYPE_STRING, []),
        ("wide", model_pb2.FEATURE_TYPE_DOUBLE, []),
        ("rows", model_pb2.FEATURE_TYPE_FLOAT, [3]),
        ("unknown", model_pb2.FEATURE_TYPE_FLOAT, []),
    ]


def strings(*texts: str) -> np.ndarray[Any, Any]:
    array = np.empty(len(texts), object)
    array[:] = [text.encode() for text in texts]
    return array


@pytest.mark.parametrize(
    ("dtype", "array", "expected"),
    [
        (DType.FLOAT, np.array([1.5, np.inf], np.float32), {"float_array": [1.5, np.inf]}),
        (DType.FLOAT16, np.array([0x3C00], np.uint16), {"float_value": 1.0}),
        (DType.BFLOAT16, np.array([0x3F80, 0xFF80], np.uint16), {"float_array": [1.0, -np.inf]}),
        (DType.DOUBLE, np.array([0.1]), {"double_value": 0.1}),
        (DType.DOUBLE, np.array([0.1, 1e300]), {"float_array": [float(np.float32(0.1)), np.inf]}),
        (DType.INT8, np.array([-128], np.int8), {"int64_value": -128}),
        (DType.UINT32, np.array([1, (1 << 32) - 1], np.uint32), {"int64_array": [1, (1 << 32) - 1]}),
        (DType.BOOL, np.array([True]), {"bool_value": True}),
        (DType.BOOL, np.array([True, False]), {"int64_array": [1, 0]}),
        (DType.STRING, strings("é\0"), {"string_value": "é\0"}),
        (DType.STRING, strings("", "b"), {"string_array": ["", "b"]}),
        (DType.FLOAT, np.array([], np.float32), {"float_array": []}),
        (DType.INT64, np.array([], np.int64), {"int64_array": []}),
        (DType.STRING, strings(), {"string_array": []}),
    ],
)
def test_outputs_keep_their_type(dtype: DType, array: np.ndarray[Any, Any], expected: dict[str, Any]) -> None:
    shape = (-1,) if len(array) == 1 else (-1, len(array))
    plan = from_graph([X], [Spec("y", dtype, shape)])
    answer = PredictResponse()
    plan.encode([Tensor(dtype, array.reshape([1, *shape[1:]]))], answer)
    value = answer.outputs["y"]
    ((kind, wanted),) = expected.items()
    assert value.WhichOneof("value") == kind
    got = getattr(value, kind)
    assert (list(got.values) if kind.endswith("array") else got) == wanted


def test_predictions_are_elements_of_a_row(kit: SimpleNamespace) -> None:
    plan = from_manifest(kit.parse_manifest(kit.manifest()), [X], OUT)
    answer = PredictResponse()
    plan.encode([kit.floats(0.25, 0.75)], answer)
    assert dict(answer.predictions) == {"a": 0.25, "b": 0.75}
    assert list(answer.outputs["row"].float_array.values) == [0.25, 0.75]


def test_a_signalling_nan_leaves_an_output_bit_for_bit() -> None:
    bits = np.array([[SIGNALLING]], np.uint32).view(np.float32)
    plan = from_graph([X], [Spec("y", DType.FLOAT, (-1,)), Spec("ys", DType.FLOAT, (-1, 1))])
    answer = PredictResponse()
    plan.encode([Tensor(DType.FLOAT, bits[0]), Tensor(DType.FLOAT, bits)], answer)
    assert answer.outputs["y"].SerializeToString() == b"\x0d" + struct.pack("<I", SIGNALLING)
    assert answer.outputs["ys"].SerializeToString().endswith(struct.pack("<I", SIGNALLING))


@pytest.mark.parametrize(
    ("spec", "array", "message"),
    [
        (OUT[0], np.zeros((2, 2), np.float32), 'output "y": expected 1 row, got shape [2, 2]'),
        (OUT[0], np.zeros((), np.float32), 'output "y": expected 1 row, got shape []'),
        (
            Spec("y", DType.FLOAT, (-1, -1)),
            np.zeros((1, 1), np.float32),
            'output "y": expected an element 1 in the row, got 1 elements',
        ),
        (OUT[0], np.zeros((1, 2)), 'output "y": expected float, got double'),
    ],
)
def test_a_graph_that_breaks_its_word(
    kit: SimpleNamespace, spec: Spec, array: np.ndarray[Any, Any], message: str
) -> None:
    plan = from_manifest(kit.parse_manifest(kit.manifest(outputs=[])), [X], [spec])
    dtype = DType.DOUBLE if array.dtype == np.float64 else DType.FLOAT
    with pytest.raises(EncodeError) as caught:
        plan.encode([Tensor(dtype, array)], PredictResponse())
    assert str(caught.value) == message


def test_an_unsigned_integer_may_be_too_large_for_the_wire() -> None:
    plan = from_graph([X], [Spec("u", DType.UINT64, (-1,))])
    with pytest.raises(EncodeError) as caught:
        plan.encode([Tensor(DType.UINT64, np.array([1 << 63], np.uint64))], PredictResponse())
    assert str(caught.value) == 'output "u": expected at most 2^63 - 1, got 9223372036854775808'


@pytest.mark.parametrize("bits", [0x7F800001, 0xFFBFFFFF, 0x7FC00001])
def test_a_nan_leaves_a_prediction_bit_for_bit(kit: SimpleNamespace, bits: int) -> None:
    document = kit.manifest(predictions=[{"prediction": {"name": "p"}, "output": "y", "index": 1}], outputs=[])
    plan = from_manifest(kit.parse_manifest(document), [Spec("x", DType.FLOAT, (-1, 2))], OUT)
    answer = PredictResponse()
    plan.encode([Tensor(DType.FLOAT, np.array([[0, bits]], np.uint32).view(np.float32))], answer)
    assert answer.SerializeToString() == b"\x12\x08\x0a\x01p\x15" + struct.pack("<I", bits)
