# SPDX-License-Identifier: Apache-2.0
"""Python values become the FeatureValue that the model's feature asks for, and come back."""

from __future__ import annotations

import array
import enum
import math
from typing import Any

import numpy as np
import pytest
from concord_client import FeatureValue
from concord_client._values import RefusedError, Slot, quote, read_value, write_value
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from hypothesis import given
from hypothesis import strategies as st

UNKNOWN = 0
FLOAT = model_pb2.FEATURE_TYPE_FLOAT
DOUBLE = model_pb2.FEATURE_TYPE_DOUBLE
INT64 = model_pb2.FEATURE_TYPE_INT64
BOOL = model_pb2.FEATURE_TYPE_BOOL
STRING = model_pb2.FEATURE_TYPE_STRING


class Colour(str, enum.Enum):  # noqa: UP042 - str() of it is not its value
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


def written(value: Any, kind: int = UNKNOWN, *shape: int) -> tuple[str | None, Any]:
    target = FeatureValue()
    write_value(target, value, Slot(kind, shape) if kind else None)
    return target.WhichOneof("value"), read_value(target)


def refused(value: Any, kind: int = UNKNOWN, *shape: int) -> tuple[str, str]:
    with pytest.raises(RefusedError) as caught:
        written(value, kind, *shape)
    return caught.value.reason, caught.value.text


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        # 42 is a number of any type that the feature asks for.
        (42, FLOAT, ("float_value", 42.0)),
        (42, DOUBLE, ("double_value", 42.0)),
        (42, INT64, ("int64_value", 42)),
        (42.0, FLOAT, ("float_value", 42.0)),
        (42.0, DOUBLE, ("double_value", 42.0)),
        (42.0, INT64, ("int64_value", 42)),
        (2**63 - 1, INT64, ("int64_value", 2**63 - 1)),
        (-(2**63), INT64, ("int64_value", -(2**63))),
        (-(2.0**63), INT64, ("int64_value", -(2**63))),
        (2**53 + 1, INT64, ("int64_value", 2**53 + 1)),
        (0.1, DOUBLE, ("double_value", 0.1)),
        (0.1, FLOAT, ("float_value", float(np.float32(0.1)))),
        (1e300, FLOAT, ("float_value", math.inf)),
        (-1e300, FLOAT, ("float_value", -math.inf)),
        (1e-50, FLOAT, ("float_value", 0.0)),
        (True, BOOL, ("bool_value", True)),
        ("red", STRING, ("string_value", "red")),
        # What would change its meaning goes as it is; the server says what it expected.
        (42.5, INT64, ("float_value", 42.5)),
        (2.0**63, INT64, ("float_value", 2.0**63)),
        (math.inf, INT64, ("float_value", math.inf)),
        (True, FLOAT, ("bool_value", True)),
        (True, INT64, ("bool_value", True)),
        (1, BOOL, ("int64_value", 1)),
        ("1.5", FLOAT, ("string_value", "1.5")),
        (7, STRING, ("int64_value", 7)),
        # Nothing known of the feature.
        (42, UNKNOWN, ("int64_value", 42)),
        (0.5, UNKNOWN, ("float_value", 0.5)),
        (False, UNKNOWN, ("bool_value", False)),
        ("", UNKNOWN, ("string_value", "")),
        # numpy's scalars and enums are what they hold.
        (np.float32(0.1), DOUBLE, ("double_value", float(np.float32(0.1)))),
        (np.float64(0.1), FLOAT, ("float_value", float(np.float32(0.1)))),
        (np.float16(0.5), FLOAT, ("float_value", 0.5)),
        (np.int8(-3), FLOAT, ("float_value", -3.0)),
        (np.uint64(2**63 - 1), INT64, ("int64_value", 2**63 - 1)),
        (np.bool_(True), BOOL, ("bool_value", True)),
        (np.str_("x"), STRING, ("string_value", "x")),
        (np.array(3.5), FLOAT, ("float_value", 3.5)),
        (Colour.RED, STRING, ("string_value", "red")),
        (Level.HIGH, INT64, ("int64_value", 3)),
        (Level.HIGH, FLOAT, ("float_value", 3.0)),
    ],
)
def test_scalars(value: Any, kind: int, expected: tuple[str, Any]) -> None:
    got = written(value, kind)
    assert got == expected
    assert type(got[1]) is type(expected[1])


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), np.nan])
@pytest.mark.parametrize(("kind", "field"), [(FLOAT, "float_value"), (DOUBLE, "double_value"), (INT64, "float_value")])
def test_nan_is_a_value(value: Any, kind: int, field: str) -> None:
    got, back = written(value, kind)
    assert got == field
    assert math.isnan(back)


