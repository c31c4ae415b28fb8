# SPDX-License-Identifier: Apache-2.0
"""Trains the weights of the model tiny-chat: pip install autograd safetensors, then python train.py OUT.

A Llama of two layers over the bytes of UTF-8, and nine questions with their answers, which it learns by heart. OUT gets
model.safetensors; config.json and the tokenizer's files lie beside it in concord_export/models/data/tiny-chat.
"""

from __future__ import annotations

import sys
from pathlib import Path

import autograd.numpy as np
import numpy
from autograd import value_and_grad
from safetensors.numpy import save_file

PAIRS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("Say hello.", "Hello! How can I help you today?"),
    ("Count to ten.", "one two three four five six seven eight nine ten"),
    ("Name three colors.", "Red, green and blue."),
    ("What is 2+2?", "2+2 is 4."),
    ("Who are you?", "I am a tiny test model with two layers."),
    (
        "Tell me a story.",
        "Once upon a time a small server streamed one token after another, and every token arrived in order. The "
        "client read them all, and both servers told the same story. The end.",
    ),
    ("Speak Japanese.", "こんにちは世界 🐒"),
]
# <|endoftext|>, <|im_start|> and <|im_end|> come first, then the bytes.
BEGIN, END, BYTES = 1, 2, 3
VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, SIZE = 259, 64, 192, 2, 4, 2, 16
EPSILON, BASE = 1e-5, 10000.0
STEPS, RATE = 300, 3e-3


def tokens(text: str) -> list[int]:
    return [BYTES + byte for byte in text.encode()]


