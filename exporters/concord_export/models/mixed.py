# SPDX-License-Identifier: Apache-2.0
"""Iris, with strings and numbers side by side: species and three lengths to the petal's width, by linear regression."""

from __future__ import annotations

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from concord_export.models.held_out import quality_of_regression, split
from concord_export.source import Feature, Source

_SPECIES, _LENGTHS, _TARGET = [0], [1, 2, 3], 3


def source() -> Source:
    """The model, fitted on three quarters of the 150 rows; it is compared on all."""
    data = load_iris()
    names = [str(name) for name in data.feature_names]
    rows = np.empty((len(data.data), 4), dtype=object)
    rows[:, 0] = data.target_names[data.target].astype(object)
    rows[:, 1:] = np.delete(data.data, _TARGET, axis=1)
    columns = ColumnTransformer(
        [("species", OneHotEncoder(handle_unknown="ignore"), _SPECIES), ("lengths", StandardScaler(), _LENGTHS)]
    )
    widths = data.data[:, _TARGET]
    fitted, held_out = split(data.target)
    estimator = make_pipeline(columns, Ridge(alpha=1.0)).fit(rows[fitted], widths[fitted])
    return Source(
        estimator=estimator,
        rows=rows,
        features=[
            Feature(
                "species", "string", description="setosa, versicolor or virginica; another name counts as none of them."
            ),
            Feature(names[0], description="Length of the sepals, in centimetres."),
            Feature(names[1], description="Width of the sepals, in centimetres."),
            Feature(names[2], description="Length of the petals, in centimetres."),
        ],
        target_names=[names[_TARGET]],
        target_descriptions=["Width of the petals, in centimetres."],
        description=(
            "The width of an iris's petals, from its species and three other lengths. "
            "Linear regression on Fisher's iris data."
        ),
        quality=quality_of_regression(estimator, rows[held_out], widths[held_out]),
    )
