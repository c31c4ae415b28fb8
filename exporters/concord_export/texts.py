# SPDX-License-Identifier: Apache-2.0
"""Texts to counts and weights of words, in doubles."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer

from concord_export.lowercase import ascii_lower
from concord_export.nodes import DOUBLE, Nodes
from concord_export.registry import Own, current_settings

__all__ = ["CONVERTERS", "lowers_beyond_ascii", "re2_pattern"]

# What Python's re means by these, in the words of RE2, whose own classes are ASCII.
_CLASSES = {r"\w": r"\pL\pN_", r"\d": r"\p{Nd}", r"\s": r"\s\v\x1c-\x1f\x85\pZ"}
_WORDS = re.compile(r"\\b((?:\\w(?:\+|\*|\{\d+,\})?)*\\w(?:\+|\{\d+,\}))\\b")
_BEYOND_RE2 = re.compile(r"\(\?[=!<>P#(]|\\[1-9AZBG]|(?<!\\)\((?!\?)")


def lowers_beyond_ascii(vectorizer: Any) -> bool:
    """Whether the vectorizer lower-cases as Unicode does."""
    return isinstance(vectorizer, CountVectorizer) and vectorizer.lowercase and vectorizer.preprocessor is None


def re2_pattern(pattern: str) -> str:
    """A pattern of Python's re in the syntax of RE2. Raises NotImplementedError where RE2 has no such thing."""
    text = pattern.replace("(?u)", "", 1) if pattern.startswith("(?u)") else pattern
    if _BEYOND_RE2.search(text):
        raise NotImplementedError(
            f"token_pattern {pattern!r}: groups that capture, look-arounds and references cannot be exported"
        )
    words = _WORDS.fullmatch(text)
    if words:
        # A greedy run of word characters ends at a boundary anyway.
        text = words[1]
    made, inside, index = "", False, 0
    while index < len(text):
        item = text[index : index + 2] if text[index] == "\\" else text[index]
        index += len(item)
        if item == "[" and not inside:
            inside = True
        elif item == "]" and inside:
            inside = False
        if item in _CLASSES:
            item = _CLASSES[item] if inside else f"[{_CLASSES[item]}]"
        elif item.lower() in _CLASSES:
            if inside:
                raise NotImplementedError(f"token_pattern {pattern!r}: {item} in brackets cannot be exported")
            item = f"[^{_CLASSES[item.lower()]}]"
        made += item
    return made


def _vectorizer(graph: Nodes) -> None:
    """CountVectorizer and TfidfVectorizer."""
    estimator = graph.estimator
    counts = graph.cast(_counts(graph), DOUBLE)
    if estimator.binary:
        counts = graph.op("Min", counts, 1.0)
    if isinstance(estimator, TfidfVectorizer):
        counts = _weighted(graph, counts, estimator._tfidf)
    graph.give(0, counts)


def _counts(graph: Nodes) -> str:
    """How often each word of the vocabulary is in each text, 32-bit floats."""
    estimator = graph.estimator
    if not issubclass(graph.input_type, StringTensorType):
        raise NotImplementedError(f"{type(estimator).__name__} takes texts")
    low, high = estimator.ngram_range
    for refused, text in (
        (estimator.analyzer != "word", f"analyzer={estimator.analyzer!r}"),
        (estimator.strip_accents is not None, f"strip_accents={estimator.strip_accents!r}"),
        (estimator.tokenizer not in (None, str.split), "a tokenizer of its own"),
        (estimator.preprocessor not in (None, ascii_lower), "a preprocessor other than concord_export.ascii_lower"),
        (high > 1 and estimator.stop_words is not None, "stop_words and ngrams together"),
    ):
        if refused:
            raise NotImplementedError(f"{type(estimator).__name__} with {text} cannot be exported")
    text = graph.op("Reshape", graph.input, np.array([-1]))
    if estimator.preprocessor is not None or estimator.lowercase:
        locale = "C" if estimator.preprocessor is not None else current_settings().locale
        text = graph.node("StringNormalizer", [text], case_change_action="LOWER", locale=locale)
    pattern = r"\S+" if estimator.tokenizer is str.split else estimator.token_pattern
    tokens = graph.node("Tokenizer", [text], mark=0, mincharnum=1, pad_value="\x00", tokenexp=re2_pattern(pattern))
    starts: list[int] = []
    indexes: list[int] = []
    pool: list[str] = []
    terms = sorted(estimator.vocabulary_.items(), key=lambda item: item[1])
    for length in range(1, high + 1):
        starts.append(len(pool))
        for term, index in terms:
            words = term.split(" ") if high > 1 else [term]
            if len(words) == length:
                indexes.append(int(index))
                pool += words
    if len(indexes) != len(terms):
        raise NotImplementedError(f"{type(estimator).__name__}: words of the vocabulary hold blanks")
    return graph.node(
        "TfIdfVectorizer",
        [tokens],
        mode="TF",
        min_gram_length=low,
        max_gram_length=high,
        max_skip_count=0,
        ngram_counts=starts,
        ngram_indexes=indexes,
        pool_strings=pool,
    )


def _weighted(graph: Nodes, counts: str, transformer: Any) -> str:
    if transformer.sublinear_tf:
        present = graph.op("Greater", counts, 0.0)
        # The logarithm of 1 where there is nothing, so that no infinity arises.
        logarithm = graph.op("Add", graph.op("Log", graph.op("Max", counts, 1.0)), 1.0)
        counts = graph.op("Where", present, logarithm, 0.0)
    if transformer.use_idf:
        counts = graph.op("Mul", counts, np.asarray(transformer.idf_, np.float64))
    if transformer.norm is None:
        return counts
    reduce = "ReduceL1" if transformer.norm == "l1" else "ReduceL2"
    norm = graph.op(reduce, counts, np.array([1]), keepdims=1)
    return graph.op("Div", counts, graph.op("Where", graph.op("Equal", norm, 0.0), 1.0, norm))


def _transformer(graph: Nodes) -> None:
    graph.give(0, _weighted(graph, graph.rows(), graph.estimator))


CONVERTERS = [
    Own(CountVectorizer, ("numbers",), _vectorizer),
    Own(TfidfVectorizer, ("numbers",), _vectorizer),
    Own(TfidfTransformer, ("numbers",), _transformer),
]
