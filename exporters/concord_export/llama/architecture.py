# SPDX-License-Identifier: Apache-2.0
"""The sizes of a model of the Llama family, the names and shapes of its weights, and where they are read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from concord_export.errors import SourceError

__all__ = ["Floats", "Llama", "Model", "Weights", "check_weights", "frequencies", "scaled_like_llama3", "shapes"]

Floats = npt.NDArray[np.float32]

# What real models have lies far below these; they keep a wrong number from costing memory.
_MOST = {"layers": 1024, "hidden": 1 << 17, "heads": 1024, "inner": 1 << 20, "vocabulary": 1 << 22, "context": 1 << 24}


@dataclass(frozen=True)
class Llama:
    """What its layers compute: RMS norm, attention with rotated keys and queries, RMS norm, SwiGLU."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    """Width of the SwiGLU."""
    vocabulary: int
    context: int
    """Most tokens that it was made for, the prompt's and its own together."""
    epsilon: float
    frequencies: npt.NDArray[np.float64]
    """[head_size / 2]: by how much a position turns each pair of a head's numbers, in radians."""
    tied: bool
    """Whether the tokens' embeddings are also the last layer."""
    biased: bool
    """Whether queries, keys and values have biases, as Qwen2's have."""
    begin: int | None
    ends: tuple[int, ...]
    """The tokens that end a text, at least one."""
    padding: int

    def __post_init__(self) -> None:
        """Raises SourceError for sizes that no model has."""
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise SourceError(f"{name}: expected 1 to {most}, got {getattr(self, name)}")
        if not 1 <= self.kv_heads <= self.heads or self.heads % self.kv_heads:
            raise SourceError(f"{self.heads} heads cannot share the keys and values of {self.kv_heads}")
        # GroupQueryAttention rotates no others.
        if self.head_size % 16 or not 16 <= self.head_size <= 1024:
            raise SourceError(f"size of a head: expected a multiple of 16 up to 1024, got {self.head_size}")
        if not 0 < self.epsilon < 1:
            raise SourceError(f"epsilon of the norms: expected a number between 0 and 1, got {self.epsilon}")
        if self.frequencies.shape != (self.head_size // 2,) or not np.isfinite(self.frequencies).all():
            raise SourceError(f"rotation: expected {self.head_size // 2} finite frequencies")
        special = [*self.ends, self.padding, *([] if self.begin is None else [self.begin])]
        if not self.ends or not all(0 <= token < self.vocabulary for token in special):
            raise SourceError(f"special tokens: expected some below {self.vocabulary}, got {special}")


class Weights(Protocol):
    """A model's weights by the names of `shapes`, read one by one: a model may be larger than the memory."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of one, or None where there is none of this name."""

    def read(self, name: str) -> Floats:
        """One in 32-bit floats. Raises SourceError where it cannot be read."""


@dataclass(frozen=True)
class Model:
    """What a source holds: sizes, weights, and the files of its tokenizer."""

    llama: Llama
    weights: Weights
    tokenizer: Mapping[str, bytes]
    """tokenizer.json, tokenizer_config.json and, where there is a chat template, chat_template.jinja."""
    description: str = ""
    notes: list[str] = field(default_factory=list)
    """What was changed on the way, for the author to know."""

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        return "chat_template.jinja" in self.tokenizer


def shapes(llama: Llama) -> dict[str, tuple[int, ...]]:
    """The weights by name; a matrix is [out, in]."""
    queries, keys = llama.heads * llama.head_size, llama.kv_heads * llama.head_size
    found: dict[str, tuple[int, ...]] = {"embedding": (llama.vocabulary, llama.hidden), "norm": (llama.hidden,)}
    if not llama.tied:
        found["head"] = (llama.vocabulary, llama.hidden)
    for layer in range(llama.layers):
        parts: dict[str, tuple[int, ...]] = {
            "attention_norm": (llama.hidden,),
            "q": (queries, llama.hidden),
            "k": (keys, llama.hidden),
            "v": (keys, llama.hidden),
            "o": (llama.hidden, queries),
            "mlp_norm": (llama.hidden,),
            "gate": (llama.inner, llama.hidden),
            "up": (llama.inner, llama.hidden),
            "down": (llama.hidden, llama.inner),
        }
        if llama.biased:
            parts |= {"q_bias": (queries,), "k_bias": (keys,), "v_bias": (keys,)}
        found |= {f"layers.{layer}.{part}": shape for part, shape in parts.items()}
    return found


def check_weights(llama: Llama, weights: Weights) -> None:
    """Raises SourceError naming the first weight that is missing or has another shape."""
    for name, expected in shapes(llama).items():
        got = weights.shape(name)
        if got is None:
            raise SourceError(f"{name}: is missing, expected {list(expected)}")
        if got != expected:
            raise SourceError(f"{name}: expected {list(expected)}, got {list(got)}")


def frequencies(base: float, head_size: int) -> npt.NDArray[np.float64]:
    """base ** (-2i / head_size). Raises SourceError for a base that is none."""
    if not (np.isfinite(base) and base > 1):
        raise SourceError(f"rotation: expected a base above 1, got {base}")
    return np.asarray(float(base) ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size))


def scaled_like_llama3(
    unscaled: npt.NDArray[np.float64], factor: float, low: float, high: float, original_context: int
) -> npt.NDArray[np.float64]:
    """Llama 3's rule: slow turns become slower by `factor`, fast ones stay, those between go from one to the other."""
    if not (factor >= 1 and 0 < low < high and original_context > 0):
        raise SourceError(f"rotation: expected a factor from 1 and 0 < low < high, got {factor}, {low}, {high}")
    turns = original_context * unscaled / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(unscaled * (share + (1 - share) / factor))
