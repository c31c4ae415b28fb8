# SPDX-License-Identifier: Apache-2.0
"""Comparisons: each fails when it should, and only then."""

from __future__ import annotations

import math
from typing import Any

import pytest
from concord_conformance.bits import double_bits, float_bits, to_bits
from concord_conformance.compare import (
    Closeness,
    double_problem,
    feature_map_problems,
    float_map_problems,
    float_problem,
    json_problems,
    tensor_map_problems,
)
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import model_inference_pb2, tensor_pb2
from google.protobuf import json_format

EXACT = Closeness()


@pytest.mark.parametrize(
    ("expected", "got", "closeness", "same"),
    [
        (1.0, 1.0, EXACT, True),
        (1.0, math.nextafter(1.0, 2), EXACT, True),  # the same 32-bit float
        (1.0, 1.0000001, EXACT, False),
        (0.0, -0.0, EXACT, False),
        (math.inf, math.inf, EXACT, True),
        (math.inf, -math.inf, EXACT, False),
        (1.0, 1.05, Closeness(absolute=0.1), True),
        (1.0, 1.15, Closeness(absolute=0.1), False),
        (100.0, 101.0, Closeness(relative=0.02), True),
        (100.0, 103.0, Closeness(relative=0.02), False),
        (math.inf, 1e30, Closeness(absolute=1e38, relative=1e38), False),
        (1e30, math.inf, Closeness(absolute=1e38, relative=1e38), False),
        (math.nan, 1.0, Closeness(absolute=1e38), False),
        (1.0, math.nan, Closeness(absolute=1e38), False),
        (1.0, math.nan, Closeness(any_nan=True), False),
        (0.0, -0.0, Closeness(absolute=1e-9), True),
    ],
)
def test_floats(expected: float, got: float, closeness: Closeness, same: bool) -> None:
    assert (float_problem("y", float_bits(expected), float_bits(got), closeness) == []) is same


@pytest.mark.parametrize(
    ("closeness", "same"), [(EXACT, False), (Closeness(any_nan=True), True), (Closeness(absolute=1), False)]
)
def test_nans_of_other_bits(closeness: Closeness, same: bool) -> None:
    assert (float_problem("y", 0x7FC00000, 0xFFC00001, closeness) == []) is same
    assert (double_problem("y", 0x7FF8000000000000, 0x7FF8000000000001, closeness) == []) is same
    assert float_problem("y", 0x7FC00001, 0x7FC00001, EXACT) == []


def test_doubles_are_not_compared_as_floats() -> None:
    assert double_problem("d", double_bits(0.1), double_bits(0.10000000149011612), EXACT)


def test_a_float_problem_shows_number_and_bits() -> None:
    assert float_problem("y", float_bits(0.0), float_bits(-0.0), EXACT) == [
        "y: expected 0.0 (0x00000000), got -0.0 (0x80000000)"
    ]


def test_key_sets_are_exact() -> None:
    assert float_map_problems("p", {"a": 1}, {}, EXACT) == ["p: 'a' is missing"]
    assert float_map_problems("p", {}, {"b": 1}, EXACT) == ["p: 'b' is not expected"]
    assert float_map_problems("p", {"a": 1}, {"a": 1}, EXACT) == []
    assert float_map_problems("p", {"a": 1}, {"a": 2}, EXACT) != []


def value(**fields: object) -> dict[str, object]:
    parsed = json_format.ParseDict(fields, service.FeatureValue())
    return {"v": to_bits(parsed)}


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (value(float_value=1), value(float_value=2)),
        (value(float_value=1), value(double_value=1)),
        (value(double_value=1), value(double_value=1.5)),
        (value(int64_value="9007199254740993"), value(int64_value="9007199254740992")),
        (value(bool_value=True), value(bool_value=False)),
        (value(bool_value=False), value()),
        (value(string_value="e\u0301"), value(string_value="\u00e9")),
        (value(float_array={"values": [1, 2]}), value(float_array={"values": [1]})),
        (value(float_array={"values": [1, 2]}), value(float_array={"values": [2, 1]})),
        (value(float_array={"values": [0]}), value(float_array={"values": [-0.0]})),
        (value(float_array={}), value()),
        (value(int64_array={"values": [1]}), value(int64_array={"values": [2]})),
        (value(string_array={"values": ["a", ""]}), value(string_array={"values": ["a"]})),
        (value(string_array={"values": ["a"]}), value(string_array={"values": ["b"]})),
    ],
)
def test_feature_values_that_differ(expected: dict[str, object], got: dict[str, object]) -> None:
    assert feature_map_problems("outputs", expected, got, EXACT) != []
    assert feature_map_problems("outputs", expected, expected, EXACT) == []
    assert feature_map_problems("outputs", got, got, EXACT) == []


