# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import tensor_pb2
from concord_server.fault import Violation
from concord_server.tensor import (
    DType,
    Spec,
    Tensor,
    bits_of_bfloat16,
    bits_of_float16,
    dtype_name,
    elements,
    float32_of,
    from_wire,
    join,
    to_wire,
)
from hypothesis import given
from hypothesis import strategies as st

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


def of_bits(*bits: int) -> np.ndarray[Any, Any]:
    return np.array(bits, np.uint32).view(np.float32)


def test_dtypes_are_those_of_the_contract() -> None:
    numbers = set(tensor_pb2.DataType.values()) - {tensor_pb2.DATA_TYPE_UNSPECIFIED}
    assert {int(dtype) for dtype in DType} == numbers
    assert dtype_name(17) == "float8e4m3fn"
    assert dtype_name(99) == "type 99"


def test_every_float16_survives_the_way_to_float32_and_back() -> None:
    wide = float32_of(Tensor(DType.FLOAT16, ALL_HALVES))
    nan = np.isnan(wide)
    assert (bits_of_float16(wide)[~nan] == ALL_HALVES[~nan]).all()
    # A NaN comes back quiet with its payload.
    assert (bits_of_float16(wide)[nan] == (ALL_HALVES[nan] | 0x200)).all()
    with np.errstate(invalid="ignore"):
        expected = ALL_HALVES.view(np.float16).astype(np.float32)
    assert (wide.view(np.uint32)[~nan] == expected.view(np.uint32)[~nan]).all()
    assert (
        wide.view(np.uint32)[nan]
        == (
            0x7F800000
            | (ALL_HALVES[nan] & 0x3FF).astype(np.uint32) << 13
            | (ALL_HALVES[nan] & 0x8000).astype(np.uint32) << 16
        )
    ).all()


def test_float16_rounds_as_ieee_says() -> None:
    random = np.random.default_rng(1)
    bits = np.concatenate(
        [
            random.integers(0, 1 << 32, 200_000, dtype=np.uint32),
            # around every binary16 number and every tie between two
            (
                float32_of(Tensor(DType.FLOAT16, ALL_HALVES)).view(np.uint32)[:, None]
                + np.array([0, 1, 0x0FFF, 0x1000, 0x1001], np.uint32)
            ).reshape(-1),
        ]
    )
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    assert (bits_of_float16(values) == expected).all()


@given(st.integers(0, (1 << 32) - 1))
def test_bfloat16_rounds_as_integers_do(bits: int) -> None:
    value = of_bits(bits)
    got = int(bits_of_bfloat16(value)[0])
    if bits & 0x7FFFFFFF > 0x7F800000:
        assert got == bits >> 16 | 0x40
    else:
        assert got == (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


@pytest.mark.parametrize(
    ("value", "half"),
    [
        (65504.0, 0x7BFF),
        (65519.99, 0x7BFF),
        (65520.0, 0x7C00),
        (1e30, 0x7C00),
        (-float("inf"), 0xFC00),
        (2**-24, 1),
        (2**-25, 0),
        (1.5 * 2**-25, 1),
        (-0.0, 0x8000),
    ],
)
def test_float16_at_its_ends(value: float, half: int) -> None:
    assert int(bits_of_float16(np.array([value], np.float32))[0]) == half


def test_conversions_keep_shapes() -> None:
    for shape in ((), (0,), (2, 0), (2, 3)):
        array = np.zeros(shape, np.float32)
        assert bits_of_float16(array).shape == bits_of_bfloat16(array).shape == shape
        assert float32_of(Tensor(DType.FLOAT16, bits_of_float16(array))).shape == shape


def test_wide_numbers_round_to_float32() -> None:
    assert float32_of(Tensor(DType.DOUBLE, np.array([0.1, 1e300])))[0] == np.float32(0.1)
    assert np.isinf(float32_of(Tensor(DType.DOUBLE, np.array([1e300]))))
    assert float32_of(Tensor(DType.INT64, np.array([(1 << 24) + 1]))) == np.float32(1 << 24)
    assert float32_of(Tensor(DType.UINT64, np.array([(1 << 64) - 1], np.uint64))) == np.float32(2.0**64)


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((), 1),
        ((0,), 0),
        ((3, 0, 2), 0),
        ((2, 3), 6),
        ((-1,), None),
        ((1 << 32, 1 << 32), None),
        ((1 << 62, 2), None),
        ((1 << 62, 2, 0), None),
    ],
)
def test_elements(shape: tuple[int, ...], count: int | None) -> None:
    assert elements(shape) == count


