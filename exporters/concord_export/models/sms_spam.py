# SPDX-License-Identifier: Apache-2.0
"""SMS spam: the text of a message to ham or spam; words, their weights and the decision are one ONNX graph."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from concord_export.lowercase import ascii_lower
from concord_export.models.held_out import quality_of_classifier, split
from concord_export.source import Feature, Source

__all__ = ["messages", "source"]

_WORDS = r"[a-z0-9]+|[!?£$%]"
_DATA = Path(__file__).parent / "data" / "sms-spam.tsv.gz"


def messages() -> tuple[list[str], npt.NDArray[np.object_]]:
    """All 5,574 texts, and of each whether it is ham or spam."""
    with gzip.open(_DATA, "rt", encoding="utf-8", newline="\n") as stream:
        lines = [line.rstrip("\n").split("\t", 1) for line in stream]
    return [text for _, text in lines], np.array([label for label, _ in lines], dtype=object)


def source() -> Source:
    """The model, fitted on three quarters of the messages; it is compared on all."""
    texts, labels = messages()
    fitted, held_out = split(labels)
    # Words of ASCII letters and digits, and some signs that spam is full of. Python's re and the graph's RE2 agree on
    # them, and so does everybody on what lower case is.
    words = TfidfVectorizer(
        preprocessor=ascii_lower, token_pattern=_WORDS, ngram_range=(1, 2), min_df=2, sublinear_tf=True
    )
    estimator = make_pipeline(words, LogisticRegression(C=100.0, max_iter=1000))
    estimator.fit([texts[row] for row in fitted], labels[fitted])
    return Source(
        estimator=estimator,
        rows=texts,
        features=[Feature("text", "string", description="A text message, as it was sent.")],
        description=(
            "Whether a text message is spam. Logistic regression on words and pairs of words, weighted by TF-IDF, "
            "on the SMS Spam Collection of Almeida, Gómez Hidalgo and Yamakami (CC BY 4.0)."
        ),
        quality=quality_of_classifier(estimator, [texts[row] for row in held_out], labels[held_out]),
    )