def test_a_tolerance_is_for_arrays_too() -> None:
    expected, got = value(float_array={"values": [1, 2]}), value(float_array={"values": [1, 2.001]})
    assert feature_map_problems("outputs", expected, got, EXACT) != []
    assert feature_map_problems("outputs", expected, got, Closeness(absolute=0.01)) == []


def test_many_differences_are_shortened() -> None:
    expected, got = value(float_array={"values": [1] * 100}), value(float_array={"values": [2] * 100})
    assert len(feature_map_problems("outputs", expected, got, EXACT)) < 10


def test_tensors_differ_in_dtype_shape_bytes_and_strings() -> None:
    def tensor(**fields: object) -> dict[str, object]:
        response = model_inference_pb2.PredictionResponse()
        response.outputs["t"].CopyFrom(tensor_pb2.Tensor(**fields))  # type: ignore[arg-type]
        return dict(to_bits(response).outputs)  # type: ignore[attr-defined]

    base = tensor(dtype=1, shape=[1, 2], data=b"\0" * 8)
    assert tensor_map_problems("outputs", base, base, EXACT) == []
    for other in (
        tensor(dtype=6, shape=[1, 2], data=b"\0" * 8),
        tensor(dtype=1, shape=[2, 1], data=b"\0" * 8),
        tensor(dtype=1, shape=[2], data=b"\0" * 8),
        tensor(dtype=1, shape=[1, 2], data=b"\0" * 7 + b"\x80"),
        tensor(dtype=1, shape=[1, 2], data=b"\0" * 8, strings=[b""]),
        {},
    ):
        assert tensor_map_problems("outputs", base, other, EXACT) != []
        # No tolerance is wide enough for another dtype, another shape or a string, nor for no tensor at all.
        wide = tensor_map_problems("outputs", base, other, Closeness(absolute=1e30))
        assert (wide == []) is (other == tensor(dtype=1, shape=[1, 2], data=b"\0" * 7 + b"\x80"))


@pytest.mark.parametrize(
    ("dtype", "wanted", "got", "closeness", "says"),
    [
        ("FLOAT", "0000803f 00000040", "0000803f 01000040", Closeness(absolute=1e-6), ""),
        ("FLOAT", "0000803f 00000040", "0000803f 01000040", EXACT, "data: expected 8 bytes 0000803f 00000040"),
        ("FLOAT", "0000803f 00000040", "0000803f 00004040", Closeness(absolute=0.5), "data[1]: expected 2.0"),
        ("FLOAT", "0000c07f", "0000c0ff", Closeness(any_nan=True), ""),
        ("FLOAT", "0000c07f", "0000c0ff", Closeness(absolute=1), "data[0]: expected nan"),
        ("FLOAT", "0000c07f", "0000803f", Closeness(any_nan=True), "got 1.0"),
        ("FLOAT", "0000803f", "0000803f00", Closeness(absolute=1), "expected 4 bytes"),
        ("DOUBLE", "000000000000f03f", "010000000000f03f", Closeness(relative=1e-12), ""),
        ("FLOAT16", "003c", "013c", Closeness(absolute=0.001), ""),
        ("FLOAT16", "003c", "003e", Closeness(absolute=0.001), "data[0]: expected 1.0 (0x003c), got 1.5"),
        ("BFLOAT16", "803f", "813f", Closeness(absolute=0.01), ""),
        ("BFLOAT16", "803f", "0040", Closeness(absolute=0.01), "data[0]: expected 1.0 (0x803f), got 2.0"),
        ("INT32", "01000000", "02000000", Closeness(absolute=10), "expected 4 bytes 01000000, got 4 bytes 02000000"),
        ("BOOL", "01", "00", Closeness(absolute=10), "expected 1 bytes 01"),
    ],
)
def test_tolerances_are_for_the_elements_of_floats(
    dtype: str, wanted: str, got: str, closeness: Closeness, says: str
) -> None:
    def tensor(data: str) -> Any:
        return {"t": tensor_pb2.Tensor(dtype=f"DATA_TYPE_{dtype}", data=bytes.fromhex(data))}

    problems = tensor_map_problems("outputs", tensor(wanted), tensor(got), closeness)
    assert says in problems[0] if says else problems == []


@pytest.mark.parametrize(
    ("wanted", "got", "says"),
    [
        ({"a": 1}, {}, "m.a: expected 1, got nothing"),
        ({}, {"a": 1}, "m.a: expected nothing, got 1"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "m.a[1]: expected 2, got 3"),
        ({"a": [1, 2]}, {"a": [1]}, "m.a: expected [1, 2], got [1]"),
    ],
)
def test_json_values(wanted: object, got: object, says: str) -> None:
    assert json_problems("m", wanted, got) == [says]
    assert json_problems("m", wanted, wanted) == []
