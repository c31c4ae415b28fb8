# SPDX-License-Identifier: Apache-2.0
"""Any ONNX graph to a model package: what the graph itself tells, what its author adds, and what it answers here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from google.protobuf.message import DecodeError

from concord_export.admission import check_admission
from concord_export.bindings import bind
from concord_export.comparison import compare_arrays
from concord_export.errors import ConversionError, PackageExistsError, SourceError
from concord_export.limits import Limits
from concord_export.package import check_model_id, check_version, write_package
from concord_export.progress import Progress, followed
from concord_export.runtime import Session, TensorInfo, is_float
from concord_export.source import Metric
from concord_export.tensors import write_tensor
from concord_export.verification import check_bindings, run_golden
from concord_export.zipmap import ZipMap, without_zip_maps

__all__ = ["Together", "Wrapped", "Wrapping", "split_rows", "wrap_onnx"]

Arrays = Mapping[str, npt.NDArray[Any]]
Together = Literal["exact", "within-limits", "never"]

_SEED = 20260101
_LENGTH = 8
_ROWS = 16
_CASES, _GIVEN_CASES = 3, 16
# How many rows are tried together, as long as they are not too large.
_SIZES = (2, 3, 5, 8, 17, 64, 256)
_TRIAL_BYTES = 64 << 20


@dataclass(frozen=True)
class Wrapping:
    """What an author may say of an ONNX graph; the rest is read from the graph.

    kind: "tensor" (tensors in and out; each input is a feature as well) or "tabular" (named features and predictions).
    columns: names for the columns of an input [rows, columns], by the input's name. For kind tabular.
    classes: names for the columns of an output [rows, classes], by the output's name. For kind tabular.
    manifest: what the manifest shall hold instead of what is read from the graph: kind, description, features,
        predictions, outputs, quality, parity, axis_limits. Whatever is set there wins.
    inputs: rows to try the graph on, each with all inputs as the graph takes them; without it they are made.
    answers: what the source of the graph answered to the inputs, by the output's name, one after the other on axis 0:
        the graph is compared with it.
    lengths: the lengths of open axes in made inputs, by the axis's name in the graph or by "input.axis"; 8 by default.
    max_lengths: the greatest lengths of open axes, where the graph fails on more, by the axis's name in the graph or by
        "input.axis": servers refuse what is longer.
    ranges: the least and the greatest number in made inputs, by the input's name; by default integers are 0 to 9 and
        floats spread around 0 with a deviation of 1.
    together: when requests may share a run: "exact" where rows together give the bits that each gives alone,
        "within-limits" where they give the same numbers within the limits, "never".
    integer_division: whether integers may be divided by what goes in; only servers with allow_integer_division take it.
    """

    kind: str = "tensor"
    description: str = ""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    manifest: manifest_pb2.Manifest | None = None
    inputs: Sequence[Arrays] = ()
    answers: Arrays = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    max_lengths: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    together: Together = "exact"
    integer_division: bool = False
    quality: Sequence[Metric] = ()
    absolute_limit: float = 1e-5
    relative_limit: float = 1e-6
    extra_files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Wrapped:
    """What was written. `notes` are what the author should know."""

    directory: Path
    manifest: manifest_pb2.Manifest
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    notes: tuple[str, ...]


def wrap_onnx(
    model: Path | bytes,
    directory: Path | str,
    wrapping: Wrapping | None = None,
    *,
    replace_existing: bool = False,
    progress: Progress | None = None,
) -> Wrapped:
    """Writes the package of an ONNX graph, given as a file or as bytes, to `<repository>/<model id>/<version>`.

    The graph's bytes stay as they are, unless a ZipMap has to be taken off. External data is packed as well. The golden
    cases hold what the graph answers in this process.

    Raises SourceError, ConversionError, PackageError, OSError.
    """
    wrapping = Wrapping() if wrapping is None else wrapping
    directory = Path(directory)
    check_model_id(directory.parent.name)
    check_version(directory.name)
    if directory.exists() and not replace_existing:
        raise PackageExistsError(f"{directory} is there already; choose another version, or replace it")
    serialized = model if isinstance(model, bytes) else _read(model)
    graph = _parse(serialized)
    files = {**_external_data(graph, model), **wrapping.extra_files}
    notes: list[str] = []
    zip_maps: dict[str, ZipMap] = {}
    if any(node.op_type == "ZipMap" for node in graph.graph.node):
        graph, zip_maps = without_zip_maps(graph)
        serialized = graph.SerializeToString(deterministic=True)
        for name, zip_map in zip_maps.items():
            notes.append(
                f"output {name!r} was a list of maps (ZipMap), which cannot be served; it is now {zip_map.tensor!r}, "
                f"a tensor of {len(zip_map.classes)} numbers for each row"
            )
    check_admission(serialized, frozenset(files), integer_division=wrapping.integer_division)
    session = _session(serialized, files, model)

    rows = [dict(row) for row in wrapping.inputs] or _made_rows(session, wrapping)
    _check_rows(session, rows)
    answers = [_run_twice(session, row) for row in followed(rows, "running rows one by one", progress)]
    parity = _parity(session, wrapping, answers)
    batchable, why = _trial(session, rows, answers, wrapping, progress)
    notes.append(f"servers {'may run requests together' if batchable else 'run requests one by one'}: {why}")
    manifest = _manifest(session, wrapping, {zip_map.tensor: zip_map.classes for zip_map in zip_maps.values()})
    manifest.batching.batchable = batchable
    if parity is not None:
        manifest.parity.CopyFrom(parity)
    if manifest.HasField("parity"):
        manifest.parity.batched_equals_single = batchable
    check_bindings(session, manifest)
    golden = _golden(session, manifest, rows, answers, wrapping, batchable)
    run_golden(session, manifest, golden)
    write_package(
        directory, model=serialized, manifest=manifest, golden=golden, extra_files=files, replace=replace_existing
    )
    return Wrapped(directory, manifest, tuple(session.inputs.values()), tuple(session.outputs.values()), tuple(notes))


def split_rows(model: Path, arrays: Arrays) -> tuple[list[dict[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]:
    """Arrays of rows, of a graph's inputs and perhaps of its outputs, as Wrapping's inputs and answers."""
    inputs = {value.name for value in _parse(_read(model)).graph.input}
    given = {name: array for name, array in arrays.items() if name in inputs}
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if not given or len(lengths) != 1 or 0 in lengths:
        raise SourceError("rows: expected arrays of the same number of rows, at least one, and one for each input")
    rows = [{name: array[row : row + 1] for name, array in given.items()} for row in range(*lengths)]
    return rows, {name: array for name, array in arrays.items() if name not in inputs}


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise SourceError(f"{path}: is no file")
    return path.read_bytes()


def _parse(serialized: bytes) -> onnx.ModelProto:
    try:
        graph = onnx.ModelProto.FromString(serialized)
    except DecodeError:
        raise SourceError(f"expected an ONNX model, got {len(serialized)} bytes that are none") from None
    if not graph.HasField("graph") or not graph.graph.node:
        raise SourceError("expected an ONNX model with a graph of at least one node")
    return graph


def _external_data(graph: onnx.ModelProto, model: Path | bytes) -> dict[str, bytes]:
    """The files beside the model that hold its tensors' data."""
    names = {
        entry.value
        for tensor in onnx.external_data_helper._get_all_tensors(graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = {}
    for name in sorted(names):
        if isinstance(model, bytes):
            raise SourceError(
                f"the graph has data in the file {name!r}; hand it over as a file, with that one beside it"
            )
        if Path(name).name != name:
            raise SourceError(f"the graph has data in the file {name!r}; it must lie beside the graph")
        files[name] = _read(model.parent / name)
    return files


def _session(serialized: bytes, files: Mapping[str, bytes], model: Path | bytes) -> Session:
    # ONNX Runtime finds external data beside a file only, and nothing may stand between it and the graph then.
    session = Session(model if files and isinstance(model, Path) and _has_external(serialized) else serialized)
    for what, infos in (("input", session.inputs), ("output", session.outputs)):
        for info in infos.values():
            if info.dtype is None:
                raise ConversionError(f"{what} {info.name!r} is a {info.type}, which cannot be served")
    if not session.inputs or not session.outputs:
        raise ConversionError("the graph has no input or no output")
    return session


def _has_external(serialized: bytes) -> bool:
    tensors = onnx.external_data_helper._get_all_tensors(onnx.ModelProto.FromString(serialized))
    return any(tensor.external_data for tensor in tensors)


def _made_rows(session: Session, wrapping: Wrapping) -> list[dict[str, npt.NDArray[Any]]]:
    """Rows of seeded values, always the same. Axis 0 has length 1 where the graph leaves it open."""
    rng = np.random.default_rng(_SEED)
    return [{name: _made(info, wrapping, rng) for name, info in session.inputs.items()} for _ in range(_ROWS)]


def _made(info: TensorInfo, wrapping: Wrapping, rng: np.random.Generator) -> npt.NDArray[Any]:
    shape = []
    for axis, length in enumerate(info.shape):
        named = _of_axis(wrapping.lengths, info, axis)
        most = _of_axis(wrapping.max_lengths, info, axis)
        made = 1 if axis == 0 else _LENGTH if most is None else min(_LENGTH, most)
        shape.append(length if length is not None else named if named is not None else made)
    low, high = wrapping.ranges.get(info.name, (None, None))
    dtype = np.dtype(info.dtype)
    if dtype.kind == "O":
        words = [f"word{index}" for index in range(10)]
        return rng.choice(words, shape).astype(object)
    if dtype.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if is_float(dtype):
        values = rng.standard_normal(shape) if low is None or high is None else rng.uniform(low, high, shape)
        # Features carry 32-bit floats in arrays, so that no more than those is asked of a double.
        return np.asarray(values).astype(np.float32).astype(dtype)
    first, last = (0, 9) if low is None or high is None else (int(low), int(high))
    return np.asarray(rng.integers(first, last, shape, endpoint=True)).astype(dtype)


def _of_axis(lengths: Mapping[str, int], info: TensorInfo, axis: int) -> int | None:
    return lengths.get(f"{info.name}.{axis}", lengths.get(info.axes[axis]))


def _axis_limits(session: Session, wrapping: Wrapping) -> list[manifest_pb2.AxisLimit]:
    limits = []
    known = set()
    for info in session.inputs.values():
        for axis, length in enumerate(info.shape):
            if length is None:
                known |= {f"{info.name}.{axis}", info.axes[axis]}
                if (most := _of_axis(wrapping.max_lengths, info, axis)) is not None:
                    limits.append(manifest_pb2.AxisLimit(input=info.name, axis=axis, max_length=most))
    if unknown := sorted(set(wrapping.max_lengths) - known):
        raise SourceError(f"max_lengths: no input has an open axis {unknown[0]!r}; there are {sorted(known)}")
    return limits


def _check_rows(session: Session, rows: Sequence[Arrays]) -> None:
    for index, row in enumerate(rows):
        if set(row) != set(session.inputs):
            raise SourceError(f"inputs {index}: expected {sorted(session.inputs)}, got {sorted(row)}")
        for name, array in row.items():
            info = session.inputs[name]
            if array.dtype != info.dtype:
                raise SourceError(f"inputs {index}: {name!r}: expected {info.dtype}, got {array.dtype}")


def _run_twice(session: Session, row: Arrays) -> dict[str, npt.NDArray[Any]]:
    try:
        first, second = session.run(row), session.run(row)
    except ConversionError as error:
        shapes = {name: list(array.shape) for name, array in row.items()}
        raise ConversionError(
            f"{error}\nIt was tried on inputs of the shapes {shapes}. If the graph needs others, give some (--inputs), "
            "or say what to make (--length, --range)"
        ) from None
    for name, array in first.items():
        if not _same(array, second[name]):
            raise ConversionError(f"output {name!r} differs from one run to the next: the graph answers at random")
    return first


def _same(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.dtype.kind == "O":
        return bool((first == second).all())
    return first.tobytes() == second.tobytes()


def _parity(session: Session, wrapping: Wrapping, alone: Sequence[Arrays]) -> model_pb2.ParityRecord | None:
    if not wrapping.answers:
        return None
    if not wrapping.inputs:
        raise SourceError("answers: they are to inputs, and there are none")
    got = {}
    for name, wanted in wrapping.answers.items():
        if name not in session.outputs:
            raise SourceError(f"answers: the graph has no output {name!r}; it has {sorted(session.outputs)}")
        got[name] = np.concatenate([np.atleast_1d(answer[name]) for answer in alone])
        if wanted.dtype != got[name].dtype:
            raise SourceError(f"answers: {name!r}: expected {got[name].dtype}, got {wanted.dtype}")
    return compare_arrays(wrapping.answers, got, Limits(wrapping.absolute_limit, wrapping.relative_limit))


def _trial(
    session: Session,
    rows: Sequence[Arrays],
    alone: Sequence[Arrays],
    wrapping: Wrapping,
    progress: Progress | None,
) -> tuple[bool, str]:
    """Whether rows may share a run, joined on axis 0, and why. They are tried in several numbers."""
    if wrapping.together == "never":
        return False, "as you said"
    for what, infos in (("input", session.inputs), ("output", session.outputs)):
        for info in infos.values():
            if not info.shape or info.shape[0] is not None:
                return False, f"{what} {info.name!r} has no open axis 0"
    if any(array.shape[:1] != (1,) for row in (*rows, *alone) for array in row.values()):
        return False, "a row's inputs or outputs have another length than 1 on axis 0"
    shapes = [{name: array.shape for name, array in row.items()} for row in rows]
    alike = [index for index, shape in enumerate(shapes) if shape == shapes[0]]
    if len(alike) < 2:
        return False, "no two of the inputs have the same shape, so that it could not be tried"
    limits = Limits(wrapping.absolute_limit, wrapping.relative_limit)
    each = sum(array.nbytes for array in (*rows[alike[0]].values(), *alone[alike[0]].values()))
    largest, tried = 0.0, 0
    for size in followed(_SIZES, "running rows together", progress):
        if tried and size * each > _TRIAL_BYTES:
            break
        # The same rows again and again: it is their number that may change how a sum is made.
        chosen = [alike[place % len(alike)] for place in range(size)]
        try:
            together = session.run({name: np.concatenate([rows[row][name] for row in chosen]) for name in rows[0]})
        except ConversionError as error:
            return False, f"{size} rows together fail: {error}"
        tried = size
        for name, array in together.items():
            expected = np.concatenate([alone[row][name] for row in chosen])
            if _same(array, expected):
                continue
            difference = _difference(array, expected, limits)
            if difference is None:
                return False, f"output {name!r} of {size} rows together is not that of each alone"
            largest = max(largest, difference)
    if largest == 0.0:
        return True, f"2 to {tried} rows together gave the bits that each gave alone"
    if wrapping.together == "exact":
        return (
            False,
            f"rows together differ from each alone by up to {largest:.3g} (--together within-limits allows it)",
        )
    return True, f"rows together differ from each alone by up to {largest:.3g}, within the limits"


def _difference(got: npt.NDArray[Any], expected: npt.NDArray[Any], limits: Limits) -> float | None:
    """The largest difference, or None where it is beyond the limits or not one of numbers."""
    if got.shape != expected.shape or not is_float(got.dtype):
        return None
    wanted, answer = expected.astype(np.float64), got.astype(np.float64)
    if (limits.excess(wanted, answer) > 1).any():
        return None
    with np.errstate(invalid="ignore"):
        difference = np.abs(answer - wanted)
    # Only the sign of a zero or the bits of a NaN differ: a difference all the same.
    return float(difference[np.isfinite(difference)].max(initial=0.0)) or float(np.finfo(np.float64).tiny)


def _manifest(session: Session, wrapping: Wrapping, classes: Mapping[str, Sequence[str]]) -> manifest_pb2.Manifest:
    manifest = manifest_pb2.Manifest(description=wrapping.description)
    given = manifest_pb2.Manifest() if wrapping.manifest is None else wrapping.manifest
    kinds = {"tensor": model_pb2.MODEL_KIND_TENSOR, "tabular": model_pb2.MODEL_KIND_TABULAR}
    if wrapping.kind not in kinds:
        raise SourceError(f"kind: expected tensor or tabular, got {wrapping.kind!r}")
    manifest.kind = given.kind or kinds[wrapping.kind]
    if manifest.kind == model_pb2.MODEL_KIND_TABULAR:
        bind(session, manifest, given, columns=wrapping.columns, classes={**classes, **wrapping.classes})
    elif wrapping.columns or wrapping.classes:
        raise SourceError("names of columns and classes are for kind tabular")
    manifest.description = given.description or manifest.description
    manifest.batching.max_batch_rows = given.batching.max_batch_rows
    for metric in wrapping.quality:
        manifest.quality.add(name=metric.name, value=metric.value, rows=metric.rows)
    manifest.quality.extend(given.quality)
    manifest.axis_limits.extend(given.axis_limits or _axis_limits(session, wrapping))
    if given.HasField("parity"):
        manifest.parity.CopyFrom(given.parity)
    manifest.library_versions.update(given.library_versions)
    for name, version in (("numpy", np.__version__), ("onnxruntime", _runtime_version())):
        manifest.library_versions[name] = version
    return manifest


def _runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _golden(
    session: Session,
    manifest: manifest_pb2.Manifest,
    rows: Sequence[Arrays],
    answers: Sequence[Arrays],
    wrapping: Wrapping,
    batchable: bool,
) -> golden_pb2.GoldenSet:
    golden = golden_pb2.GoldenSet(
        absolute_tolerance=wrapping.absolute_limit, relative_tolerance=wrapping.relative_limit
    )
    most = _GIVEN_CASES if wrapping.inputs else _CASES
    spread = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int).tolist()
    chosen = [(rows[row], answers[row]) for row in spread]
    if manifest.kind == model_pb2.MODEL_KIND_TABULAR:
        for row, answer in chosen:
            case = golden.cases.add()
            _features(manifest, row, case.features)
            _predictions(manifest, answer, case.predictions)
        return golden
    if batchable:
        # Rows together are another path through the graph.
        alike = [row for row in rows if all(row[name].shape == rows[0][name].shape for name in row)][:_CASES]
        joined = {name: np.concatenate([row[name] for row in alike]) for name in rows[0]}
        chosen.append((joined, session.run(joined)))
    for row, answer in chosen:
        case = golden.cases.add()
        for name, array in row.items():
            write_tensor(array, case.tensors.inputs[name])
        for name, array in answer.items():
            write_tensor(array, case.outputs.outputs[name])
    return golden


def _features(manifest: manifest_pb2.Manifest, row: Arrays, request: inference_service_pb2.PredictRequest) -> None:
    for binding in manifest.features:
        array = row[binding.input].reshape(-1)
        shape = list(binding.feature.shape)
        count = array.size if -1 in shape else int(np.prod(shape))
        value = request.features[binding.feature.name]
        _value(value, array[binding.column : binding.column + count], binding.feature.type, array_of=bool(shape))


def _predictions(
    manifest: manifest_pb2.Manifest, answer: Arrays, response: inference_service_pb2.PredictResponse
) -> None:
    for binding in manifest.predictions:
        element = answer[binding.output].reshape(-1)[binding.index]
        response.predictions[binding.prediction.name] = float(np.float32(element))
    for bound in manifest.outputs:
        array = answer[bound.onnx_output].reshape(-1)
        chosen = array if bound.output.shape else array[bound.index : bound.index + 1]
        _value(response.outputs[bound.output.name], chosen, bound.output.type, array_of=bool(bound.output.shape))


def _value(
    value: inference_service_pb2.FeatureValue,
    elements: npt.NDArray[Any],
    kind: model_pb2.FeatureType,
    *,
    array_of: bool,
) -> None:
    items = elements.astype(np.float64).tolist() if elements.dtype == ml_dtypes.bfloat16 else elements.tolist()
    if kind in (model_pb2.FEATURE_TYPE_FLOAT, model_pb2.FEATURE_TYPE_DOUBLE):
        if array_of:
            value.float_array.values.extend(items)
        elif kind == model_pb2.FEATURE_TYPE_FLOAT:
            value.float_value = items[0]
        else:
            value.double_value = items[0]
    elif kind == model_pb2.FEATURE_TYPE_STRING:
        if array_of:
            value.string_array.values.extend(items)
        else:
            value.string_value = items[0]
    elif array_of:
        value.int64_array.values.extend(int(item) for item in items)
    elif kind == model_pb2.FEATURE_TYPE_BOOL:
        value.bool_value = items[0]
    else:
        value.int64_value = items[0]
    # What an empty array has none of still has a kind.
    if array_of and not items:
        field = {model_pb2.FEATURE_TYPE_STRING: "string_array"}.get(kind, "int64_array")
        if kind in (model_pb2.FEATURE_TYPE_FLOAT, model_pb2.FEATURE_TYPE_DOUBLE):
            field = "float_array"
        getattr(value, field).SetInParent()
