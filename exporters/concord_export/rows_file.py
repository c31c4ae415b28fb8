# SPDX-License-Identifier: Apache-2.0
"""Rows from files: CSV with a header, or NumPy's .npy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from concord_export.errors import SourceError

__all__ = ["read_rows"]


def read_rows(path: Path, estimator: Any = None) -> Any:
    """The rows: an array or, of a CSV file for an estimator that knows its columns' names, a pandas data frame.

    A column of which every value is a number, or empty for NaN, is one of floats; else it is one of texts. Columns are
    put in the estimator's own order. Raises SourceError, OSError.
    """
    if path.suffix == ".npy":
        try:
            return np.load(path, allow_pickle=False)
        except ValueError as error:
            raise SourceError(f"{path.name}: {error}") from None
    if path.suffix != ".csv":
        raise SourceError(f"{path.name}: rows come as .csv with a header, or as .npy")
    with path.open(encoding="utf-8", newline="") as stream:
        lines = [line for line in csv.reader(stream) if line]
    if len(lines) < 2:
        raise SourceError(f"{path.name}: expected a header and at least one row")
    header, body = lines[0], lines[1:]
    for number, line in enumerate(body, start=2):
        if len(line) != len(header):
            raise SourceError(f"{path.name}: line {number} has {len(line)} values, the header {len(header)}")
    columns = {name: _column([line[index] for line in body]) for index, name in enumerate(header)}
    if len(columns) < len(header):
        raise SourceError(f"{path.name}: a column's name is there twice")
    known = getattr(estimator, "feature_names_in_", None)
    if known is not None:
        missing = [name for name in known if name not in columns]
        if missing:
            raise SourceError(f"{path.name}: the model's columns {missing[:8]} are not in it")
        columns = {name: columns[name] for name in known}
        if _selects_by_name(estimator):
            import pandas as pd

            return pd.DataFrame(columns)
    if len(columns) == 1 and getattr(estimator, "n_features_in_", None) is None:
        (only,) = columns.values()
        if all(isinstance(item, str) for item in only):
            # One column of texts, for a model that takes a list of texts.
            return only
    if all(isinstance(item, float) for values in columns.values() for item in values):
        return np.stack([np.array(values) for values in columns.values()], axis=1)
    table = np.empty((len(body), len(columns)), dtype=object)
    for index, values in enumerate(columns.values()):
        table[:, index] = values
    return table


def _column(texts: list[str]) -> list[Any]:
    try:
        return [float(text) if text else float("nan") for text in texts]
    except ValueError:
        return texts


def _selects_by_name(estimator: Any) -> bool:
    from sklearn.compose import ColumnTransformer

    from concord_export.members import members_of

    return any(isinstance(member, ColumnTransformer) for member in members_of(estimator))
