# SPDX-License-Identifier: Apache-2.0
"""Digits: the 64 pixels of a handwritten digit as one array, by a small neural network."""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from concord_export.models.held_out import quality_of_classifier, split
from concord_export.source import Feature, Source


def source() -> Source:
    """The model, fitted on three quarters of the 1,797 rows; it is compared on all."""
    data = load_digits()
    fitted, held_out = split(data.target)
    network = MLPClassifier((48,), alpha=0.01, max_iter=400, random_state=0)
    estimator = make_pipeline(MinMaxScaler(), network).fit(data.data[fitted], data.target[fitted])
    text = "Brightness of 8 x 8 pixels, row by row from the top left, each from 0 (white) to 16 (black)."
    return Source(
        estimator=estimator,
        rows=data.data,
        features=[Feature("pixels", shape=(64,), description=text)],
        description=(
            "Which digit an image of 8 x 8 pixels shows. A neural network with one hidden layer of 48 units, "
            "on the test set of the UCI optical recognition of handwritten digits data."
        ),
        quality=quality_of_classifier(estimator, data.data[held_out], data.target[held_out]),
    )
