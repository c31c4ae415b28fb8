# SPDX-License-Identifier: Apache-2.0
"""What a generator answers, worked out without any server: ONNX Runtime runs the graph, everything else is written
anew here from docs/sampling.md and from what a byte-level tokenizer is. A test holds the tokens against the library
`tokenizers`.

The cache of keys and values grows with the sequence, one row at a time, as a server's need not: what comes out is the
same.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

__all__ = ["Generated", "Reference"]

LEAST_MARGIN = 1e-3
"""The two largest logits of a greedy token lie at least so far apart: another machine's sums choose the same one."""


@dataclass(frozen=True)
class Generated:
    """One answer."""

    prompt_tokens: int
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    """The text that each token completes."""
    finish: str
    """STOP or LENGTH."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


class Reference:
    """A byte-level generator: byte b is token n + b behind n special tokens."""

    def __init__(self, package: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(package / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        model = json.loads((package / "genai_config.json").read_text(encoding="utf-8"))["model"]
        ends = model["eos_token_id"]
        self.ends = frozenset(ends if isinstance(ends, list) else [ends])
        self.context = int(model["context_length"])
        self._decoder = model["decoder"]
        tokenizer = json.loads((package / "tokenizer.json").read_text(encoding="utf-8"))
        assert tokenizer["model"]["merges"] == []  # noqa: S101
        self.special: dict[str, int] = {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
        assert len(tokenizer["model"]["vocab"]) == 256 + len(self.special)  # noqa: S101

    def encode(self, text: str) -> list[int]:
        """The tokens of a text: special tokens where they are written out, else bytes."""
        parts = re.split("(" + "|".join(map(re.escape, self.special)) + ")", text)
        tokens: list[int] = []
        for part in parts:
            tokens += [self.special[part]] if part in self.special else [len(self.special) + b for b in part.encode()]
        return tokens

    def chat(self, *messages: tuple[str, str]) -> str:
        """ChatML, as chat_template.jinja says: (role, content) each, then the assistant's turn."""
        turns = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
        return turns + "<|im_start|>assistant\n"

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text that each token completes; nothing for bytes of a character that goes on."""
        pieces, held = [], b""
        for token in tokens:
            if token < len(self.special):
                pieces.append("")
                continue
            held += bytes([token - len(self.special)])
            try:
                pieces.append(held.decode())
                held = b""
            except UnicodeDecodeError:
                pieces.append("")
        return pieces

    def generate(self, prompt: str, max_tokens: int = 256) -> Generated:
        """Greedy: the most likely token each time."""
        tokens = self.encode(prompt)
        cache = self._empty()
        logits, cache = self._run(tokens, 0, cache)
        limit = min(max_tokens or 256, self.context - len(tokens))
        made: list[int] = []
        finish = "LENGTH"
        while True:
            best, second = np.sort(logits)[-2:][::-1]
            if best - second < LEAST_MARGIN:
                raise ValueError(f"{prompt!r}: two tokens are as likely")
            token = int(logits.argmax())
            if token in self.ends:
                finish = "STOP"
                break
            made.append(token)
            if len(made) == limit:
                break
            logits, cache = self._run([token], len(tokens) + len(made) - 1, cache)
        return Generated(len(tokens), tuple(made), tuple(self.pieces(made)), finish)

    def _empty(self) -> dict[str, Any]:
        decoder = self._decoder
        shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
        return {
            name % layer: np.zeros(shape, np.float32)
            for layer in range(decoder["num_hidden_layers"])
            for name in (decoder["inputs"]["past_key_names"], decoder["inputs"]["past_value_names"])
        }

    def _run(self, tokens: Sequence[int], position: int, cache: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The logits after the last token, and the cache that has grown."""
        inputs, outputs = self._decoder["inputs"], self._decoder["outputs"]
        total = position + len(tokens)
        feeds: dict[str, Any] = {
            inputs["input_ids"]: np.array([tokens], np.int64),
            inputs["attention_mask"]: np.ones((1, total), np.int64),
            **cache,
        }
        if "position_ids" in inputs:
            feeds[inputs["position_ids"]] = np.arange(position, total, dtype=np.int64)[None]
        names = [outputs["logits"]]
        for layer in range(self._decoder["num_hidden_layers"]):
            names += [outputs["present_key_names"] % layer, outputs["present_value_names"] % layer]
        logits, *present = self._session.run(names, feeds)
        return logits[0, -1], dict(zip(cache, present, strict=True))
