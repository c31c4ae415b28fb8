# SPDX-License-Identifier: Apache-2.0
"""PyTorch exports. torch is not installed here: tests/data/torch holds what torch.onnx made and what torch answered."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from concord_export import Wrapping, verify_package, wrap_onnx
from concord_export.__main__ import main
from concord_export.comparison import compare_arrays
from concord_export.errors import ParityError
from concord_export.limits import Limits
from concord_export.notes import without_notes
from concord_export.runtime import Session
from onnx import TensorProto, helper

DATA = Path(__file__).parent / "data" / "torch"


@pytest.mark.parametrize(("name", "inputs", "labels"), [("digits", ["pixels"], 0), ("words", ["ids"], 40)])
def test_the_graph_answers_as_torch_did(name: str, inputs: list[str], labels: int) -> None:
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as held:
        arrays = dict(held.items())
    rows = {key: arrays.pop(key) for key in inputs}
    session = Session(DATA / f"{name}.onnx")
    got = session.run(rows)
    parity = compare_arrays(arrays, got, Limits(1e-5, 1e-6))
    assert parity.rows == 40
    assert parity.labels_compared == labels
    assert 0 < parity.max_absolute_error < 1e-6


def test_a_package_of_it(tmp_path: Path) -> None:
    wrapped = wrap_onnx(DATA / "words.onnx", tmp_path / "words" / "1", Wrapping(kind="tabular", lengths={"length": 5}))
    assert list(wrapped.manifest.features[0].feature.shape) == [-1]
    assert [item.prediction.name for item in wrapped.manifest.predictions] == ["score"]
    assert [item.output.name for item in wrapped.manifest.outputs] == ["place"]
    assert verify_package(wrapped.directory).golden_cases == 3


@pytest.mark.parametrize("name", ["digits", "words"])
def test_nothing_of_the_authors_machine_is_in_it(name: str) -> None:
    data = (DATA / f"{name}.onnx").read_bytes()
    assert b".py" not in data
    assert b"stack_trace" not in data
    assert {opset.domain for opset in onnx.ModelProto.FromString(data).opset_import} <= {""}


def test_notes_are_taken_off() -> None:
    node = helper.make_node("Identity", ["x"], ["y"], doc_string="/home/somebody/model.py")
    node.metadata_props.add(key="stack_trace", value="secret")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    value[0].metadata_props.add(key="from", value="secret")
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:], doc_string="secret"))
    model.metadata_props.add(key="author", value="secret")
    plain = without_notes(model).SerializeToString()
    assert b"secret" not in plain
    assert b"somebody" not in plain


def test_comparison() -> None:
    limits = Limits(1e-5, 1e-6)
    numbers, labels = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32), np.array(["a", "b"], dtype=object)
    same = compare_arrays({"n": numbers, "l": labels}, {"n": numbers.copy(), "l": labels.copy()}, limits)
    assert (same.rows, same.max_absolute_error, same.max_ulp_error, same.labels_compared) == (2, 0, 0, 2)
    off = numbers.copy()
    off[1, 0] += 1
    with pytest.raises(
        ParityError, match=r"output 'n': .* on 1 of 2 rows; .* Worst row: 1, expected \[3.0, nan\], got \[4.0"
    ):
        compare_arrays({"n": numbers}, {"n": off}, limits)
    with pytest.raises(ParityError, match="1 of 2 rows differ, the first is 1"):
        compare_arrays({"l": labels}, {"l": np.array(["a", "c"], dtype=object)}, limits)
    with pytest.raises(ParityError, match=r"expected shape \[2, 2\], got \[2\]"):
        compare_arrays({"n": numbers}, {"n": numbers[:, 0]}, limits)


def test_without_torch_the_command_says_what_to_install(tmp_path: Path) -> None:
    assert importlib.util.find_spec("torch") is None, "torch is never installed for the tests"
    result = CliRunner().invoke(main, ["torch", "train:source", str(tmp_path / "models" / "m")])
    assert result.exit_code == 1
    assert "pip install 'concord-export[torch]'" in result.stderr