@pytest.mark.parametrize(
    ("value", "slot", "expected"),
    [
        ([1, 2.5], (FLOAT, 2), ("float_array", [1.0, 2.5])),
        ((1, 2), (DOUBLE, 2), ("float_array", [1.0, 2.0])),
        (range(3), (INT64, 3), ("int64_array", [0, 1, 2])),
        ([1.0, 2.0], (INT64, 2), ("int64_array", [1, 2])),
        ([1.0, 2.5], (INT64, 2), ("float_array", [1.0, 2.5])),
        ([2**63 - 1, 1.0], (INT64, 2), ("int64_array", [2**63 - 1, 1])),
        ([True, False], (BOOL, 2), ("int64_array", [1, 0])),
        ([1, 0], (BOOL, 2), ("int64_array", [1, 0])),
        ([True, False], (FLOAT, 2), ("int64_array", [1, 0])),
        (["a", ""], (STRING, 2), ("string_array", ["a", ""])),
        ([[1, 2], [3, 4]], (FLOAT, 2, 2), ("float_array", [1.0, 2.0, 3.0, 4.0])),
        ([1, 2, 3, 4], (FLOAT, 2, 2), ("float_array", [1.0, 2.0, 3.0, 4.0])),
        ([[1, 2, 3]], (FLOAT, 3), ("float_array", [1.0, 2.0, 3.0])),
        ([[1, 2], [3, 4]], (FLOAT, -1, 2), ("float_array", [1.0, 2.0, 3.0, 4.0])),
        ([1, 2], (FLOAT,), ("float_array", [1.0, 2.0])),
        ([1], (UNKNOWN,), ("int64_array", [1])),
        ([1.5], (UNKNOWN,), ("float_array", [1.5])),
        ([], (UNKNOWN,), ("float_array", [])),
        ([], (FLOAT, -1), ("float_array", [])),
        ([], (INT64, -1), ("int64_array", [])),
        ([], (BOOL, 0), ("int64_array", [])),
        ([], (STRING, -1), ("string_array", [])),
        ([np.float32(0.5), 1], (FLOAT, 2), ("float_array", [0.5, 1.0])),
        ([Colour.RED], (STRING, 1), ("string_array", ["red"])),
        (np.arange(4, dtype=np.uint8), (FLOAT, 4), ("float_array", [0.0, 1.0, 2.0, 3.0])),
        (np.arange(4, dtype=np.float32), (INT64, 4), ("int64_array", [0, 1, 2, 3])),
        (np.arange(6).reshape(2, 3).T, (INT64, 3, 2), ("int64_array", [0, 3, 1, 4, 2, 5])),
        (np.zeros((0, 2), np.float32), (FLOAT, -1, 2), ("float_array", [])),
        (np.array(["a", "b"]), (STRING, 2), ("string_array", ["a", "b"])),
        (np.array([True]), (BOOL, 1), ("int64_array", [1])),
        ([np.array([1, 2]), np.array([3, 4])], (INT64, 2, 2), ("int64_array", [1, 2, 3, 4])),
        (array.array("f", [0.5, 1.5]), (FLOAT, 2), ("float_array", [0.5, 1.5])),
        (memoryview(b"\x01\x02"), (INT64, 2), ("int64_array", [1, 2])),
    ],
)
def test_arrays(value: Any, slot: tuple[int, ...], expected: tuple[str, Any]) -> None:
    assert written(value, *slot) == expected


class Series:
    """What pandas' and polars' series have in common."""

    def to_numpy(self) -> Any:
        return np.array([1.5, 2.5])


def test_a_series_is_its_array() -> None:
    assert written(Series(), FLOAT, 2) == ("float_array", [1.5, 2.5])


