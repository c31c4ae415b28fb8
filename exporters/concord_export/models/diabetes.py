# SPDX-License-Identifier: Apache-2.0
"""Diabetes: ten measures of a patient to the disease's progression in a year, by histogram gradient boosting."""

from __future__ import annotations

from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor

from concord_export.models.held_out import quality_of_regression, split
from concord_export.source import Feature, Source

_DESCRIPTIONS = {
    "age": "Age, in years.",
    "sex": "Sex, as the data set codes it: 1 or 2.",
    "bmi": "Body mass index, in kilograms per square metre.",
    "bp": "Mean arterial pressure, in millimetres of mercury.",
    "s1": "Total serum cholesterol, in milligrams per decilitre.",
    "s2": "Low-density lipoproteins, in milligrams per decilitre.",
    "s3": "High-density lipoproteins, in milligrams per decilitre.",
    "s4": "Total cholesterol over high-density lipoproteins, without unit.",
    "s5": "Logarithm of the serum triglycerides, without unit.",
    "s6": "Blood sugar, in milligrams per decilitre.",
}


def source() -> Source:
    """The model, fitted on three quarters of the 442 rows; it is compared on all, and on rows with missing values."""
    data = load_diabetes(scaled=False)
    fitted, held_out = split(data.target, classes=False)
    estimator = HistGradientBoostingRegressor(
        max_iter=80, learning_rate=0.06, max_leaf_nodes=8, min_samples_leaf=20, random_state=0
    ).fit(data.data[fitted], data.target[fitted])
    return Source(
        estimator=estimator,
        rows=data.data,
        features=[Feature(name, description=f"{_DESCRIPTIONS[name]} NaN: unknown.") for name in data.feature_names],
        target_names=["progression"],
        target_descriptions=["Progression of the disease one year later, on the study's scale from 25 to 346."],
        description=(
            "How far diabetes progresses within a year, from ten measures at its beginning. "
            "Histogram gradient boosting on the data of Efron, Hastie, Johnstone and Tibshirani (2004)."
        ),
        quality=quality_of_regression(estimator, data.data[held_out], data.target[held_out]),
    )
