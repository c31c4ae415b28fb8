# SPDX-License-Identifier: Apache-2.0
"""What genai_config.json says of a decoder: the layout of onnxruntime-genai's own model builder, read with bounds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from concord_server.fault import quote, shown
from concord_server.generate.package import GENAI_CONFIG

__all__ = ["Settings", "SettingsError", "parse_settings"]

# Most that a decoder may say of itself. Real ones lie far below; products of these stay far below what overflows.
_MAX_CONTEXT = 1 << 24
_MAX_LAYERS = 1 << 10
_MAX_HEADS = 1 << 12
_MAX_HEAD_SIZE = 1 << 12
MAX_VOCABULARY = 1 << 24
_MAX_END_TOKENS = 1 << 8
_MAX_NAME_BYTES = 1 << 8

_INTEGER = re.compile(r"-?[0-9]{1,19}")


class SettingsError(Exception):
    """What was expected of genai_config.json, and what came; fit for callers."""


class _Number(str):
    """A number as the file writes it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """A decoder's facts."""

    context: int
    """Most tokens of one generation, its prompt among them; 1 to 2^24."""
    vocabulary: int
    """1 to 2^24."""
    layers: int
    """1 to 1,024."""
    heads: int
    """Of keys and values, in each layer; 1 to 4,096."""
    head_size: int
    """Numbers in one head; 1 to 4,096."""
    end_tokens: tuple[int, ...]
    """1 to 256 of them, each below the vocabulary."""

    # Names of the graph's inputs and outputs. Those of keys and values hold one %d, for the layer.
    input_ids: str
    attention_mask: str
    position_ids: str
    past_key: str
    past_value: str
    logits: str
    present_key: str
    present_value: str

    def cache_bytes(self, number_bytes: int) -> int:
        """What the keys and values of one token take, in numbers of that many bytes."""
        return 2 * self.layers * self.heads * self.head_size * number_bytes

    def fit(self, slots: int, most: int, number_bytes: int) -> int:
        """How many tokens a slot can hold where all slots together have that much memory.

        At most the context; 0 where there is room for none.
        """
        return min(self.context, max(most, 0) // (self.cache_bytes(number_bytes) * slots)) if slots > 0 else 0


def layer_name(pattern: str, layer: int) -> str:
    """The name of a layer's input or output, from 0."""
    return pattern.replace("%d", str(layer), 1)


def parse_settings(data: bytes) -> Settings:
    """Reads genai_config.json. Raises SettingsError."""
    reader = Reader(GENAI_CONFIG, read_json(GENAI_CONFIG, data))
    context = reader.number("model.context_length", _MAX_CONTEXT)
    vocabulary = reader.number("model.vocab_size", MAX_VOCABULARY)
    return Settings(
        context=context,
        vocabulary=vocabulary,
        layers=reader.number("model.decoder.num_hidden_layers", _MAX_LAYERS),
        heads=reader.number("model.decoder.num_key_value_heads", _MAX_HEADS),
        head_size=reader.number("model.decoder.head_size", _MAX_HEAD_SIZE),
        input_ids=reader.name("model.decoder.inputs.input_ids", "input_ids"),
        attention_mask=reader.name("model.decoder.inputs.attention_mask", "attention_mask"),
        position_ids=reader.name("model.decoder.inputs.position_ids", "position_ids"),
        past_key=reader.layered("model.decoder.inputs.past_key_names", "past_key_values.%d.key"),
        past_value=reader.layered("model.decoder.inputs.past_value_names", "past_key_values.%d.value"),
        logits=reader.name("model.decoder.outputs.logits", "logits"),
        present_key=reader.layered("model.decoder.outputs.present_key_names", "present.%d.key"),
        present_value=reader.layered("model.decoder.outputs.present_value_names", "present.%d.value"),
        end_tokens=reader.tokens("model.eos_token_id", vocabulary),
    )


def read_json(name: str, data: bytes) -> Any:
    """What a file holds, its numbers as they are written. Raises SettingsError."""
    try:
        text = data.decode("utf-8", "replace")
        return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_no_json)
    except (ValueError, RecursionError):
        raise SettingsError(f"{name}: expected JSON") from None


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)


class Reader:
    """A file's values by their paths. Raises SettingsError at the first that is wrong."""

    def __init__(self, name: str, root: Any) -> None:
        self._name = name
        self._root = root

    def number(self, path: str, most: int) -> int:
        value = self.at(path)
        number = integer(value)
        if number is None or not 1 <= number <= most:
            raise self._wrong(path, f"1 to {most}", value_shown(value))
        return number

    def name(self, path: str, usual: str) -> str:
        value = self.at(path)
        if value is None:
            return usual
        if type(value) is not str or not 1 <= _size(value) <= _MAX_NAME_BYTES or "\0" in value:
            raise self._wrong(path, f"a name of at most {_MAX_NAME_BYTES} bytes", value_shown(value))
        return value

    def layered(self, path: str, usual: str) -> str:
        name = self.name(path, usual)
        if name.count("%") != 1 or name.count("%d") != 1:
            raise self._wrong(path, "a name with one %d", quote(name))
        return name

    def tokens(self, path: str, vocabulary: int) -> tuple[int, ...]:
        """One token, or a list of them."""
        value = self.at(path)
        values = value if isinstance(value, list) else [value]
        if not 1 <= len(values) <= _MAX_END_TOKENS:
            raise self._wrong(path, f"1 to {_MAX_END_TOKENS} tokens", str(len(values)))
        tokens = []
        for item in values:
            token = integer(item)
            if token is None or not 0 <= token < vocabulary:
                raise self._wrong(path, f"tokens from 0 to {vocabulary - 1}", value_shown(item))
            tokens.append(token)
        return tuple(tokens)

    def at(self, path: str) -> Any:
        """The value at a path, None where there is none or a null."""
        value = self._root
        for member in path.split("."):
            if not isinstance(value, dict):
                return None
            value = value.get(member)
        return value

    def _wrong(self, path: str, expected: str, got: str) -> SettingsError:
        return SettingsError(f"{self._name}: {path}: expected {expected}, got {got}")


def integer(value: Any) -> int | None:
    """The integer of 64 bits that a value is; None where it is none."""
    if not isinstance(value, _Number) or not _INTEGER.fullmatch(value):
        return None
    number = int(value)
    return number if -(1 << 63) <= number < 1 << 63 else None


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def value_shown(value: Any) -> str:
    """A value in a message."""
    match value:
        case None:
            return "nothing"
        case _Number():
            return shown(str(value))
        case str():
            return quote(value)
        case bool():
            return "true" if value else "false"
        case list():
            return "a list"
        case _:
            return "an object"
