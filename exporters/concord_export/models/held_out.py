# SPDX-License-Identifier: Apache-2.0
"""How good a demo model is: it is fitted on three quarters of its rows and judged by the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, r2_score, roc_auc_score
from sklearn.model_selection import train_test_split

from concord_export.source import Metric

__all__ = ["quality_of_classifier", "quality_of_regression", "split"]


def split(target: npt.NDArray[Any], *, classes: bool = True) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows to fit on and the rows held out, always the same; of each class the same share, if there are classes."""
    rows = np.arange(len(target))
    fitted, held_out = train_test_split(rows, test_size=0.25, random_state=0, stratify=target if classes else None)
    return np.sort(fitted), np.sort(held_out)


def quality_of_classifier(estimator: Any, rows: Any, labels: Any) -> list[Metric]:
    """Accuracy, and how good the probabilities are."""
    probabilities = estimator.predict_proba(rows)
    metrics = [Metric("accuracy", float(accuracy_score(labels, estimator.predict(rows))), len(labels))]
    if len(estimator.classes_) == 2:
        area = roc_auc_score(labels == estimator.classes_[1], probabilities[:, 1])
        metrics.append(Metric("roc_auc", float(area), len(labels)))
    metrics.append(Metric("log_loss", float(log_loss(labels, probabilities, labels=estimator.classes_)), len(labels)))
    return metrics


def quality_of_regression(estimator: Any, rows: Any, target: Any) -> list[Metric]:
    """The share of the variance explained, and the mean absolute error in the target's unit."""
    predicted = estimator.predict(rows)
    return [
        Metric("r2", float(r2_score(target, predicted)), len(target)),
        Metric("mean_absolute_error", float(mean_absolute_error(target, predicted)), len(target)),
    ]
