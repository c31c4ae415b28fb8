# SPDX-License-Identifier: Apache-2.0
"""Fills: values by their bits, by their index, by their size."""

from __future__ import annotations

from typing import Any

import pytest
from concord_conformance.bits import bits_class, double_bits, float_bits, to_bits
from concord_conformance.client import request_message
from concord_conformance.fill import FillError, apply_fill, parse_path
from concord_proto.conformance.v1 import suite_pb2
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import model_inference_pb2
from google.protobuf import json_format


def fill(**fields: Any) -> suite_pb2.Fill:
    return json_format.ParseDict(fields, suite_pb2.Fill())


def filled(index: int = 0, **fields: Any) -> Any:
    message = bits_class(service.PredictRequest)()
    apply_fill(message, fill(**fields), index)
    return message


def test_paths_are_names_keys_and_indexes() -> None:
    assert parse_path('requests[3].features["a]\\"b"].float_value') == [
        "requests",
        3,
        "features",
        'a]"b',
        "float_value",
    ]


@pytest.mark.parametrize("path", ["", ".a", "a..b", "a[", 'a["x]', "a b", "[0]x"])
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(FillError):
        parse_path(path)


def test_a_signalling_nan_survives_to_the_wire() -> None:
    data = filled(path='features["x"]', float_bits="7fa00001").SerializeToString()
    assert bytes.fromhex("0d0100a07f") in data


def test_doubles_by_bits() -> None:
    message = filled(path='features["x"]', double_bits="7ff8000000012345")
    assert message.features["x"].double_value == 0x7FF8000000012345


def test_numbers_that_depend_on_the_index() -> None:
    message = filled(7, path='features["x"]', indexed_float={"start": 1, "step": 0.5})
    assert message.features["x"].float_value == float_bits(4.5)
    assert filled(7, path='features["x"]', indexed_int64={"start": 1, "step": 2}).features["x"].int64_value == 15
    assert filled(7, path="request_id", indexed_text="row {index}").request_id == "row 7"


def test_ranges() -> None:
    message = filled(path='features["x"]', floats={"start": 1, "step": 2, "count": 3})
    assert list(message.features["x"].float_array.values) == [float_bits(1), float_bits(3), float_bits(5)]
    message = filled(path='features["x"]', int64s={"start": 5, "step": -1, "count": 2})
    assert list(message.features["x"].int64_array.values) == [5, 4]
    assert filled(path='features["x"]', floats={"count": 0}).features["x"].WhichOneof("value") == "float_array"
    message = filled(path='features["x"]', float_array_bits={"values": ["80000000"]})
    assert list(message.features["x"].float_array.values) == [0x80000000]


@pytest.mark.parametrize("size", [100, 127 + 20, 128 + 20, 16384 + 30, 1 << 20])
def test_padding_makes_the_message_exactly_so_long(size: int) -> None:
    message = filled(path='features["s"]', padding_to_message_bytes=size)
    assert message.ByteSize() == size


def test_padding_to_less_than_the_message_is_an_error() -> None:
    message = to_bits(service.PredictRequest(model_id="m" * 200))
    with pytest.raises(FillError, match="no text makes"):
        apply_fill(message, fill(path='features["s"]', padding_to_message_bytes=100), 0)


def test_predictions_and_tensors_are_filled_too() -> None:
    response: Any = bits_class(service.PredictResponse)()
    apply_fill(response, fill(path='predictions["y"]', float_bits="ffc00001"), 0)
    assert dict(response.predictions) == {"y": 0xFFC00001}
    tensor: Any = bits_class(model_inference_pb2.PredictionRequest)()
    apply_fill(tensor, fill(path='inputs["x"].data', hex="00 01 ff"), 0)
    assert tensor.inputs["x"].data == b"\x00\x01\xff"


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"text": {"text": "ö", "count": 2}}, "c3b6c3b6"),
        ({"indexed_text": "{index}"}, "37"),
        ({"indexed_float": {"start": 1, "step": 0}}, "0000803f"),
        ({"indexed_int64": {"start": -9, "step": 1}}, "feffffffffffffff"),
        ({"float_bits": "7fa00001"}, "0100a07f"),
        ({"double_bits": "7ff4000000000001"}, "010000000000f47f"),
        ({"floats": {"start": 1, "step": 1, "count": 2}}, "0000803f00000040"),
        ({"int64s": {"start": 1, "step": -2, "count": 2}}, "0100000000000000ffffffffffffffff"),
        ({"floats": {"count": 0}}, ""),
    ],
)
def test_bytes_take_texts_and_numbers_as_a_tensor_has_them(fields: dict[str, Any], data: str) -> None:
    tensor: Any = bits_class(model_inference_pb2.PredictionRequest)()
    apply_fill(tensor, fill(path='inputs["x"].data', **fields), 7)
    assert tensor.inputs["x"].data.hex() == data


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "nowhere", "text": {"text": "a", "count": 1}},
        {"path": "request_id", "float_bits": "00000000"},
        {"path": 'features["x"]', "hex": "00"},
        {"path": 'features["x"]', "float_bits": "000"},
        {"path": "features", "text": {"text": "a", "count": 1}},
        {"path": "config", "text": {"text": "a", "count": 1}},
        {"path": "request_id[0]", "text": {"text": "a", "count": 1}},
        {"path": "request_id"},
    ],
)
def test_fills_that_do_not_fit_are_errors(fields: dict[str, Any]) -> None:
    with pytest.raises((FillError, IndexError, TypeError)):
        filled(**fields)


def test_a_batch_is_made_round_and_round_and_filled_by_index() -> None:
    call = json_format.ParseDict(
        {
            "batch_predict": {"requests": [{"model_id": "a"}, {"model_id": "b"}]},
            "batch_size": 3,
            "fills": [
                {"path": 'features["x"]', "indexed_float": {"start": 0, "step": 1}},
                {"path": "requests[1].request_id", "text": {"text": "second", "count": 1}},
            ],
        },
        suite_pb2.Call(),
    )
    batch: Any = request_message(call, 0)
    assert [request.model_id for request in batch.requests] == ["a", "b", "a"]
    assert [request.features["x"].float_value for request in batch.requests] == [float_bits(v) for v in (0, 1, 2)]
    assert [request.request_id for request in batch.requests] == ["", "second", ""]


def test_bits_read_and_write_the_same_bytes() -> None:
    request = service.PredictRequest(model_id="m", config=service.InferenceConfig(temperature=0.5, seed=3))
    request.features["d"].double_value = 0.1
    request.features["f"].float_array.values.extend([1, 2])
    data = request.SerializeToString(deterministic=True)
    message: Any = to_bits(request)
    assert message.SerializeToString(deterministic=True) == data
    assert message.features["d"].double_value == double_bits(0.1)
