# SPDX-License-Identifier: Apache-2.0
"""What a generator answers, worked out without any server: ONNX Runtime runs the graph, everything else is written
anew here from docs/sampling.md and from what a byte-level tokenizer is. A test holds the tokens against the library
`tokenizers`.

The cache of keys and values grows with the sequence, one row at a time, as a server's need not: what comes out is the
same.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime

__all__ = ["Generated", "Reference", "Settings", "philox", "sample", "seed_of", "stop_at"]

DEFAULT_TOKENS = 256
"""Where a request names no max_tokens."""

LEAST_MARGIN = 1e-3
"""The two largest logits of a greedy token lie at least so far apart: another machine's sums choose the same one."""
LEAST_DISTANCE = 1e-5
"""A sampled token's random number lies at least so far, as a part of the whole, from where the next token begins."""

LOG2E = float.fromhex("0x1.71547652b82fep+0")
COEFFICIENTS = [
    float.fromhex(text)
    for text in (
        "0x1.62e429203a9dcp-1",
        "0x1.ebf9bb8a9f551p-3",
        "0x1.c6b752dcae731p-5",
        "0x1.3cea87425bd84p-7",
        "0x1.5bba148b6a29bp-10",
    )
]
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Settings:
    """How text is generated: inference.v1.InferenceConfig. A seed is needed where the temperature is not 0."""

    max_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()


def seed_of(request_id: str) -> int:
    """The seed of a sampled request that names none, by the id that it gives."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "little")


def philox(seed: int, index: int) -> int:
    """The 64-bit random number of a token: Philox4x32-10."""
    counter = [index & _WORD, index >> 32 & _WORD, 0, 0]
    low, high = seed & _WORD, seed >> 32 & _WORD
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [second >> 32 ^ counter[1] ^ low, second & _WORD, first >> 32 ^ counter[3] ^ high, first & _WORD]
        low, high = low + 0x9E3779B9 & _WORD, high + 0xBB67AE85 & _WORD
    return counter[0] | counter[1] << 32


def weights_of(logits: Sequence[float], temperature: float) -> list[tuple[int, int]]:
    """(weight, token) of each token, the likeliest first."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    scale, most = LOG2E / float(np.float32(temperature)), logits[order[0]]
    weights = []
    for token in order:
        y = (logits[token] - most) * scale
        if y < -32:
            weights.append((0, token))
            continue
        n = round(y)
        f = y - n
        p = COEFFICIENTS[4]
        for coefficient in (*reversed(COEFFICIENTS[:4]), 1.0):
            p = p * f + coefficient
        weights.append((math.floor(math.ldexp(p, 32 + n)), token))
    return weights


def sample(logits: Sequence[float], settings: Settings, index: int, *, robust: bool = True) -> int:
    """The token that is picked. If `robust`, ValueError where another machine's sums could pick another one."""
    weights = weights_of(logits, settings.temperature)
    if settings.top_k:
        weights = weights[: settings.top_k]
    if 0 < settings.top_p < 1:
        share = int(Fraction(float(np.float32(settings.top_p))) * (1 << 64))
        enough = max(1, share * sum(weight for weight, _ in weights) >> 64)
        held, count = 0, 0
        while held < enough:
            held += weights[count][0]
            count += 1
        if robust and min(abs(held - enough), abs(enough - held + weights[count - 1][0])) < LEAST_DISTANCE * held:
            raise ValueError("top_p ends too near a token's end")
        weights = weights[:count]
    whole = sum(weight for weight, _ in weights)
    random = philox(settings.seed, index) * whole >> 64
    held = 0
    for weight, token in weights:
        held += weight
        if held > random:
            if robust and min(held - random, random - held + weight) < LEAST_DISTANCE * whole and weight != whole:
                raise ValueError("the random number lies too near a token's end")
            return token
    raise AssertionError("the random number lies below the sum")


@dataclass(frozen=True)
class Generated:
    """One answer."""

    prompt_tokens: int
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    """The text that each token completes."""
    finish: str
    """STOP, LENGTH or STOP_SEQUENCE."""
    seed: int = 0
    """0 where nothing was sampled."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


def stop_at(text: str, stops: Sequence[str]) -> int | None:
    """Where the text ends that is delivered, once a stop text is complete."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return end - max(map(len, complete))
    return None


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
        """The text that each token completes; nothing for bytes of a character that goes on. Raises ValueError."""
        pieces, held = [], b""
        for token in tokens:
            if token < len(self.special):
                pieces.append("")
                continue
            held += bytes([token - len(self.special)])
            try:
                pieces.append(held.decode())
                held = b""
            except UnicodeDecodeError as error:
                # What becomes of bytes that are no text is each detokenizer's own.
                if error.reason != "unexpected end of data":
                    raise ValueError(f"{held!r} is no text") from None
                pieces.append("")
        return pieces

    def generate(self, prompt: str, settings: Settings | int = 0) -> Generated:
        """The answer; an integer stands for max_tokens. Raises ValueError where another machine could say otherwise."""
        if isinstance(settings, int):
            settings = Settings(settings)
        tokens = self.encode(prompt)
        logits, cache = self.run(tokens, 0, self.empty())
        limit = min(settings.max_tokens or DEFAULT_TOKENS, self.context - len(tokens))
        made: list[int] = []
        finish = ""
        while not finish:
            token = self._pick(logits, settings, len(made), prompt)
            if token in self.ends:
                finish = "STOP"
                break
            made.append(token)
            if stop_at("".join(self.pieces(made)), settings.stop) is not None:
                finish = "STOP_SEQUENCE"
            elif len(made) == limit:
                finish = "LENGTH"
            else:
                logits, cache = self.run([token], len(tokens) + len(made) - 1, cache)
        pieces = self.pieces(made)
        left = stop_at("".join(pieces), settings.stop)
        if left is not None:
            for index, piece in enumerate(pieces):
                pieces[index] = piece[:left]
                left -= len(pieces[index])
        return Generated(len(tokens), tuple(made), tuple(pieces), finish, settings.seed if settings.temperature else 0)

    def _pick(self, logits: Any, settings: Settings, index: int, prompt: str) -> int:
        best, second = np.sort(logits)[-2:][::-1]
        if settings.temperature:
            return sample([float(logit) for logit in logits], settings, index)
        if best - second < LEAST_MARGIN:
            raise ValueError(f"{prompt!r}: two tokens are as likely")
        return int(logits.argmax())

    def empty(self) -> dict[str, Any]:
        """The cache before the first token."""
        decoder = self._decoder
        shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
        return {
            name % layer: np.zeros(shape, np.float32)
            for layer in range(decoder["num_hidden_layers"])
            for name in (decoder["inputs"]["past_key_names"], decoder["inputs"]["past_value_names"])
        }

    def run(self, tokens: Sequence[int], position: int, cache: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
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
