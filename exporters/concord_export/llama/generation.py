# SPDX-License-Identifier: Apache-2.0
"""Greedy generation in this process, one text at a time, by the servers' rules: the package's own tokenizer, its graph
on ONNX Runtime, keys and values in memory that stays where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import inference_service_pb2
from concord_server.generate import TokenizerError
from concord_server.generate.settings import SettingsError, layer_name, parse_settings
from concord_server.model import SessionError
from concord_server.ort.genai import GenAITokenizer, genai_library, open_genai

from concord_export.errors import ConversionError, PackageInvalidError
from concord_export.runtime import Memory, Session, zeroed

__all__ = ["Generator", "Text"]

Logits = npt.NDArray[np.float32]

_NAMES = ("prompt", "messages", "raw", "system")


@dataclass(frozen=True)
class Text:
    """What came of a prompt."""

    prompt: list[int]
    tokens: list[int]
    """Those generated, without the one that ended it."""
    ended: bool
    """Whether the model ended it, not the limit."""
    text: str
    logits: list[Logits]
    """Before each token and, if the model ended it, before that end."""


class Generator:
    """A package's tokenizer and graph. Raises ConversionError where they do not load, or do not fit together."""

    def __init__(self, model: Path, config: bytes, tokenizer: Mapping[str, bytes]) -> None:
        try:
            self._settings = parse_settings(config)
            self._tokenizer: GenAITokenizer = open_genai(genai_library()).tokenizer(tokenizer)
        except SettingsError as error:
            raise ConversionError(str(error)) from None
        except (SessionError, FileNotFoundError) as error:
            raise ConversionError(f"the tokenizer: {error}") from None
        self._session = Session(model)
        self._caches = {
            (layer_name(past, layer), layer_name(present, layer)): self._dtype(layer_name(past, layer))
            for layer in range(self._settings.layers)
            for past, present in (
                (self._settings.past_key, self._settings.present_key),
                (self._settings.past_value, self._settings.present_value),
            )
        }

    def _dtype(self, name: str) -> npt.DTypeLike:
        info = self._session.inputs.get(name)
        if info is None or info.dtype is None or len(info.shape) != 4:
            raise ConversionError(f"the graph has no input {name} of numbers in four axes")
        return info.dtype

    @property
    def context(self) -> int:
        """Most tokens of a text with its prompt."""
        return self._settings.context

    def prompt(self, features: Mapping[str, inference_service_pb2.FeatureValue]) -> list[int]:
        """The tokens of a request's prompt or messages. Raises PackageInvalidError, ConversionError."""
        given: dict[str, Any] = {
            name: getattr(value, value.WhichOneof("value") or "", None) for name, value in features.items()
        }
        texts = [given.get(name, "") for name in ("prompt", "messages", "system")]
        if set(given) - set(_NAMES) or not all(isinstance(text, str) for text in texts):
            raise PackageInvalidError(f"golden.binpb: expected the features {', '.join(_NAMES)}, got {sorted(given)}")
        prompt, messages, system = (str(text) for text in texts)
        if given.get("raw", False):
            return self._encode(prompt)
        try:
            talk: list[Any] = json.loads(messages) if messages else [{"role": "user", "content": prompt}]
            if system:
                talk.insert(0, {"role": "system", "content": system})
        except (ValueError, AttributeError) as error:
            raise PackageInvalidError(f"golden.binpb: messages: {error}") from None
        return self._encode(self.templated(talk))

    def templated(self, messages: list[Any]) -> str:
        """The text that the chat template makes of messages. Raises ConversionError."""
        try:
            return self._tokenizer.template(json.dumps(messages, ensure_ascii=False))
        except TokenizerError as error:
            raise ConversionError(f"the chat template: {error}") from None

    def _encode(self, text: str) -> list[int]:
        try:
            # Bytes that the vocabulary lacks have a negative token here, and none in Hugging Face's tokenizers.
            return [token for token in self._tokenizer.encode(text) if token >= 0]
        except TokenizerError as error:
            raise ConversionError(f"the tokenizer: {error}") from None

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, as servers put it together from the texts of each."""
        stream = self._tokenizer.stream()
        try:
            return "".join(stream.add(token) for token in tokens)
        finally:
            stream.close()

    def greedy(self, prompt: Sequence[int], most: int) -> Text:
        """The likeliest token, and so on, until the model ends it or there are `most`. Raises ConversionError."""
        settings = self._settings
        shape = (1, settings.heads, len(prompt) + most, settings.head_size)
        memory: dict[tuple[str, str], Memory] = {names: zeroed(shape, dtype) for names, dtype in self._caches.items()}
        logits: list[Logits] = []
        tokens: list[int] = []
        given, done = list(prompt), 0
        while len(tokens) < most:
            done += len(given)
            inputs: dict[str, npt.NDArray[Any]] = {
                settings.input_ids: np.array([given], np.int64),
                settings.attention_mask: np.ones((1, done), np.int64),
            }
            if settings.position_ids in self._session.inputs:
                inputs[settings.position_ids] = np.arange(done - len(given), done)[np.newaxis]
            last = self._session.run_in_place(inputs, memory, settings.logits)[0, -1].astype(np.float32)
            logits.append(last)
            token = int(last.argmax())
            if token in settings.end_tokens:
                return Text(list(prompt), tokens, True, self.text(tokens), logits)
            tokens.append(token)
            given = [token]
        return Text(list(prompt), tokens, False, self.text(tokens), logits)
