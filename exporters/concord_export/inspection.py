# SPDX-License-Identifier: Apache-2.0
"""A package for people: what it takes and gives, how near it is to its source, what is in it."""

from __future__ import annotations

from typing import Any

from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table
from rich.text import Text

from concord_export.package import Package

__all__ = ["as_document", "print_package"]


def as_document(package: Package) -> dict[str, Any]:
    """The manifest as proto JSON, with the number of golden cases and their tolerances."""
    document: dict[str, Any] = {"manifest": json_format.MessageToDict(package.manifest)}
    document["golden"] = {
        "cases": len(package.golden.cases),
        "absoluteTolerance": package.golden.absolute_tolerance,
        "relativeTolerance": package.golden.relative_tolerance,
    }
    return document


def print_package(package: Package, console: Console) -> None:
    """Prints tables of the package."""
    manifest = package.manifest
    version, model_id = package.directory.resolve().name, package.directory.resolve().parent.name
    kind = model_pb2.ModelKind.Name(manifest.kind).removeprefix("MODEL_KIND_").lower()
    console.print(Text(f"{model_id} version {version}, {kind}", style="bold"))
    if manifest.description:
        console.print(Text(manifest.description))
    if manifest.features:
        table = _table("Features", "name", "type", "default", "goes to", "description")
        for binding in manifest.features:
            feature = binding.feature
            goes_to = f"{binding.input}[{binding.column}]"
            kind_and_shape = _type(feature.type, feature.shape)
            _row(table, feature.name, kind_and_shape, _default(feature), goes_to, feature.description)
        console.print(table)
    for limit in manifest.axis_limits:
        console.print(Text(f"Axis {limit.axis} of {limit.input}: at most {limit.max_length}"))
    if manifest.predictions:
        table = _table("Predictions", "name", "comes from", "description")
        for prediction in manifest.predictions:
            comes_from = f"{prediction.output}[{prediction.index}]"
            _row(table, prediction.prediction.name, comes_from, prediction.prediction.description)
        console.print(table)
    if manifest.outputs:
        table = _table("Outputs", "name", "type", "comes from", "description")
        for bound in manifest.outputs:
            output = bound.output
            comes_from = bound.onnx_output if output.shape else f"{bound.onnx_output}[{bound.index}]"
            _row(table, output.name, _type(output.type, output.shape), comes_from, output.description)
        console.print(table)
    console.print(_parity(package))
    if manifest.quality:
        table = _table("Quality on held-out rows", "measure", "value", "rows")
        for metric in manifest.quality:
            _row(table, metric.name, f"{metric.value:.4g}", str(metric.rows))
        console.print(table)
    table = _table("Files", "name", "bytes", "sha256")
    for file in manifest.files:
        _row(table, file.name, str(file.size_bytes), file.sha256)
    console.print(table)
    table = _table("Versions", "of", "version")
    _row(table, "made by", manifest.producer)
    for domain, opset in sorted(manifest.opsets.items()):
        _row(table, f"operators {domain or 'ai.onnx'}", str(opset))
    for library, used in sorted(manifest.library_versions.items()):
        _row(table, library, used)
    console.print(table)


def _parity(package: Package) -> Table:
    manifest = package.manifest
    table = _table("Parity with the source", "what", "value")
    if manifest.HasField("parity"):
        parity = manifest.parity
        _row(table, "rows compared", str(parity.rows))
        _row(table, "largest difference", f"{parity.max_absolute_error:.3g} ({parity.max_ulp_error} ULP)")
        _row(table, "limit", f"{parity.absolute_limit:g} + {parity.relative_limit:g} * |source|")
        _row(table, "labels compared", f"{parity.labels_compared}, all equal" if parity.labels_compared else "none")
        _row(table, "together as alone", "bit for bit" if parity.batched_equals_single else "no")
    else:
        _row(table, "rows compared", "none: there was no source to compare with")
    _row(table, "requests share a run", "yes" if manifest.batching.batchable else "no")
    _row(table, "golden cases", str(len(package.golden.cases)))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _row(table: Table, *cells: str) -> None:
    # As text: a description may hold what Rich takes for markup.
    table.add_row(*(Text(cell) for cell in cells))


def _type(kind: model_pb2.FeatureType, shape: Any) -> str:
    name = model_pb2.FeatureType.Name(kind).removeprefix("FEATURE_TYPE_").lower()
    return name + (str(list(shape)) if shape else "")


def _default(feature: model_pb2.Feature) -> str:
    if feature.required:
        return "(required)"
    value: inference_service_pb2.FeatureValue = feature.default_value
    kind = value.WhichOneof("value")
    if kind is None:
        return "(none)"
    content = getattr(value, kind)
    return repr(list(content.values)) if kind.endswith("_array") else repr(content)
