# SPDX-License-Identifier: Apache-2.0
"""The same computation in NumPy and doubles, a layer's weights at a time: what a graph is compared with.

It knows the whole text from the start and no cache: given a text that a greedy generation made, the largest logit
before each of its tokens tells whether this computation would have made it, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from concord_export.llama.architecture import Llama, Weights
from concord_export.progress import Progress

__all__ = ["logits"]

Doubles = npt.NDArray[np.float64]

_ROWS = 8192


def logits(
    llama: Llama,
    weights: Weights,
    texts: Sequence[Sequence[int]],
    asked: Sequence[Sequence[int]],
    progress: Progress | None = None,
) -> list[Doubles]:
    """Of each text the logits [asked, vocabulary] after its tokens at the places asked for."""

    def read(name: str) -> Doubles:
        return weights.read(name).astype(np.float64)

    table = weights.read("embedding")
    states = [table[np.array(text)].astype(np.float64) for text in texts]
    del table
    for layer in range(llama.layers):
        if progress is not None:
            progress("computing in NumPy", layer, llama.layers)
        at = f"layers.{layer}"
        before = read(f"{at}.attention_norm")
        projections = [(read(f"{at}.{part}"), read(f"{at}.{part}_bias") if llama.biased else 0.0) for part in "qkv"]
        out, after = read(f"{at}.o"), read(f"{at}.mlp_norm")
        gate, up, down = (read(f"{at}.{part}") for part in ("gate", "up", "down"))
        for index, state in enumerate(states):
            normed = _norm(state, before, llama.epsilon)
            q, k, v = (normed @ weight.T + bias for weight, bias in projections)
            state = state + _attention(llama, q, k, v) @ out.T
            normed = _norm(state, after, llama.epsilon)
            opened = normed @ gate.T
            # Of very negative numbers the exponential is infinite, and their share 0.
            with np.errstate(over="ignore"):
                opened = opened / (1 + np.exp(-opened))
            states[index] = state + (opened * (normed @ up.T)) @ down.T
    last = read("norm")
    ends = [
        _norm(state[np.array(places, np.intp)], last, llama.epsilon)
        for state, places in zip(states, asked, strict=True)
    ]
    head = weights.read("embedding" if llama.tied else "head")
    found = [np.empty((len(end), llama.vocabulary)) for end in ends]
    for start in range(0, llama.vocabulary, _ROWS):
        part = head[start : start + _ROWS].astype(np.float64)
        for end, answer in zip(ends, found, strict=True):
            answer[:, start : start + _ROWS] = end @ part.T
    return found


def _norm(value: Doubles, weight: Doubles, epsilon: float) -> Doubles:
    return np.asarray(value / np.sqrt((value * value).mean(axis=-1, keepdims=True) + epsilon) * weight)


def _attention(llama: Llama, q: Doubles, k: Doubles, v: Doubles) -> Doubles:
    length, size, group = len(q), llama.head_size, llama.heads // llama.kv_heads
    angles = np.outer(np.arange(length, dtype=np.float64), llama.frequencies)[:, np.newaxis]

    def heads(value: Doubles, count: int, *, turned: bool) -> Doubles:
        split = value.reshape(length, count, size)
        if turned:
            # A pair is a number of the first half and its counterpart of the second.
            first, second = split[..., : size // 2], split[..., size // 2 :]
            cosine, sine = np.cos(angles), np.sin(angles)
            split = np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
        return split.transpose(1, 0, 2)

    queries = heads(q, llama.heads, turned=True)
    keys = np.repeat(heads(k, llama.kv_heads, turned=True), group, axis=0)
    values = np.repeat(heads(v, llama.kv_heads, turned=False), group, axis=0)
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(size)
    scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return np.asarray((shares @ values).transpose(1, 0, 2).reshape(length, llama.heads * size))
