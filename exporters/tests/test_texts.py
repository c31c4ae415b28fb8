# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from concord_export import Feature, ascii_lower, export_sklearn, verify_package
from concord_export.errors import ConversionError
from concord_export.from_sklearn import export_source
from concord_export.models import sms_spam
from concord_export.runtime import Session
from concord_export.texts import re2_pattern
from onnx import TensorProto, helper
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

TEXTS = [
    "A good book", "bad FILM", "a good film, really good", "bad bad book", "fine", "good fine film",
    "Ein gutes Buch", "Übler Film", "ÉTÉ à la plage", "don't", "x1 y_2 3", "",
] * 2  # fmt: skip
TARGET = [1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0] * 2


def nodes(directory: Path) -> dict[str, onnx.NodeProto]:
    return {node.op_type: node for node in onnx.load(directory / "model.onnx").graph.node}


@pytest.mark.parametrize(
    "words",
    [
        CountVectorizer(),
        CountVectorizer(binary=True, ngram_range=(1, 3)),
        CountVectorizer(token_pattern=r"\b[a-z]{2,}\b", lowercase=False),
        CountVectorizer(tokenizer=str.split, token_pattern=None),
        CountVectorizer(preprocessor=ascii_lower, token_pattern=r"[\w']+"),
        CountVectorizer(stop_words="english"),
        TfidfVectorizer(),
        TfidfVectorizer(ngram_range=(2, 2), norm="l1"),
        TfidfVectorizer(sublinear_tf=True, norm=None),
        TfidfVectorizer(use_idf=False, max_features=5),
        make_pipeline(CountVectorizer(), TfidfTransformer(sublinear_tf=True)),
    ],
    ids=lambda words: re.sub(r" at 0x[0-9a-f]+|\s+", "", str(words)),
)
def test_words(tmp_path: Path, words: Any) -> None:
    estimator = make_pipeline(words, LogisticRegression()).fit(TEXTS, TARGET)
    report = export_sklearn(estimator, TEXTS, tmp_path / "m" / "1", features=[Feature("text", "string")])
    assert report.precision == "double"
    assert report.parity.max_ulp_error == 0
    assert verify_package(report.directory).golden_cases == 8


def test_a_vectorizer_alone_is_a_transformer(tmp_path: Path) -> None:
    report = export_sklearn(TfidfVectorizer().fit(TEXTS), TEXTS, tmp_path / "m" / "1")
    assert list(report.manifest.outputs[0].output.shape) == [len(set(TfidfVectorizer().fit(TEXTS).vocabulary_))]


def test_the_locale_is_c_wherever_that_is_enough(tmp_path: Path) -> None:
    english = [text for text in TEXTS if text.isascii()]
    estimator = make_pipeline(CountVectorizer(), MultinomialNB()).fit(english, [len(text) % 2 for text in english])
    report = export_sklearn(estimator, english, tmp_path / "m" / "1")
    (locale,) = [item.s for item in nodes(report.directory)["StringNormalizer"].attribute if item.name == "locale"]
    assert locale == b"C"
    estimator = make_pipeline(CountVectorizer(), MultinomialNB()).fit(TEXTS, TARGET)
    report = export_sklearn(estimator, TEXTS, tmp_path / "m" / "2")
    (locale,) = [item.s for item in nodes(report.directory)["StringNormalizer"].attribute if item.name == "locale"]
    assert locale == b"C.UTF-8"


def test_ascii_lower_is_what_the_graph_does() -> None:
    """On every character that there is."""
    graph = helper.make_graph(
        [helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale="C")],
        "lower",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["rows"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["rows"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    characters = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
    (made,) = Session(model.SerializeToString()).run({"x": np.array(characters, dtype=object)}).values()
    assert made.tolist() == [ascii_lower(character) for character in characters]


@pytest.mark.parametrize(
    ("pattern", "made"),
    [
        (r"(?u)\b\w\w+\b", r"[\pL\pN_][\pL\pN_]+"),
        (r"\b\w{3,}\b", r"[\pL\pN_]{3,}"),
        (r"\b\w{3}\b", r"\b[\pL\pN_]{3}\b"),
        (r"[\w'\]]+", r"[\pL\pN_'\]]+"),
        (r"[a-z]+|\d", r"[a-z]+|[\p{Nd}]"),
        (r"\S+", r"[^\s\v\x1c-\x1f\x85\pZ]+"),
        (r"(?:a|b)\(", r"(?:a|b)\("),
    ],
)
def test_patterns(pattern: str, made: str) -> None:
    assert re2_pattern(pattern) == made


@pytest.mark.parametrize("pattern", [r"(\w)+", r"(?=a)\w", r"(?<!x)a", r"(?P<n>a)", r"a\1", r"[^\W]+"])
def test_patterns_that_re2_does_not_have(pattern: str) -> None:
    with pytest.raises(NotImplementedError, match="token_pattern"):
        re2_pattern(pattern)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (CountVectorizer(strip_accents="unicode"), "strip_accents='unicode'"),
        (CountVectorizer(analyzer="char"), "analyzer='char'"),
        (CountVectorizer(preprocessor=str.strip), "a preprocessor other than concord_export.ascii_lower"),
        (CountVectorizer(tokenizer=list, token_pattern=None), "a tokenizer of its own"),
        (CountVectorizer(stop_words=["the"], ngram_range=(1, 2)), "stop_words and ngrams together"),
    ],
)
def test_what_cannot_be_exported_says_why(tmp_path: Path, words: Any, message: str) -> None:
    estimator = make_pipeline(words, MultinomialNB()).fit(TEXTS, TARGET)
    with pytest.raises(ConversionError, match=re.escape(message)):
        export_sklearn(estimator, TEXTS, tmp_path / "m" / "1")


def test_sms_spam(tmp_path: Path) -> None:
    """Every message, and some that nobody wrote."""
    report = export_source(sms_spam.source(), tmp_path / "sms-spam" / "1")
    assert report.real_rows == 5574
    assert report.parity.labels_compared == report.parity.rows == 5774
    assert report.parity.max_ulp_error == 0
    assert [item.prediction.name for item in report.manifest.predictions] == ["ham", "spam"]
    assert {metric.name: metric.rows for metric in report.manifest.quality}["accuracy"] == 1394
    assert report.manifest.batching.batchable
