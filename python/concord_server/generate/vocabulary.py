# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer's library takes for granted in tokenizer.json."""

from __future__ import annotations

from typing import Any

from concord_server.generate.settings import MAX_VOCABULARY, Reader, SettingsError, integer, read_json, value_shown

__all__ = ["TOKENIZER", "check_tokenizer"]

TOKENIZER = "tokenizer.json"
"""The file of a package that says how text becomes tokens."""


def check_tokenizer(data: bytes) -> None:
    """Raises SettingsError where tokenizer.json is not what its library takes for granted.

    Without its tables the library reads what is not there, and it takes memory for each number up to the largest token.
    """
    reader = Reader(TOKENIZER, read_json(TOKENIZER, data))
    model = reader.at("model")
    if not isinstance(model, dict):
        raise _wrong("model", "an object", model)
    vocabulary = model.get("vocab")
    if model.get("type", "BPE") == "BPE":
        if not isinstance(vocabulary, dict):
            raise _wrong("model.vocab", "an object", vocabulary)
        if not isinstance(model.get("merges"), list):
            raise _wrong("model.merges", "a list", model.get("merges"))
    if isinstance(vocabulary, dict):
        for token in vocabulary.values():
            _check_token("model.vocab", token)
    elif isinstance(vocabulary, list):
        if len(vocabulary) > MAX_VOCABULARY:
            text = f"expected at most {MAX_VOCABULARY} tokens, got {len(vocabulary)}"
            raise SettingsError(f"{TOKENIZER}: model.vocab: {text}")
    else:
        raise _wrong("model.vocab", "an object or a list", vocabulary)
    added = reader.at("added_tokens")
    if not isinstance(added, list | None):
        raise _wrong("added_tokens", "a list", added)
    for one in added or ():
        if not isinstance(one, dict):
            raise _wrong("added_tokens", "objects", one)
        _check_token("added_tokens", one.get("id"))


def _check_token(path: str, value: Any) -> None:
    number = integer(value)
    if number is None or not 0 <= number < MAX_VOCABULARY:
        raise _wrong(path, f"tokens from 0 to {MAX_VOCABULARY - 1}", value)


def _wrong(path: str, expected: str, value: Any) -> SettingsError:
    return SettingsError(f"{TOKENIZER}: {path}: expected {expected}, got {value_shown(value)}")
