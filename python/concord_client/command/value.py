# SPDX-License-Identifier: Apache-2.0
"""A feature's value out of the text of an argument or a cell, or out of JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from concord_client._answers import Feature
from concord_client._values import Value, quote

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ARTICLES = {"FLOAT": "a number", "DOUBLE": "a number", "INT64": "an integer", "BOOL": "true or false"}
_EXAMPLES = {"BOOL": "[true, false]", "STRING": '["a", "b"]'}
# Below this a double holds every integer, so that 5.0 and 1e3 can be taken for integers.
_EXACT = 2**53


class UnreadableError(Exception):
    """A text that is no value of the feature's type: what was expected and what came."""


def read_text(text: str, feature: Feature | None) -> Value:
    """The value that a text stands for, by the feature's type; without a type what JSON makes of it, else the text.

    Raises UnreadableError.
    """
    if feature is None:
        return _guess(text)
    if feature.shape:
        return _array(text, feature)
    if feature.type in ("FLOAT", "DOUBLE"):
        return _float(text)
    if feature.type == "INT64":
        return _integer(text)
    if feature.type == "BOOL":
        return _bool(text)
    return text if feature.type == "STRING" else _guess(text)


def read_json(value: Any, feature: Feature | None) -> Value:
    """The value that JSON stands for.

    "NaN", "Infinity" and "-Infinity" are numbers where the feature holds floats, as in protobuf's JSON. Everything else
    goes as it is, and the server judges it.
    """
    read: Value = _with_numbers(value) if feature is not None and feature.type in ("FLOAT", "DOUBLE") else value
    return read


def load_json(text: str) -> Any:
    """What a JSON text holds. Raises ValueError, for nesting and numbers too deep and too long as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def expected(feature: Feature) -> str:
    """What a feature's value is written as."""
    if feature.shape:
        return f"a JSON array such as {_EXAMPLES.get(feature.type, '[1, 2]')}"
    return _ARTICLES.get(feature.type, "a text")


def _float(text: str) -> float:
    # Python also reads 1_000.
    if "_" not in text:
        try:
            return float(text)
        except ValueError:
            pass
    raise UnreadableError(f"expected a number, got {quote(text)}")


def _integer(text: str) -> int:
    if "_" not in text:
        try:
            return int(text)
        except ValueError:
            pass
        try:
            number = float(text)
        except ValueError:
            pass
        else:
            if number.is_integer() and abs(number) < _EXACT:
                return int(number)
    raise UnreadableError(f"expected an integer, got {quote(text)}")


def _bool(text: str) -> bool:
    found = {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower())
    if found is None:
        raise UnreadableError(f"expected true or false, got {quote(text)}")
    return found


def _array(text: str, feature: Feature) -> Value:
    try:
        value = load_json(text)
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise UnreadableError(f"expected {expected(feature)}, got {quote(text)}")
    return read_json(value, feature)


def _guess(text: str) -> Value:
    try:
        value = load_json(text)
    except ValueError:
        try:
            return _float(text)  # nan, inf
        except UnreadableError:
            return text
    return value if isinstance(value, (bool, int, float, list)) else text


def _with_numbers(value: Any) -> Any:
    if isinstance(value, str):
        return _NUMBERS.get(value, value)
    return [_with_numbers(element) for element in value] if isinstance(value, list) else value
