# SPDX-License-Identifier: Apache-2.0
"""The trial of a text generator, in the child: a message through its template, tokenizer, network, and back to text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from concord_server.fault import scrub
from concord_server.generate import Row, Sizes, TokenizerError
from concord_server.generate.settings import SettingsError, parse_settings
from concord_server.generate.vocabulary import TOKENIZER, check_tokenizer
from concord_server.model import Call, SessionError
from concord_server.ort import GenAI, GenAITokenizer, OrtDecoder, OrtSession

__all__ = ["rehearse"]

_MESSAGES = '[{"role": "user", "content": "Hello"}]'
_TEXT = "Hello"
_SLOTS, _TOKENS = 2, 64
_MAX_NESTING = 4_000
# Of a vocabulary, these are turned into text: each has its own way to be wrong.
_MOST_TEXTS = 1 << 18


def rehearse(settings: bytes, library: GenAI, folder: str, load: Callable[[], OrtSession]) -> None:
    """Opens a generator and lets it say a token. `folder` is what tokenizer_folder wrote.

    Raises SessionError with why it is refused, where ONNX Runtime refuses it in its words.
    """
    try:
        with _shallow():
            facts = parse_settings(settings)
            check_tokenizer(Path(folder, TOKENIZER).read_bytes())
    except SettingsError as error:
        raise SessionError(str(error)) from None
    tokens = _tokens(library, folder, facts.vocabulary)[: _TOKENS - 2]
    sizes = Sizes(_SLOTS, _SLOTS * _TOKENS * facts.cache_bytes(4))
    decoder = OrtDecoder(load(), facts, sizes)
    call = Call()
    tokens = tokens[: max(decoder.context - 2, 1)]
    decoder.run([Row(0, 0, tokens)], call)
    if len(tokens) + 1 < decoder.context:
        decoder.run([Row(0, len(tokens), tokens[:1])], call)
        decoder.run([Row(0, len(tokens) + 1, tokens[:1]), Row(1, 0, tokens[:1])], call)


@contextlib.contextmanager
def _shallow() -> Iterator[None]:
    """What is nested deeper than any file needs must not exhaust the stack, as a graph may be followed far deeper."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(_MAX_NESTING)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def _tokens(library: GenAI, folder: str, vocabulary: int) -> list[int]:
    """Those of a message, at least one."""
    try:
        tokenizer = library.tokenizer_from(folder)
    except SessionError as error:
        raise SessionError(f"tokenizer: {scrub(str(error))}") from None
    text = _templated(tokenizer)
    try:
        tokens = tokenizer.encode(text)
        stream = tokenizer.stream()
        for token in tokens:
            if not 0 <= token < vocabulary:
                raise TokenizerError(f"expected tokens from 0 to {vocabulary - 1}, got {token}")
            stream.add(token)
        for token in range(min(vocabulary, _MOST_TEXTS)):
            stream.add(token)
    except TokenizerError as error:
        raise SessionError(f"tokenizer: {scrub(str(error))}") from None
    return tokens or [0]


def _templated(tokenizer: GenAITokenizer) -> str:
    try:
        return tokenizer.template(_MESSAGES)
    except TokenizerError as error:
        # Without a template it takes raw prompts.
        if str(error).startswith("Empty chat template"):
            return _TEXT
        raise SessionError(f"chat template: {scrub(str(error))}") from None
