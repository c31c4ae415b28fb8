# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import inference_service_pb2, tensor_pb2
from concord_server.fault import Fault, Reason
from concord_server.model import (
    Call,
    Model,
    check_config,
    check_name,
    decode_tensors,
    is_id,
    is_label,
    is_version,
    version_order,
)
from concord_server.model.generation import shortest
from concord_server.tensor import DType, Spec


@pytest.mark.parametrize("good", ["a", "A0", "breast-cancer", "v1.2_x", "a" * 128])
def test_ids(good: str) -> None:
    assert is_id(good)


@pytest.mark.parametrize("bad", ["", ".a", "-a", "a/b", "a b", "é", "a\n", "a" * 129, "a\0", "../x"])
def test_bad_ids(bad: str) -> None:
    with pytest.raises(Fault) as caught:
        check_name(bad, "")
    assert caught.value.reason is Reason.MODEL_ID_INVALID
    assert caught.value.violations[0].field == "model_id"


def test_an_empty_id_is_nothing() -> None:
    with pytest.raises(Fault) as caught:
        check_name("", "")
    assert caught.value.message == "model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got nothing"


@pytest.mark.parametrize("good", ["", "1", "10", "9" * 500, "stable", "a", "a-1", "a" * 63])
def test_versions(good: str) -> None:
    check_name("m", good)
    assert not good or is_version(good) or is_label(good)


@pytest.mark.parametrize("bad", ["0", "01", "-1", "1.0", "Stable", "-a", "a_b", "a" * 64, "1\n", "é"])
def test_bad_versions(bad: str) -> None:
    with pytest.raises(Fault) as caught:
        check_name("m", bad)
    assert (caught.value.reason, caught.value.model_id) == (Reason.MODEL_VERSION_INVALID, "m")


def test_versions_are_ordered_by_value() -> None:
    assert sorted(["10", "9", "100", "2"], key=version_order) == ["2", "9", "10", "100"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.5}, "config.temperature: expected 0 to 100, got -0.5"),
        ({"temperature": math.nan}, "config.temperature: expected 0 to 100, got nan"),
        ({"temperature": math.inf}, "config.temperature: expected 0 to 100, got inf"),
        ({"max_tokens": -1}, "config.max_tokens: expected 0 to 2147483647, got -1"),
        ({"top_p": 1.5}, "config.top_p: expected 0 to 1, got 1.5"),
        ({"top_k": -7}, "config.top_k: expected 0 to 2147483647, got -7"),
        ({"stop": [""]}, "config.stop[0]: expected a text, got nothing"),
        ({"stop": ["a"] * 17}, "config.stop: expected at most 16 texts, got 17"),
        ({"top_p": -1, "stop": ["a", ""]}, "config.top_p: expected 0 to 1, got -1 (and 1 more)"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Fault) as caught:
        check_config(inference_service_pb2.InferenceConfig(**settings))
    assert (caught.value.reason, caught.value.message) == (Reason.CONFIG_INVALID, message)


def test_settings_in_range() -> None:
    check_config(inference_service_pb2.InferenceConfig())
    check_config(
        inference_service_pb2.InferenceConfig(temperature=100, top_p=1, max_tokens=2**31 - 1, stop=["a"] * 16, seed=0)
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-0.0, "-0"), (1.5, "1.5"), (0.1, "0.1"), (123456.0, "123456"), (1e6, "1e+06"), (1e-4, "0.0001"),
     (1.5e-5, "1.5e-05"), (1e30, "1e+30"), (-math.inf, "-inf")],
)  # fmt: skip
def test_numbers_are_written_as_go_writes_them(value: float, text: str) -> None:
    assert shortest(value) == text


def test_a_double_shows_more_digits() -> None:
    assert shortest(0.1 + 0.2, np.float64) == "0.30000000000000004"


def test_tensors_are_held_against_the_graph(kit: SimpleNamespace) -> None:
    specs = [Spec("x", DType.FLOAT, (-1, 2)), Spec("n", DType.INT64, ())]
    x = tensor_pb2.Tensor(dtype=1, shape=[1, 2], data=bytes(8))  # type: ignore[arg-type]
    n = tensor_pb2.Tensor(dtype=7, data=bytes(8))  # type: ignore[arg-type]
    outputs = [Spec(name, DType.FLOAT, (-1,)) for name in "abc"]
    session = kit.FakeSession(specs, outputs, list)
    inputs, wanted = decode_tensors(session, {"x": x, "n": n}, [])
    assert ([t.array.shape for t in inputs], wanted) == ([(1, 2), ()], [0, 1, 2])
    assert decode_tensors(session, {"x": x, "n": n}, ["c", "a"])[1] == [2, 0]
    flat = tensor_pb2.Tensor(dtype=1, shape=[2], data=bytes(8))  # type: ignore[arg-type]
    with pytest.raises(Fault) as caught:
        decode_tensors(session, {"x": flat, "z": n, "b": n}, ["b", "d", "b", ""])
    assert [v.message for v in caught.value.violations] == [
        'input "x": expected shape [?, 2], got [2]',
        'input "n": expected an int64 tensor, got nothing',
        'input "b": the model has no such input',
        'input "z": the model has no such input',
        'output_names[1]: the model has no output "d"',
        'output_names[2]: "b" is there already',
        'output_names[3]: the model has no output ""',
    ]
    assert [v.field for v in caught.value.violations] == [
        'inputs["x"].shape', 'inputs["n"]', 'inputs["b"]', 'inputs["z"]',
        "output_names[1]", "output_names[2]", "output_names[3]",
    ]  # fmt: skip
    assert caught.value.reason is Reason.TENSOR_SHAPE_MISMATCH
    with pytest.raises(Fault) as caught:
        decode_tensors(kit.FakeSession(specs[:1], outputs, list), {"x": n}, [])
    assert caught.value.message == 'input "x": expected dtype FLOAT, got INT64'


def test_a_call_that_ended_does_not_begin() -> None:
    call = Call()
    call.cancel()
    with pytest.raises(Fault) as caught:
        call.begin(lambda: None)
    assert caught.value.reason is Reason.CANCELLED
    with pytest.raises(Fault) as caught:
        Call(time.monotonic() - 1).check()
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    Call(time.monotonic() + 60).check()


def test_cancelling_ends_the_run_under_way_only() -> None:
    ended: list[int] = []
    call = Call()
    call.begin(lambda: ended.append(1))
    call.end()
    call.cancel()
    assert ended == []


def test_a_failing_model_says_so_without_paths(kit: SimpleNamespace) -> None:
    model = Model("m", "1", kit.tabular, kit.doubling(), features="none")
    with pytest.raises(Fault) as caught:
        model.run([kit.floats(-1, 0)], [0], Call())
    assert caught.value.message == (
        'model "m" version 1 failed on this input: Non-zero status code: x must not be -1, see <...> at <...>'
    )


def test_a_model_without_features_says_why(kit: SimpleNamespace) -> None:
    model = Model("m", "1", kit.tabular, kit.doubling(), features='input "x" has 2 open axes')
    with pytest.raises(Fault) as caught:
        model.plan()
    assert caught.value.message == 'model "m" takes tensors only: input "x" has 2 open axes'
    assert caught.value.reason is Reason.METHOD_NOT_SUPPORTED


def test_rows_are_limited_by_package_and_server(kit: SimpleNamespace) -> None:
    def rows(**more: Any) -> int:
        return Model("m", "1", kit.tabular, kit.doubling(), features="", **more).max_rows

    assert rows() == 1
    assert rows(batchable=True) == rows(batchable=True, max_rows=5000) == 1024
    assert rows(batchable=True, max_rows=3) == 3
