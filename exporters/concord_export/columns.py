# SPDX-License-Identifier: Apache-2.0
"""Rows as the wire carries them: one typed column after the other.

From the same columns come the tensors of the ONNX inputs and the array that the source model sees, so both see the same
values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from concord_export.errors import SourceError
from concord_export.source import Feature, FeatureKind

__all__ = ["INPUT_NAMES", "Column", "Columns", "read_columns"]

INPUT_NAMES: dict[FeatureKind, str] = {
    "float": "float_features",
    "double": "double_features",
    "int64": "int64_features",
    "bool": "bool_features",
    "string": "string_features",
}
"""The ONNX input of each kind of feature: a tensor [rows, columns of that kind]."""

_DTYPES: dict[FeatureKind, npt.DTypeLike] = {
    "float": np.float32,
    "double": np.float64,
    "int64": np.int64,
    "bool": np.bool_,
    "string": np.object_,
}


@dataclass(frozen=True)
class Column:
    """A column of the rows: the feature that it belongs to, and its place in the ONNX input of the feature's kind."""

    feature: Feature
    element: int
    place: int

    @property
    def kind(self) -> FeatureKind:
        """The feature's kind."""
        return self.feature.kind


@dataclass(frozen=True)
class Columns:
    """Typed columns of equal length. `texts`: the source model takes a list of texts, not a table."""

    features: tuple[Feature, ...]
    columns: tuple[Column, ...]
    values: tuple[npt.NDArray[Any], ...]
    texts: bool

    def __len__(self) -> int:
        return len(self.values[0])

    @property
    def kinds(self) -> list[FeatureKind]:
        """The kinds of features that there are, in the order in which they first appear."""
        return list(dict.fromkeys(column.kind for column in self.columns))

    def replaced(self, values: Sequence[npt.NDArray[Any]]) -> Columns:
        """The same columns with other values."""
        return Columns(self.features, self.columns, tuple(values), self.texts)

    def take(self, rows: npt.NDArray[Any] | Sequence[int] | slice) -> Columns:
        """Some of the rows."""
        return self.replaced([value[rows] for value in self.values])

    def joined(self, other: Columns) -> Columns:
        """These rows, then the other's."""
        return self.replaced([np.concatenate(pair) for pair in zip(self.values, other.values, strict=True)])

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The ONNX inputs by name."""
        inputs = {}
        for kind in self.kinds:
            members = [value for column, value in zip(self.columns, self.values, strict=True) if column.kind == kind]
            inputs[INPUT_NAMES[kind]] = np.ascontiguousarray(np.stack(members, axis=1))
        return inputs

    def source_rows(self) -> npt.NDArray[Any]:
        """The rows as the source model sees them: the very values of the wire, in doubles where they are floats.

        With a string among them it is an array of objects, as scikit-learn's column transformers take it.
        """
        if self.texts:
            return self.values[0]
        if "string" in self.kinds:
            table = np.empty((len(self), len(self.columns)), dtype=object)
            for index, value in enumerate(self.values):
                table[:, index] = value.tolist()
            return table
        dtype = self.values[0].dtype if len(self.kinds) == 1 and self.kinds[0] != "float" else np.dtype(np.float64)
        return np.stack([value.astype(dtype) for value in self.values], axis=1)

    def row(self, index: int) -> dict[str, Any]:
        """One row by feature: a Python value, or a list for an array."""
        row: dict[str, Any] = {}
        for column, value in zip(self.columns, self.values, strict=True):
            # A 32-bit float's own digits are easier to read than those of the same number in 64 bits.
            item = value[index] if column.kind == "float" else value[index : index + 1].tolist()[0]
            if column.feature.shape:
                row.setdefault(column.feature.name, []).append(item)
            else:
                row[column.feature.name] = item
        return row


def read_columns(rows: Any, features: Sequence[Feature] | None, estimator: Any) -> Columns:
    """The author's rows, converted to what the wire carries. Raises SourceError where they do not fit the features."""
    table, texts = _as_table(rows)
    if not len(table) or not table.shape[1]:
        raise SourceError("rows: there are none; a few real rows are needed to compare the export with the source")
    if features is None:
        features = _infer_features(table, estimator)
    layout = _lay_out(features)
    if len(layout) != table.shape[1]:
        raise SourceError(f"features: they take {len(layout)} columns, the rows have {table.shape[1]}")
    values = [_convert(table[:, index], column) for index, column in enumerate(layout)]
    return Columns(tuple(features), tuple(layout), tuple(values), texts)


