# SPDX-License-Identifier: Apache-2.0
"""Rows for a model whose author gave none, always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from concord_export.boosting import Boosted
from concord_export.errors import SourceError
from concord_export.members import members_of
from concord_export.trees import split_thresholds

__all__ = ["made_rows"]

_SEED = 20260101
_COUNT = 500


def made_rows(estimator: Any) -> npt.NDArray[np.float64]:
    """Rows of numbers. Raises SourceError where the model takes texts, or does not tell how many numbers it takes."""
    boosted = getattr(estimator, "boosted", None)
    if boosted is not None:
        return _around_splits(boosted)
    width = getattr(estimator, "n_features_in_", None)
    if width is None:
        raise SourceError("rows: the model does not tell what it takes; give some real rows (--rows)")
    rng = np.random.default_rng(_SEED)
    rows = rng.standard_normal((_COUNT, width))
    for member in members_of(estimator):
        if getattr(member, "n_features_in_", None) != width:
            continue
        scale, mean = getattr(member, "scale_", None), getattr(member, "mean_", None)
        if scale is not None and mean is not None and np.shape(scale) == np.shape(mean) == (width,):
            # What a scaler was fitted on, roughly.
            return np.asarray(rows * np.asarray(scale) + np.asarray(mean))
        splits = np.array(split_thresholds(member))
        if len(splits):
            low, high = splits[:, 1].min(), splits[:, 1].max()
            return rng.uniform(low - (high - low) * 0.1, high + (high - low) * 0.1, rows.shape)
    return rows


def _around_splits(boosted: Boosted) -> npt.NDArray[np.float64]:
    """Of each feature what lies around its splits."""
    rng = np.random.default_rng(_SEED)
    rows = rng.standard_normal((_COUNT, boosted.features))
    splits: dict[int, list[float]] = {}
    for feature, threshold in boosted.thresholds():
        splits.setdefault(feature, []).append(threshold)
    for feature in range(boosted.features):
        known = boosted.ranges[feature] if feature < len(boosted.ranges) else None
        points = [*splits.get(feature, []), *(known or ())]
        if points:
            low, high = min(points), max(points)
            margin = 0.0 if known else (high - low) * 0.25 or max(abs(low) * 0.25, 1.0)
            rows[:, feature] = rng.uniform(low - margin, high + margin, _COUNT)
    for feature in boosted.categorical:
        members = {
            int(item)
            for _, tree in boosted.trees
            for node, items in tree.members.items()
            if tree.feature[node] == feature
            for item in items
        }
        # One more: a category that no split names.
        rows[:, feature] = rng.integers(0, max(members, default=0) + 2, _COUNT)
    return rows
