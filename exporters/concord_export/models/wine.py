# SPDX-License-Identifier: Apache-2.0
"""Wine: thirteen measures of a chemical analysis to one of three cultivars, by logistic regression."""

from __future__ import annotations

from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from concord_export.models.held_out import quality_of_classifier, split
from concord_export.source import Feature, Source

_DESCRIPTIONS = {
    "alcohol": "Alcohol, in per cent by volume.",
    "malic_acid": "Malic acid, in grams per litre.",
    "ash": "Ash, in grams per litre.",
    "alcalinity_of_ash": "Alcalinity of the ash, in milliequivalents per litre.",
    "magnesium": "Magnesium, in milligrams per litre.",
    "total_phenols": "Total phenols, in grams per litre.",
    "flavanoids": "Flavanoids, in grams per litre.",
    "nonflavanoid_phenols": "Phenols that are no flavanoids, in grams per litre.",
    "proanthocyanins": "Proanthocyanins, in grams per litre.",
    "color_intensity": "Intensity of the colour, without unit.",
    "hue": "Hue, without unit.",
    "od280/od315_of_diluted_wines": "Absorbance at 280 nm over that at 315 nm, diluted, without unit.",
    "proline": "Proline, in milligrams per litre.",
}


def source() -> Source:
    """The model, fitted on three quarters of the 178 rows; it is compared on all."""
    data = load_wine()
    labels = data.target_names[data.target].astype(object)
    fitted, held_out = split(labels)
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data[fitted], labels[fitted])
    return Source(
        estimator=estimator,
        rows=data.data,
        features=[Feature(name, description=_DESCRIPTIONS[name]) for name in data.feature_names],
        description=(
            "Which of three cultivars a wine was made of, from thirteen measures of a chemical analysis. "
            "Logistic regression on the UCI wine recognition data."
        ),
        quality=quality_of_classifier(estimator, data.data[held_out], labels[held_out]),
    )