def _as_table(rows: Any) -> tuple[npt.NDArray[Any], bool]:
    if hasattr(rows, "toarray"):
        rows = rows.toarray()
    if hasattr(rows, "to_numpy"):
        raise SourceError(
            "rows: a data frame; clients send values, not frames: fit on and hand over a NumPy array "
            "(`frame.to_numpy()`), and name the columns by `features`"
        )
    array = np.asarray(rows)
    if array.dtype.kind in "US" and not isinstance(rows, np.ndarray):
        # NumPy makes strings of the numbers beside a string.
        array = np.asarray(rows, dtype=object)
    if array.dtype.kind == "S":
        raise SourceError("rows: bytes; decode them to str")
    if array.ndim == 1:
        if not all(isinstance(item, str) for item in array.tolist()):
            raise SourceError("rows: expected [rows, columns], or [rows] of texts")
        return array.astype(object).reshape(-1, 1), True
    if array.ndim != 2:
        raise SourceError(f"rows: expected [rows, columns], got {array.ndim} axes; give array features a shape")
    return array, False


def _infer_features(table: npt.NDArray[Any], estimator: Any) -> list[Feature]:
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        names = [f"x{index}" for index in range(table.shape[1])]
    return [Feature(str(name), _infer_kind(table[:, index])) for index, name in enumerate(names)]


def _infer_kind(values: npt.NDArray[Any]) -> FeatureKind:
    items = values.tolist()
    if all(isinstance(item, str) for item in items):
        return "string"
    if all(isinstance(item, bool) for item in items):
        return "bool"
    if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return "int64"
    return "float"


def _lay_out(features: Sequence[Feature]) -> list[Column]:
    columns: list[Column] = []
    places: dict[str, int] = {}
    names: set[str] = set()
    for feature in features:
        if not feature.name or feature.name in names:
            raise SourceError(f"features: {feature.name!r} is empty or there twice")
        if feature.kind not in INPUT_NAMES:
            raise SourceError(
                f"feature {feature.name!r}: kind: expected one of {', '.join(INPUT_NAMES)}, got {feature.kind!r}"
            )
        if any(length < 1 for length in feature.shape):
            raise SourceError(
                f"feature {feature.name!r}: shape: expected lengths of at least 1, got {list(feature.shape)}"
            )
        names.add(feature.name)
        for element in range(math.prod(feature.shape)):
            place = places.get(feature.kind, 0)
            columns.append(Column(feature, element, place))
            places[feature.kind] = place + 1
    return columns


def _convert(values: npt.NDArray[Any], column: Column) -> npt.NDArray[Any]:
    name, kind = column.feature.name, column.kind
    items = values.tolist()

    def refuse(expected: str, index: int) -> SourceError:
        return SourceError(f"feature {name!r}: row {index}: expected {expected}, got {items[index]!r}")

    if kind == "string":
        for index, item in enumerate(items):
            if not isinstance(item, str):
                raise refuse("a string", index)
        return values.astype(object)
    for index, item in enumerate(items):
        if isinstance(item, str) or not isinstance(item, (int, float)):
            raise refuse("a number", index)
        if kind == "bool" and item not in (0, 1):
            raise refuse("true or false", index)
        if kind == "int64" and (item != item or item != int(item) or not -(2**63) <= item < 2**63):
            raise refuse("a 64-bit integer", index)
    with np.errstate(over="ignore"):
        return np.array(items).astype(_DTYPES[kind])
