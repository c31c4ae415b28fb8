# SPDX-License-Identifier: Apache-2.0
"""PyTorch: a module in this process to a model package, by torch.onnx.

torch is no requirement of this package: who exports a module has it. Saved modules are not read: they are pickles.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from concord_proto.modelpackage.v1 import manifest_pb2

from concord_export.errors import ConversionError, SourceError
from concord_export.notes import without_notes
from concord_export.progress import Progress
from concord_export.source import Metric
from concord_export.wrapping import Together, Wrapped, Wrapping, wrap_onnx

__all__ = ["TorchSource", "export_torch"]

_OPSET = 21


@dataclass(frozen=True)
class TorchSource:
    """A PyTorch module and what is needed to export it; what a function named on the command line returns.

    module: a torch.nn.Module in this process, on any device; it is put into evaluation mode. Its forward takes tensors
        whose axis 0 counts rows, and gives a tensor or a tuple of tensors of which the same holds.
    rows: real rows, an array [rows, ...] for each of forward's parameters, in their order, by the names that clients
        see. The export is compared with the module on all of them.
    outputs: names of what forward gives, in its order.
    open_axes: axes beside axis 0 whose length may differ from request to request: by input, axis to name.
    max_lengths: the greatest lengths of such axes, by their names, where the module fails on more.
    Everything else is as in Wrapping.
    """

    module: Any
    rows: Mapping[str, npt.NDArray[Any]]
    outputs: Sequence[str]
    open_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    max_lengths: Mapping[str, int] = field(default_factory=dict)
    kind: str = "tensor"
    description: str = ""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    together: Together = "exact"
    quality: Sequence[Metric] = ()
    absolute_limit: float = 1e-5
    relative_limit: float = 1e-6


def export_torch(
    source: TorchSource, directory: Path | str, *, replace_existing: bool = False, progress: Progress | None = None
) -> Wrapped:
    """Writes the package of a module to `<repository>/<model id>/<version>`.

    Nothing is written unless the graph answers like the module on all rows. Raises SourceError, ConversionError,
    ParityError, PackageError.
    """
    rows = {name: np.asarray(array) for name, array in source.rows.items()}
    if not rows or len({len(array) for array in rows.values()}) != 1 or not len(next(iter(rows.values()))):
        raise SourceError("rows: expected the same number of rows, at least one, for each input")
    if not isinstance(source.module, torch.nn.Module):
        raise SourceError(f"module: expected a torch.nn.Module, got {type(source.module).__name__}")
    module = source.module.eval().cpu()
    answers = _ask(module, rows, source.outputs)
    manifest = manifest_pb2.Manifest()
    manifest.library_versions["torch"] = importlib.metadata.version("torch")
    wrapping = Wrapping(
        kind=source.kind,
        max_lengths=source.max_lengths,
        description=source.description,
        columns=source.columns,
        classes=source.classes,
        manifest=manifest,
        inputs=[{name: array[row : row + 1] for name, array in rows.items()} for row in range(_count(rows))],
        answers=answers,
        together=source.together,
        quality=source.quality,
        absolute_limit=source.absolute_limit,
        relative_limit=source.relative_limit,
    )
    if progress is not None:
        progress("converting", 0, 1)
    model = _convert(module, rows, source)
    return wrap_onnx(model, directory, wrapping, replace_existing=replace_existing, progress=progress)


def _count(rows: Mapping[str, npt.NDArray[Any]]) -> int:
    return len(next(iter(rows.values())))


def _ask(module: Any, rows: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    with torch.no_grad():
        given = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in rows.values()))
    given = given if isinstance(given, (tuple, list)) else (given,)
    if len(given) != len(outputs) or not all(isinstance(value, torch.Tensor) for value in given):
        raise SourceError(f"outputs: {len(outputs)} names for {len(given)} results; each must be a tensor")
    return {name: value.numpy() for name, value in zip(outputs, given, strict=True)}


def _convert(module: Any, rows: Mapping[str, npt.NDArray[Any]], source: TorchSource) -> bytes:
    # Two rows: of an axis of length 1 torch takes for granted that it has that length.
    taken = [0, min(1, _count(rows) - 1)]
    examples = tuple(torch.from_numpy(np.ascontiguousarray(array[taken])) for array in rows.values())
    batch = torch.export.Dim("rows")
    axes: dict[str, Any] = {}
    shapes = []
    for name in rows:
        shape = {0: batch}
        for axis, axis_name in source.open_axes.get(name, {}).items():
            shape[axis] = axes.setdefault(axis_name, torch.export.Dim(axis_name))
        shapes.append(shape)
    try:
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            input_names=[*rows],
            output_names=[*source.outputs],
            dynamic_shapes=tuple(shapes),
            opset_version=_OPSET,
            verbose=False,
        )
        model = program.model_proto
    except Exception as error:
        # torch raises whatever its many authors found fit.
        raise ConversionError(f"torch.onnx.export: {error}") from error
    return without_notes(model).SerializeToString(deterministic=True)
