# SPDX-License-Identifier: Apache-2.0
"""The committed fixtures: built anew they are the same bytes, and ONNX Runtime gives what their golden cases say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from concord_export.package import read_package
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from generator_reference import Reference

CONFORMANCE = Path(__file__).resolve().parent.parent
FIXTURES = CONFORMANCE / "fixtures"
MOST_BYTES = 2 << 20

SOUND = sorted(
    directory.parent
    for directory in FIXTURES.glob("*/*/manifest.json")
    if not directory.parent.parent.name.startswith(("broken-", "_"))
    and directory.parent.name.isdigit()
    and not directory.parent.name.startswith("0")
    and directory.parent != FIXTURES / "half-broken" / "2" / "manifest.json"
    and directory.parent.parts[-2:] != ("half-broken", "2")
)
DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(uint16)": np.uint16,
    "tensor(int32)": np.int32,
    "tensor(uint32)": np.uint32,
    "tensor(int64)": np.int64,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": object,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_building_them_anew_gives_the_committed_bytes(tmp_path: Path) -> None:
    built = tmp_path / "fixtures"
    subprocess.run([sys.executable, str(CONFORMANCE / "build_fixtures.py"), str(built)], check=True)
    assert contents(built) == contents(FIXTURES)


def test_building_the_cases_anew_gives_the_committed_bytes(tmp_path: Path) -> None:
    """What ONNX Runtime answers too: whole numbers, or operators that do not compute."""
    subprocess.run([sys.executable, str(CONFORMANCE / "build_cases.py"), str(tmp_path)], check=True)
    built = contents(tmp_path)
    assert len(built) == 4
    assert built == {name: (CONFORMANCE / "cases" / name).read_bytes() for name in built}


def test_refused_and_admitted_are_the_graphs_of_the_admission_tests() -> None:
    verdicts = (CONFORMANCE / "admission" / "verdicts.txt").read_text(encoding="utf-8").splitlines()
    for line in verdicts:
        name, verdict = line.split(": ", 1)
        if name == "external-listed":
            continue
        fixture = FIXTURES / f"{'admitted' if verdict == 'admitted' else 'refused'}-{name}" / "1" / "model.onnx"
        assert fixture.read_bytes() == (CONFORMANCE / "admission" / f"{name}.onnx").read_bytes()


def test_they_are_small() -> None:
    assert sum(len(data) for data in contents(FIXTURES).values()) < MOST_BYTES


def test_no_links_among_them() -> None:
    assert [path for path in FIXTURES.rglob("*") if path.is_symlink()] == []


def elements(value: inference_service_pb2.FeatureValue) -> list[Any]:
    kind = value.WhichOneof("value")
    assert kind is not None
    held = getattr(value, kind)
    return list(held.values) if kind.endswith("_array") else [held]


def run(directory: Path, request: inference_service_pb2.PredictRequest) -> dict[str, Any]:
    """What ONNX Runtime gives for one row of features, by the manifest: independent of every server."""
    package = read_package(directory)
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    columns: dict[str, dict[int, Any]] = {}
    for binding in package.manifest.features:
        given = request.features.get(binding.feature.name) or binding.feature.default_value
        for offset, element in enumerate(elements(given)):
            columns.setdefault(binding.input, {})[binding.column + offset] = element
        columns.setdefault(binding.input, {})
    feeds = {}
    for spec in session.get_inputs():
        row = [columns[spec.name][column] for column in sorted(columns[spec.name])]
        shape = [1, *(-1 if isinstance(length, str) else length for length in spec.shape[1:])]
        feeds[spec.name] = np.array(row, dtype=DTYPES[spec.type]).reshape(shape)
    names = [spec.name for spec in session.get_outputs()]
    if any(spec.type == "tensor(bfloat16)" for spec in (*session.get_inputs(), *session.get_outputs())):
        return run_with_bfloat16(session, feeds, names)
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_with_bfloat16(session: Any, feeds: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """NumPy has no bfloat16: values go in and out as OrtValues of the right element type."""
    values = {}
    for name, array in feeds.items():
        if array.dtype == ml_dtypes.bfloat16:
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), 16)
        else:
            values[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name in names:
        if not name.startswith("bf16_out"):
            binding.bind_output(name)
    bound = [name for name in names if not name.startswith("bf16_out")]
    binding.bind_output("bf16_out")
    session.run_with_iobinding(binding)
    got = dict(zip([*bound, "bf16_out"], binding.get_outputs(), strict=True))
    return {name: got[name].numpy() for name in bound}


@pytest.mark.parametrize("directory", SOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_golden_cases_hold_in_onnx_runtime(directory: Path) -> None:
    package = read_package(directory)
    if package.manifest.kind == model_pb2.MODEL_KIND_TENSOR:
        session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
        for case in package.golden.cases:
            tensor = case.tensors.inputs["x"]
            fed = np.frombuffer(tensor.data, np.float32).reshape(list(tensor.shape))
            (same,) = session.run(["same"], {"x": fed})
            assert same.tobytes() == case.outputs.outputs["same"].data
        return
    if package.manifest.kind == model_pb2.MODEL_KIND_GENERATOR:
        reference = Reference(directory)
        for case in package.golden.cases:
            features, answer = case.features.features, case.predictions
            prompt = features["prompt"].string_value
            prompt = prompt if features["raw"].bool_value else reference.chat(("user", prompt))
            generated = reference.generate(prompt, case.features.config.max_tokens)
            assert generated.text == answer.outputs["text"].string_value
            assert list(generated.token_ids) == list(answer.outputs["token_ids"].int64_array.values)
            assert "FINISH_REASON_" + generated.finish == inference_service_pb2.FinishReason.Name(answer.finish_reason)
        return
    for case in package.golden.cases:
        got = run(directory, case.features)
        for prediction in package.manifest.predictions:
            value = np.asarray(got[prediction.output]).reshape(-1)[prediction.index]
            assert np.float32(value) == np.float32(case.predictions.predictions[prediction.prediction.name])
        for output in package.manifest.outputs:
            if output.onnx_output not in got:
                continue
            wanted = elements(case.predictions.outputs[output.output.name])
            flat = np.asarray(got[output.onnx_output]).reshape(-1).tolist()
            assert (flat if output.output.shape else flat[output.index : output.index + 1]) == wanted


def test_the_classifiers_numbers_in_the_cases_come_from_onnx_runtime() -> None:
    request = inference_service_pb2.PredictRequest()
    request.features["x"].float_value = 1
    request.features["y"].float_value = 2
    got = run(FIXTURES / "classifier" / "1", request)
    text = (CONFORMANCE / "cases" / "core_values.yaml").read_text(encoding="utf-8")
    for value in got["probabilities"].reshape(-1):
        assert repr(float(value)) in text
    assert got["label"].reshape(-1).tolist() == ["north"]


def test_the_classifiers_tensors_in_the_cases_come_from_onnx_runtime() -> None:
    session = onnxruntime.InferenceSession(str(FIXTURES / "classifier" / "1" / "model.onnx"))
    (got,) = session.run(["probabilities"], {"x": np.array([[1, 2], [0, 0]], np.float32)})
    text = (CONFORMANCE / "cases" / "tensor_requests.yaml").read_text(encoding="utf-8")
    (given,) = re.findall(r'outputs\["probabilities"\]\.data\', hex: "([0-9a-f ]+)"', text)
    wanted = np.frombuffer(bytes.fromhex(given), np.float32).reshape(2, 3)
    assert np.allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_every_broken_package_is_broken_in_its_own_way() -> None:
    """No two are alike."""
    seen: dict[bytes, str] = {}
    for manifest in sorted(FIXTURES.glob("broken-*/1/manifest.json")):
        whole = b"".join(path.read_bytes() for path in sorted(manifest.parent.iterdir()))
        assert whole not in seen, f"{manifest.parent.parent.name} is the same as {seen[whole]}"
        seen[whole] = manifest.parent.parent.name
    assert len(seen) >= 20


def test_labels_are_as_the_cases_say() -> None:
    labels = json.loads((FIXTURES / "version" / "labels.json").read_text(encoding="utf-8"))
    assert labels == {"stable": "1", "canary": 10, "gone": "7"}