def wire(dtype: int, shape: list[int], data: bytes = b"", strings: list[bytes] | None = None) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data, strings=strings or [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "part", "expected"),
    [
        (wire(0, [1]), "dtype", "expected dtype FLOAT, got no dtype"),
        (wire(17, [1], b"1"), "dtype", "expected dtype FLOAT, got 17"),
        (wire(99, [1], b"1"), "dtype", "expected dtype FLOAT, got 99"),
        (wire(7, [2], bytes(16)), "dtype", "expected dtype FLOAT, got INT64"),
        (wire(1, [-1]), "shape", "expected lengths of at least 0, got [-1]"),
        (wire(1, [1 << 32, 1 << 32]), "shape", "expected fewer elements, got [4294967296, 4294967296]"),
        (wire(1, [1 << 61]), "shape", "expected fewer elements, got [2305843009213693952]"),
        (wire(1, [0] * 65), "shape", "expected at most 64 axes, got 65"),
        (wire(1, [2, 3], bytes(24)), "shape", "expected shape [?], got [2, 3]"),
        (wire(1, [], bytes(4)), "shape", "expected shape [?], got []"),
        (wire(1, [2], b"1234567"), "data", "expected 8 bytes of data, got 7"),
        (wire(1, [1], b"1234", [b"a"]), "strings", "expected no strings with dtype FLOAT, got 1"),
        (wire(9, [2], b"\0\2"), "data", "expected bools of 0 or 1, got 2"),
        (wire(8, [1], b"1", [b"a"]), "data", "expected no data with dtype STRING, got 1 bytes"),
        (wire(8, [2], b"", [b"a"]), "strings", "expected 2 strings, got 1"),
    ],
)
def test_malformed_tensors(message: tensor_pb2.Tensor, part: str, expected: str) -> None:
    violation = from_wire(message, Spec("x", DType.FLOAT, (-1,)))
    assert isinstance(violation, Violation)
    assert (violation.field, violation.message) == (f".{part}", expected)


def test_lengths_beside_an_empty_axis_count() -> None:
    for dtype, most in ((DType.STRING, 1 << 59), (DType.INT16, 1 << 61), (DType.DOUBLE, 1 << 59)):
        taken = from_wire(wire(dtype, [most, 0]), any_shape(dtype))
        assert isinstance(taken, Tensor)
        assert taken.array.shape == (most, 0)
        refused = from_wire(wire(dtype, [most * 2, 0]), any_shape(dtype))
        assert isinstance(refused, Violation)
        assert refused.message == f"expected fewer elements, got [{most * 2}, 0]"


def test_sizes_on_the_wire() -> None:
    text = np.array([b"a\0", b"", b"bcd"], object)
    assert Tensor(DType.STRING, text).nbytes == 5 + 3 * 2
    assert Tensor(DType.STRING, text.reshape([1] * 63 + [3])).nbytes == 5 + 3 * 2
    assert Tensor(DType.DOUBLE, np.zeros((2, 3))).nbytes == 48


def back(tensor: Tensor) -> tensor_pb2.Tensor:
    """The tensor on the wire again."""
    message = tensor_pb2.Tensor()
    to_wire(tensor, message)
    return message


def any_shape(dtype: DType) -> Spec:
    return Spec("x", dtype, (), unranked=True)


@given(
    st.sampled_from([d for d in DType if d not in (DType.STRING, DType.BOOL)]),
    st.lists(st.integers(0, 4), max_size=4),
    st.randoms(use_true_random=False),
)
def test_numbers_come_back_bit_for_bit(dtype: DType, shape: list[int], random: Any) -> None:
    count = int(np.prod(shape, dtype=np.int64))
    message = wire(dtype, shape, random.randbytes(count * dtype.storage.itemsize))
    tensor = from_wire(message, any_shape(dtype))
    assert isinstance(tensor, Tensor)
    assert back(tensor) == message


@given(st.lists(st.binary()))
def test_strings_of_any_bytes_come_back(strings: list[bytes]) -> None:
    message = wire(DType.STRING, [len(strings)], b"", strings)
    tensor = from_wire(message, any_shape(DType.STRING))
    assert isinstance(tensor, Tensor)
    assert back(tensor) == message


@given(st.binary())
def test_whatever_the_wire_holds_is_a_tensor_or_a_violation(data: bytes) -> None:
    try:
        message = tensor_pb2.Tensor.FromString(data)
    except Exception:  # protobuf's own business
        return
    assert isinstance(from_wire(message, any_shape(DType.INT8)), Tensor | Violation)


def test_join_puts_rows_below_each_other() -> None:
    rows = [[Tensor(DType.FLOAT, np.array([[i, i + 0.5]], np.float32))] for i in range(3)]
    (joined,) = join(rows)
    assert joined.array.tolist() == [[0, 0.5], [1, 1.5], [2, 2.5]]


def test_a_spec_describes_itself() -> None:
    assert Spec("x", DType.FLOAT, (-1, 30)).describe() == "float [-1, 30]"
    assert Spec("x", DType.INT8, (), unranked=True).describe() == "int8 of unknown rank"


def test_a_signalling_nan_keeps_its_bits_on_the_wire() -> None:
    bits = struct.pack("<2I", 0x7F800001, 0xFFC12345)
    tensor = from_wire(wire(1, [2], bits), any_shape(DType.FLOAT))
    assert isinstance(tensor, Tensor)
    assert back(tensor).data == bits


@pytest.mark.parametrize(("bits_of", "half"), [(bits_of_float16, 0x3800), (bits_of_bfloat16, 0x3F00)])
def test_rank_0_stays_an_array(bits_of: Any, half: int) -> None:
    bits = bits_of(np.array(0.5, np.float32))
    assert isinstance(bits, np.ndarray)
    assert (bits.shape, bits.dtype, int(bits)) == ((), np.uint16, half)
