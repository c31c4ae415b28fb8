# SPDX-License-Identifier: Apache-2.0
"""Breast cancer Wisconsin (diagnostic): thirty measures of cell nuclei to malignant or benign, by gradient boosting."""

from __future__ import annotations

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier

from concord_export.models.held_out import quality_of_classifier, split
from concord_export.source import Feature, Source

_MEASURES = {
    "radius": "distance from the centre of a nucleus to its outline, in pixels",
    "texture": "standard deviation of a nucleus's grey values",
    "perimeter": "length of a nucleus's outline, in pixels",
    "area": "area of a nucleus, in square pixels",
    "smoothness": "local variation of the radius, relative, without unit",
    "compactness": "perimeter squared over area, minus 1, without unit",
    "concavity": "how deep the outline's concave parts are, without unit",
    "concave points": "share of the outline's points that are concave, without unit",
    "symmetry": "difference in length left and right of the longest axis, relative, without unit",
    "fractal dimension": "coastline approximation of the outline, minus 1, without unit",
}
_STATISTICS = {
    "mean": "Mean over the nuclei of one image: ",
    "error": "Standard error over the nuclei of one image: ",
    "worst": "Mean of the three largest among the nuclei of one image: ",
}


def source() -> Source:
    """The model, fitted on three quarters of the 569 rows; it is compared on all."""
    data = load_breast_cancer()
    labels = data.target_names[data.target].astype(object)
    fitted, held_out = split(labels)
    estimator = GradientBoostingClassifier(random_state=0).fit(data.data[fitted], labels[fitted])
    return Source(
        estimator=estimator,
        rows=data.data,
        features=[Feature(str(name), description=_describe(str(name))) for name in data.feature_names],
        description=(
            "Malignant or benign, from thirty measures of the cell nuclei in an image of a fine needle aspirate. "
            "Gradient boosting on the Breast Cancer Wisconsin (diagnostic) data."
        ),
        quality=quality_of_classifier(estimator, data.data[held_out], labels[held_out]),
    )


def _describe(name: str) -> str:
    for statistic, beginning in _STATISTICS.items():
        for measure, text in _MEASURES.items():
            if name in (f"{statistic} {measure}", f"{measure} {statistic}"):
                return f"{beginning}{text}."
    raise ValueError(f"the data set has a feature that is not described: {name}")