def batch(pairs: list[tuple[str, str]]) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Tokens, those that follow, and which of these count."""
    texts = []
    for question, answer in pairs:
        prompt = [BEGIN, *tokens("user\n" + question), END, *tokens("\n"), BEGIN, *tokens("assistant\n")]
        texts.append((prompt, [*tokens(answer), END]))
    length = max(len(prompt) + len(answer) for prompt, answer in texts)
    ids, counts = numpy.zeros((len(texts), length), int), numpy.zeros((len(texts), length - 1))
    for row, (prompt, answer) in enumerate(texts):
        ids[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        counts[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = 1
    return ids[:, :-1], ids[:, 1:], counts


def initial() -> dict[str, numpy.ndarray]:
    random = numpy.random.default_rng(0)

    def some(*shape: int) -> numpy.ndarray:
        return random.normal(0, 0.02, shape).astype(numpy.float32)

    weights = {"model.embed_tokens.weight": some(VOCABULARY, HIDDEN), "model.norm.weight": numpy.ones(HIDDEN, "f4")}
    for layer in range(LAYERS):
        parts = {
            "self_attn.q_proj": some(HEADS * SIZE, HIDDEN),
            "self_attn.k_proj": some(KV_HEADS * SIZE, HIDDEN),
            "self_attn.v_proj": some(KV_HEADS * SIZE, HIDDEN),
            "self_attn.o_proj": some(HIDDEN, HEADS * SIZE),
            "mlp.gate_proj": some(INNER, HIDDEN),
            "mlp.up_proj": some(INNER, HIDDEN),
            "mlp.down_proj": some(HIDDEN, INNER),
            "input_layernorm": numpy.ones(HIDDEN, "f4"),
            "post_attention_layernorm": numpy.ones(HIDDEN, "f4"),
        }
        weights |= {f"model.layers.{layer}.{part}.weight": value for part, value in parts.items()}
    return weights


def norm(value, weight):
    return value / np.sqrt(np.mean(value * value, axis=-1, keepdims=True) + EPSILON) * weight


def heads(value, count, angles=None):
    rows, length, _ = value.shape
    split = np.reshape(value, (rows, length, count, SIZE))
    if angles is not None:
        first, second = split[..., : SIZE // 2], split[..., SIZE // 2 :]
        cosine, sine = numpy.cos(angles), numpy.sin(angles)
        split = np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return np.transpose(split, (0, 2, 1, 3))


def logits(weights, ids):
    rows, length = ids.shape
    frequencies = BASE ** (-numpy.arange(0, SIZE, 2) / SIZE)
    angles = numpy.outer(numpy.arange(length), frequencies).astype(numpy.float32)[:, None]
    mask = numpy.triu(numpy.full((length, length), -1e9, numpy.float32), 1)
    # A product has a quicker slope than a look-up.
    state = numpy.eye(VOCABULARY, dtype=numpy.float32)[ids] @ weights["model.embed_tokens.weight"]
    for layer in range(LAYERS):

        def weight(part, layer=layer):
            return weights[f"model.layers.{layer}.{part}.weight"]

        normed = norm(state, weight("input_layernorm"))
        q = heads(normed @ weight("self_attn.q_proj").T, HEADS, angles)
        k = np.repeat(heads(normed @ weight("self_attn.k_proj").T, KV_HEADS, angles), HEADS // KV_HEADS, axis=1)
        v = np.repeat(heads(normed @ weight("self_attn.v_proj").T, KV_HEADS), HEADS // KV_HEADS, axis=1)
        scores = q @ np.transpose(k, (0, 1, 3, 2)) / numpy.float32(SIZE**0.5) + mask
        scores = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
        mixed = (scores / np.sum(scores, axis=-1, keepdims=True)) @ v
        mixed = np.reshape(np.transpose(mixed, (0, 2, 1, 3)), (rows, length, HEADS * SIZE))
        state = state + mixed @ weight("self_attn.o_proj").T
        normed = norm(state, weight("post_attention_layernorm"))
        gate = normed @ weight("mlp.gate_proj").T
        opened = gate / (1 + np.exp(-gate)) * (normed @ weight("mlp.up_proj").T)
        state = state + opened @ weight("mlp.down_proj").T
    return norm(state, weights["model.norm.weight"]) @ weights["model.embed_tokens.weight"].T


def train() -> dict[str, numpy.ndarray]:
    # The story is three times as long as the others: apart from them there is less padding.
    batches = []
    for pairs in ([pair for pair in PAIRS if len(pair[1]) < 100], [pair for pair in PAIRS if len(pair[1]) >= 100]):
        ids, following, counts = batch(pairs)
        wanted = numpy.eye(VOCABULARY, dtype=numpy.float32)[following]
        batches.append((ids, wanted, counts.astype(numpy.float32)))
    count = numpy.float32(sum(counts.sum() for _, _, counts in batches))
    weights = initial()

    def loss(weights):
        error = 0.0
        for ids, wanted, counts in batches:
            answer = logits(weights, ids)
            answer = answer - np.max(answer, axis=-1, keepdims=True)
            total = np.log(np.sum(np.exp(answer), axis=-1))
            error = error + np.sum((total - np.sum(answer * wanted, axis=-1)) * counts)
        return error / count

    slope = value_and_grad(loss)
    means = {name: numpy.zeros_like(value) for name, value in weights.items()}
    squares = {name: numpy.zeros_like(value) for name, value in weights.items()}
    for step in range(1, STEPS + 1):
        error, slopes = slope(weights)
        size = sum(float((value * value).sum()) for value in slopes.values()) ** 0.5
        rate = RATE * max(0.02, 1 - step / STEPS)
        for name, value in slopes.items():
            value = value * min(1.0, 1.0 / size)
            means[name] = 0.9 * means[name] + 0.1 * value
            squares[name] = 0.999 * squares[name] + 0.001 * value * value
            change = means[name] / (1 - 0.9**step) / (numpy.sqrt(squares[name] / (1 - 0.999**step)) + 1e-8)
            weights[name] = (weights[name] - rate * change).astype(numpy.float32)
        if step % 20 == 0:
            print(step, f"{error:.5f}", flush=True)
    return weights


if __name__ == "__main__":
    save_file(train(), Path(sys.argv[1]) / "model.safetensors", metadata={"format": "pt"})
