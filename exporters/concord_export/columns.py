# SPDX-License-Identifier: Apache-2.0
"""Rows as the wire carries them: one typed column after the other.

From the same columns come the tensors of the ONNX inputs and the array that the source model sees, so both see the same
values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """Typed columns of equal length.

    `texts`: the source model takes a list of texts, not a table. `frame`: it takes data frames like this one, which has
    no rows. `left_out` is how many rows could not be sent, since a text was missing in them.
    """

    features: tuple[Feature, ...]
    columns: tuple[Column, ...]
    values: tuple[npt.NDArray[Any], ...]
    texts: bool = False
    frame: Any = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.values[0])

    @property
    def kinds(self) -> list[FeatureKind]:
        """The kinds of features that there are, in the order in which they first appear."""
        return list(dict.fromkeys(column.kind for column in self.columns))

    def replaced(self, values: Sequence[npt.NDArray[Any]]) -> Columns:
        """The same columns with other values."""
        return replace(self, values=tuple(values))

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

    def source_rows(self) -> Any:
        """The rows as the source model sees them: the very values of the wire, in doubles where they are floats.

        With a string among them it is an array of objects, as scikit-learn's column transformers take it.
        """
        if self.texts:
            return self.values[0]
        if self.frame is not None:
            data = dict(zip(self.frame.columns, self.values, strict=True))
            return type(self.frame)(data).astype(self._dtypes())
        if "string" in self.kinds:
            table = np.empty((len(self), len(self.columns)), dtype=object)
            for index, value in enumerate(self.values):
                table[:, index] = value.tolist()
            return table
        dtype = self.values[0].dtype if len(self.kinds) == 1 and self.kinds[0] != "float" else np.dtype(np.float64)
        return np.stack([value.astype(dtype) for value in self.values], axis=1)

    def _dtypes(self) -> dict[str, Any]:
        """The frame's own, but for whole numbers and truths of pandas in which some are missing: those are floats."""
        dtypes: dict[str, Any] = self.frame.dtypes.to_dict()
        for name, column in zip(self.frame.columns, self.columns, strict=True):
            if column.kind == "float" and str(dtypes[name]).startswith(("Int", "UInt", "boolean")):
                dtypes[name] = "Float64"
        return dtypes

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
    frame = _frame(rows)
    table, texts = _as_table(rows)
    if not len(table) or not table.shape[1]:
        raise SourceError("rows: there are none; a few real rows are needed to compare the export with the source")
    if features is None:
        features = _infer_features(table, estimator, frame)
    layout = _lay_out(features)
    if len(layout) != table.shape[1]:
        raise SourceError(f"features: they take {len(layout)} columns, the rows have {table.shape[1]}")
    given = len(table)
    table = table[~_texts_missing(table, layout)]
    if not len(table):
        raise SourceError("rows: a text is missing in each of them, and clients cannot leave out a text")
    values = [_convert(table[:, index], column) for index, column in enumerate(layout)]
    return Columns(tuple(features), tuple(layout), tuple(values), texts, frame, given - len(table))


def _frame(rows: Any) -> Any:
    """Of a pandas data frame its beginning, without rows: it keeps names and types. None where `rows` is none."""
    if not hasattr(rows, "columns") or not hasattr(rows, "to_numpy"):
        return None
    library = type(rows).__module__.partition(".")[0]
    if library != "pandas":
        raise SourceError(f"rows: a {library} data frame; fit on and hand over a NumPy array or a pandas data frame")
    names = [*rows.columns]
    if len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise SourceError(f"rows: the data frame's columns are not named, or a name is there twice: {names[:8]}")
    return rows.iloc[:0]


def _as_table(rows: Any) -> tuple[npt.NDArray[Any], bool]:
    if hasattr(rows, "toarray"):
        rows = rows.toarray()
    if hasattr(rows, "to_numpy"):
        # A frame's columns keep their types as objects; a series of texts becomes a list.
        rows = rows.to_numpy(dtype=object) if hasattr(rows, "columns") else rows.tolist()
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


def _infer_features(table: npt.NDArray[Any], estimator: Any, frame: Any) -> list[Feature]:
    names = getattr(estimator, "feature_names_in_", None) if frame is None else frame.columns
    if names is None:
        names = [f"x{index}" for index in range(table.shape[1])]
    return [Feature(str(name), _infer_kind(table[:, index])) for index, name in enumerate(names)]


def _texts_missing(table: npt.NDArray[Any], layout: Sequence[Column]) -> npt.NDArray[np.bool_]:
    """The rows in which a text is None or NaN: the wire has no missing text."""
    missing = np.zeros(len(table), np.bool_)
    for index, column in enumerate(layout):
        if column.kind == "string":
            missing |= np.array([_is_missing(item) for item in table[:, index].tolist()])
    return missing


def _is_missing(item: Any) -> bool:
    # pandas has a NaN of its own.
    return item is None or (isinstance(item, float) and item != item) or type(item).__name__ == "NAType"


def _infer_kind(values: npt.NDArray[Any]) -> FeatureKind:
    items = values.tolist()
    texts = [isinstance(item, str) for item in items if not _is_missing(item)]
    if texts and all(texts):
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
    if kind in ("float", "double"):
        items = [math.nan if type(item).__name__ == "NAType" else item for item in items]

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