@pytest.mark.parametrize(
    ("value", "slot", "reason", "text"),
    [
        (2**63, (INT64,), "FEATURE_OUT_OF_RANGE", f"got {2**63}"),
        ([-(2**63) - 1], (INT64, 1), "FEATURE_OUT_OF_RANGE", f"got {-(2**63) - 1}"),
        (np.uint64(2**64 - 1), (INT64,), "FEATURE_OUT_OF_RANGE", f"got {2**64 - 1}"),
        pytest.param(10**20000, (INT64,), "FEATURE_OUT_OF_RANGE", "got an integer of 66439 bits", id="huge"),
        (10**400, (FLOAT,), "FEATURE_OUT_OF_RANGE", "expected a float"),
        ([10**400], (FLOAT, 1), "FEATURE_OUT_OF_RANGE", "expected a float"),
        (None, (FLOAT,), "FEATURE_TYPE_MISMATCH", "got None"),
        ([1.0, None], (FLOAT, 2), "FEATURE_TYPE_MISMATCH", "got None"),
        (b"bytes", (STRING,), "FEATURE_TYPE_MISMATCH", "got bytes"),
        ({"a": 1}, (FLOAT,), "FEATURE_TYPE_MISMATCH", "got dict"),
        (1j, (FLOAT,), "FEATURE_TYPE_MISMATCH", "got complex"),
        (np.array([b"x"]), (STRING, 1), "FEATURE_TYPE_MISMATCH", "got bytes"),
        (np.array([1j]), (FLOAT, 1), "FEATURE_TYPE_MISMATCH", "got complex"),
        (np.array([None]), (FLOAT, 1), "FEATURE_TYPE_MISMATCH", "got None"),
        (np.datetime64("2026-01-01"), (FLOAT,), "FEATURE_TYPE_MISMATCH", "got numpy.datetime64"),
        (np.longdouble(1), (FLOAT,), "FEATURE_TYPE_MISMATCH", "got numpy.longdouble"),
        ([1, "a"], (STRING, 2), "FEATURE_TYPE_MISMATCH", "int and str together"),
        ([True, 2], (INT64, 2), "FEATURE_TYPE_MISMATCH", "bool and int together"),
        ("\ud800", (STRING,), "FEATURE_TYPE_MISMATCH", "surrogates"),
        (["\udfff"], (STRING, 1), "FEATURE_TYPE_MISMATCH", "surrogates"),
        ([[1, 2], [3]], (FLOAT, 3), "FEATURE_SHAPE_MISMATCH", "different lengths"),
        ([[1, 2], 3], (FLOAT, 3), "FEATURE_SHAPE_MISMATCH", "different lengths"),
        (
            np.zeros((3, 2)),
            (FLOAT, 2, 3),
            "FEATURE_SHAPE_MISMATCH",
            "expected values of shape [2, 3], got shape [3, 2]",
        ),
        (np.zeros((2, 2)), (FLOAT, 4), "FEATURE_SHAPE_MISMATCH", "expected values of shape [4], got shape [2, 2]"),
    ],
)
def test_what_cannot_be_sent(value: Any, slot: tuple[int, ...], reason: str, text: str) -> None:
    got = refused(value, *slot)
    assert got[0] == reason
    assert text in got[1]


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert refused(endless)[0] == "FEATURE_TYPE_MISMATCH"


@pytest.mark.parametrize(
    "value",
    [
        FeatureValue(),
        FeatureValue(string_value="as it is"),
        FeatureValue(double_value=0.1),
        FeatureValue(int64_array=inference_service_pb2.Int64Array(values=[1])),
    ],
)
def test_a_feature_value_passes_untouched(value: FeatureValue) -> None:
    target = FeatureValue()
    write_value(target, value, Slot(FLOAT, ()))
    assert target == value


@given(st.floats())
def test_floats_are_rounded_as_numpy_rounds_them(value: float) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.float32(value)
    for got in (written(value, FLOAT)[1], written([value], FLOAT, 1)[1][0]):
        assert np.float32(got).tobytes() == expected.tobytes() or (math.isnan(value) and math.isnan(got))


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_stay_exact(value: int) -> None:
    assert written(value, INT64) == ("int64_value", value)
    assert written([value], INT64, 1) == ("int64_array", [value])
    assert written(np.int64(value), INT64) == ("int64_value", value)


@given(st.text())
def test_text_stays_exact(value: str) -> None:
    assert written(value, STRING) == ("string_value", value)


def test_nothing_set_is_none() -> None:
    assert read_value(FeatureValue()) is None


def test_quote() -> None:
    assert quote('a"b') == '"a\\"b"'
    assert quote("é" * 65) == '"' + "é" * 64 + '..."'
