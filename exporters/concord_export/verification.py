# SPDX-License-Identifier: Apache-2.0
"""Verifies a package as a server does: files, bindings against the graph, and the golden cases in this process."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2

from concord_export.admission import check_admission
from concord_export.errors import ConversionError, PackageInvalidError
from concord_export.package import MODEL_FILE, Package, read_package
from concord_export.runtime import Session, TensorInfo, is_float
from concord_export.tensors import read_tensor

__all__ = ["Verification", "check_bindings", "run_golden", "verify_package"]

# As the servers have it: more values fit in no message.
_MAX_LENGTH = 1 << 31


@dataclass(frozen=True)
class Verification:
    """A package that holds what it says: the golden cases run, and the largest difference of a number in them."""

    package: Package
    golden_cases: int
    max_absolute_error: float


def verify_package(directory: Path) -> Verification:
    """Reads a package strictly, loads its graph and runs its golden cases. Raises PackageInvalidError, OSError."""
    package = read_package(directory)
    if package.manifest.kind == model_pb2.MODEL_KIND_GENERATOR:
        # Brings ONNX Runtime GenAI with it.
        from concord_export.llama.verification import verify_generator

        verify_generator(package)
        return Verification(package, len(package.golden.cases), 0.0)
    if package.manifest.kind not in (model_pb2.MODEL_KIND_TABULAR, model_pb2.MODEL_KIND_TENSOR):
        kind = model_pb2.ModelKind.Name(package.manifest.kind)
        raise PackageInvalidError(f"{kind}: golden cases of this kind are run by the servers only")
    try:
        files = frozenset(file.name for file in package.manifest.files)
        # Whether integers may be divided by what goes in is the servers' decision.
        check_admission(package.model_path.read_bytes(), files, integer_division=True)
        session = Session(package.model_path)
    except ConversionError as error:
        raise PackageInvalidError(f"{MODEL_FILE}: {error}") from None
    largest = run_golden(session, package.manifest, package.golden)
    return Verification(package, len(package.golden.cases), largest)


def run_golden(session: Session, manifest: manifest_pb2.Manifest, golden: golden_pb2.GoldenSet) -> float:
    """Runs the golden cases through the manifest's bindings; the largest absolute difference of a number.

    Raises PackageInvalidError where a binding does not fit the graph or an answer is not the expected one.
    """
    check_bindings(session, manifest)
    largest = 0.0
    for index, case in enumerate(golden.cases):
        where = f"golden case {index}"
        try:
            if case.WhichOneof("request") == "features":
                given = session.run(_feature_tensors(session, manifest, case.features))
                pairs = _feature_answers(manifest, given, case)
            else:
                given = session.run({name: read_tensor(tensor) for name, tensor in case.tensors.inputs.items()})
                pairs = _tensor_answers(given, case)
            for name, expected, got in pairs:
                largest = max(largest, _compare(f"{where}: {name}", expected, got, golden))
        except ConversionError as error:
            raise PackageInvalidError(f"{where}: {error}") from None
    return largest


def check_bindings(session: Session, manifest: manifest_pb2.Manifest) -> None:
    """Raises PackageInvalidError where a feature, prediction or output of the manifest does not fit the graph."""
    _check_axis_limits(session, manifest)
    if manifest.kind != model_pb2.MODEL_KIND_TABULAR:
        return
    bound: dict[str, list[int]] = {name: [] for name in session.inputs}
    for index, binding in enumerate(manifest.features):
        name = _quote(binding.feature.name)
        if not binding.feature.name:
            raise PackageInvalidError(f"feature {index} has no name")
        if binding.input not in session.inputs:
            raise PackageInvalidError(f"feature {name}: the graph has no input {_quote(binding.input)}")
        if binding.feature.type == model_pb2.FEATURE_TYPE_UNSPECIFIED:
            raise PackageInvalidError(f"feature {name}: its type is not set")
        if binding.feature.max_length:
            raise PackageInvalidError(f"feature {name}: max_length is told by axis_limits")
        if binding.feature.required == binding.feature.HasField("default_value"):
            raise PackageInvalidError(f"feature {name}: a default is set exactly where it is not required")
        bound[binding.input] += range(binding.column, binding.column + math.prod(binding.feature.shape))
    for name, columns in bound.items():
        row = (
            _one_row(session.inputs[name])[1:] if _has_batch_axis(session.inputs[name]) else session.inputs[name].shape
        )
        width = math.prod(axis for axis in row if axis is not None)
        if None not in row and sorted(columns) != list(range(width)):
            raise PackageInvalidError(f"input {_quote(name)}: not each of its {width} columns is bound once")
    for what, output in (
        *((f"prediction {_quote(item.prediction.name)}", item.output) for item in manifest.predictions),
        *((f"output {_quote(item.output.name)}", item.onnx_output) for item in manifest.outputs),
    ):
        if output not in session.outputs:
            raise PackageInvalidError(f"{what}: the graph has no output {_quote(output)}")


def _check_axis_limits(session: Session, manifest: manifest_pb2.Manifest) -> None:
    limited: set[tuple[str, int]] = set()
    for limit in manifest.axis_limits:
        info = session.inputs.get(limit.input)
        if info is None:
            raise PackageInvalidError(f"axis_limits: the graph has no input {_quote(limit.input)}")
        where = f"axis_limits: input {_quote(limit.input)}"
        if not 0 <= limit.axis < len(info.shape) or info.shape[limit.axis] is not None:
            raise PackageInvalidError(f"{where}: expected an open axis, got axis {limit.axis} of {info.axes}")
        if not 1 <= limit.max_length <= _MAX_LENGTH:
            raise PackageInvalidError(f"{where}: expected a max_length from 1 to {_MAX_LENGTH}, got {limit.max_length}")
        if (limit.input, limit.axis) in limited:
            raise PackageInvalidError(f"{where}: axis {limit.axis} is limited twice")
        limited.add((limit.input, limit.axis))


def _has_batch_axis(info: TensorInfo) -> bool:
    return bool(info.shape) and info.shape[0] in (None, 1)


def _one_row(info: TensorInfo) -> list[int | None]:
    """The shape of one row's tensor."""
    return [1, *info.shape[1:]] if _has_batch_axis(info) else list(info.shape)


