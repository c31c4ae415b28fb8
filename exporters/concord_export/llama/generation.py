# SPDX-License-Identifier: Apache-2.0
"""Greedy generation in this process: a package's own tokenizer, its graph on ONNX Runtime, one text at a time."""

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
from concord_server.model import SessionError
from concord_server.ort.genai import GenAITokenizer, genai_library, open_genai

from concord_export.errors import ConversionError, PackageInvalidError
from concord_export.runtime import Session

__all__ = ["Generator", "Text", "prompt_text"]

Logits = npt.NDArray[np.float32]


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


def prompt_text(features: Mapping[str, inference_service_pb2.FeatureValue]) -> tuple[str, bool]:
    """The prompt of a golden case's features, or its messages; and whether the chat template is for it.

    Raises PackageInvalidError for other features.
    """
    given = {name: value.WhichOneof("value") for name, value in features.items()}
    if given == {"prompt": "string_value", "raw": "bool_value"} and features["raw"].bool_value:
        return features["prompt"].string_value, False
    if given == {"messages": "string_value"}:
        return features["messages"].string_value, True
    if given == {"prompt": "string_value"}:
        message = {"role": "user", "content": features["prompt"].string_value}
        return json.dumps([message], ensure_ascii=False), True
    raise PackageInvalidError(f"golden.binpb: expected a prompt, a raw prompt or messages, got {sorted(given)}")


class Generator:
    """A package's tokenizer and decoder. Raises ConversionError where they do not load."""

    def __init__(self, model: Path, config: bytes, tokenizer: Mapping[str, bytes]) -> None:
        try:
            self._tokenizer: GenAITokenizer = open_genai(genai_library()).tokenizer(tokenizer)
        except (SessionError, FileNotFoundError) as error:
            raise ConversionError(f"the tokenizer: {error}") from None
        try:
            facts = json.loads(config)["model"]
            decoder = facts["decoder"]
            self._layers, ends = int(decoder["num_hidden_layers"]), facts["eos_token_id"]
            self._names: dict[str, str] = {**decoder["inputs"], **decoder["outputs"]}
            self._cache = (1, int(decoder["num_key_value_heads"]), 0, int(decoder["head_size"]))
            self.context = int(facts["context_length"])
            self.ends: frozenset[int] = frozenset(ends if isinstance(ends, list) else [ends])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConversionError(f"genai_config.json: {error!r}") from None
        self._session = Session(model)

    def tokens(self, text: str, *, template: bool) -> list[int]:
        """The tokens of a text or, for the template, of a JSON list of messages. Raises ConversionError."""
        try:
            return self._tokenizer.encode(self._tokenizer.template(text) if template else text)
        except TokenizerError as error:
            raise ConversionError(f"the tokenizer: {error}") from None

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, as servers put it together from the texts of each."""
        stream = self._tokenizer.stream()
        try:
            return "".join(stream.add(token) for token in tokens)
        finally:
            stream.close()

    def greedy(self, prompt: list[int], most: int) -> Text:
        """The likeliest token, and so on, until the model ends it or there are `most`. Raises ConversionError."""
        logits: list[Logits] = []
        tokens: list[int] = []
        ended = False
        caches: dict[str, npt.NDArray[Any]] = {
            self._past(layer, part): np.zeros(self._cache, np.float32)
            for layer in range(self._layers)
            for part in ("key", "value")
        }
        given, done = prompt, 0
        while len(tokens) < most:
            done += len(given)
            inputs: dict[str, npt.NDArray[Any]] = {
                self._names["input_ids"]: np.array([given], np.int64),
                self._names["attention_mask"]: np.ones((1, done), np.int64),
                **caches,
            }
            if "position_ids" in self._names:
                inputs[self._names["position_ids"]] = np.arange(done - len(given), done)[np.newaxis]
            answer = self._session.run(inputs)
            last: Logits = answer[self._names["logits"]][0, -1]
            logits.append(last)
            token = int(last.argmax())
            if token in self.ends:
                ended = True
                break
            tokens.append(token)
            given = [token]
            caches = {
                self._past(layer, part): answer[self._names[f"present_{part}_names"] % layer]
                for layer in range(self._layers)
                for part in ("key", "value")
            }
        return Text(prompt, tokens, ended, self.text(tokens), logits)

    def _past(self, layer: int, part: str) -> str:
        return self._names[f"past_{part}_names"] % layer