def _feature_tensors(
    session: Session, manifest: manifest_pb2.Manifest, request: inference_service_pb2.PredictRequest
) -> dict[str, npt.NDArray[Any]]:
    known = {binding.feature.name for binding in manifest.features}
    for name in request.features:
        if name not in known:
            raise PackageInvalidError(f"feature {_quote(name)}: the model has no such feature")
    placed: dict[str, list[tuple[int, list[Any]]]] = {name: [] for name in session.inputs}
    for binding in manifest.features:
        name = binding.feature.name
        if name in request.features:
            value = request.features[name]
        elif binding.feature.HasField("default_value"):
            value = binding.feature.default_value
        else:
            raise PackageInvalidError(f"feature {_quote(name)}: is missing")
        placed[binding.input].append((binding.column, _elements(value)))
    return {name: _row(session.inputs[name], parts) for name, parts in placed.items()}


def _row(info: TensorInfo, parts: Iterable[tuple[int, list[Any]]]) -> npt.NDArray[Any]:
    elements = [element for _, part in sorted(parts, key=lambda part: part[0]) for element in part]
    row = np.array(elements, dtype=info.dtype)
    shape = [-1 if axis is None else axis for axis in _one_row(info)]
    try:
        return row.reshape(shape)
    except ValueError:
        raise PackageInvalidError(f"input {_quote(info.name)}: {row.size} values do not fit {shape}") from None


def _elements(value: inference_service_pb2.FeatureValue) -> list[Any]:
    kind = value.WhichOneof("value")
    if kind is None:
        raise PackageInvalidError("a feature has no value")
    content = getattr(value, kind)
    return list(content.values) if kind.endswith("_array") else [content]


def _feature_answers(
    manifest: manifest_pb2.Manifest, given: dict[str, npt.NDArray[Any]], case: golden_pb2.GoldenCase
) -> Iterable[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    predictions = {item.prediction.name: item for item in manifest.predictions}
    outputs = {item.output.name: item for item in manifest.outputs}
    for name, number in case.predictions.predictions.items():
        if name not in predictions:
            raise PackageInvalidError(f"golden.binpb: the manifest has no prediction {_quote(name)}")
        binding = predictions[name]
        row = given[binding.output].reshape(-1)
        if not 0 <= binding.index < row.size:
            raise PackageInvalidError(
                f"prediction {_quote(name)}: {_quote(binding.output)} has no element {binding.index}"
            )
        yield f"prediction {_quote(name)}", np.array([number], np.float32), row[binding.index :][:1].astype(np.float32)
    for name, value in case.predictions.outputs.items():
        if name not in outputs:
            raise PackageInvalidError(f"golden.binpb: the manifest has no output {_quote(name)}")
        bound = outputs[name]
        row = given[bound.onnx_output].reshape(-1)
        got = row if bound.output.shape else row[bound.index :][:1]
        yield f"output {_quote(name)}", np.array(_elements(value), got.dtype), got


def _tensor_answers(
    given: dict[str, npt.NDArray[Any]], case: golden_pb2.GoldenCase
) -> Iterable[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    for name, tensor in case.outputs.outputs.items():
        if name not in given:
            raise PackageInvalidError(f"golden.binpb: the graph has no output {_quote(name)}")
        yield f"output {_quote(name)}", read_tensor(tensor), given[name]


def _compare(where: str, expected: npt.NDArray[Any], got: npt.NDArray[Any], golden: golden_pb2.GoldenSet) -> float:
    if expected.shape != got.shape or expected.dtype != got.dtype:
        raise PackageInvalidError(
            f"{where}: expected {expected.dtype}{list(expected.shape)}, got {got.dtype}{list(got.shape)}"
        )
    if not is_float(got.dtype):
        if not (expected == got).all():
            raise PackageInvalidError(f"{where}: expected {_shown(expected)}, got {_shown(got)}")
        return 0.0
    wanted, answer = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(answer - wanted)
        near = difference <= golden.absolute_tolerance + golden.relative_tolerance * np.abs(wanted)
    near |= (answer == wanted) | (np.isnan(answer) & np.isnan(wanted))
    # An infinite tolerance of an infinite expectation would take anything.
    near &= ~np.isinf(wanted) | (answer == wanted)
    if not near.all():
        raise PackageInvalidError(f"{where}: expected {_shown(expected)}, got {_shown(got)}")
    return float(difference[np.isfinite(difference)].max(initial=0.0))


def _shown(values: npt.NDArray[Any]) -> str:
    items = values.reshape(-1).tolist()
    return repr(items[0]) if len(items) == 1 else repr(items[:8]) + ("..." if len(items) > 8 else "")


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
