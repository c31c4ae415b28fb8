# SPDX-License-Identifier: Apache-2.0
"""A model in a GGUF file: sizes, weights in whatever the file holds them in, and the tokenizer that goes with them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize

from concord_export.errors import SourceError
from concord_export.llama.architecture import Floats, Llama, Model, frequencies
from concord_export.llama.gguf_tokenizer import tokenizer_files

__all__ = ["read_gguf"]

_FAMILIES = ("llama", "qwen2")
_PARTS = {
    "attn_q.weight": "q",
    "attn_k.weight": "k",
    "attn_v.weight": "v",
    "attn_output.weight": "o",
    "attn_q.bias": "q_bias",
    "attn_k.bias": "k_bias",
    "attn_v.bias": "v_bias",
    "ffn_gate.weight": "gate",
    "ffn_up.weight": "up",
    "ffn_down.weight": "down",
    "attn_norm.weight": "attention_norm",
    "ffn_norm.weight": "mlp_norm",
}
_WHOLE = {"token_embd.weight": "embedding", "output_norm.weight": "norm", "output.weight": "head"}
_ROTATION = "rope_freqs.weight"


class _Facts:
    """The file's key-value pairs."""

    def __init__(self, reader: GGUFReader) -> None:
        self._fields = reader.fields

    def get(self, key: str, default: Any = None) -> Any:
        return self._fields[key].contents() if key in self._fields else default

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise SourceError(f"{key}: is missing in the file")
        return self._fields[key].contents()


class _GgufWeights:
    """The tensors; a matrix of queries or keys in the order of safetensors files."""

    def __init__(self, name: str, tensors: list[ReaderTensor]) -> None:
        self._name = name
        self._tensors: dict[str, ReaderTensor] = {}
        # Of heads whose rows llama.cpp keeps in the order that its rotation wants: how many.
        self.turned: dict[str, int] = {}
        self.unknown: list[str] = []
        for tensor in tensors:
            ours = _our_name(tensor.name)
            if ours is None:
                self.unknown.append(tensor.name)
            else:
                self._tensors[ours] = tensor

    def shape(self, name: str) -> tuple[int, ...] | None:
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(int(length) for length in reversed(tensor.shape.tolist()))

    def read(self, name: str) -> Floats:
        tensor = self._tensors[name]
        weight = _floats(tensor)
        heads = self.turned.get(name.rpartition(".")[2])
        if heads is not None:
            # Pairs side by side there, half a head apart here.
            rows = weight.reshape(heads, len(weight) // heads // 2, 2, -1)
            weight = rows.swapaxes(1, 2).reshape(weight.shape)
        return weight


def _floats(tensor: ReaderTensor) -> Floats:
    try:
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    except NotImplementedError:
        kind = GGMLQuantizationType(tensor.tensor_type).name
        raise SourceError(f"{tensor.name}: the quantisation {kind} cannot be read") from None


def _our_name(name: str) -> str | None:
    if name in _WHOLE:
        return _WHOLE[name]
    before, _, rest = name.partition("blk.")
    layer, _, part = rest.partition(".")
    return f"layers.{layer}.{_PARTS[part]}" if not before and layer.isdecimal() and part in _PARTS else None


def read_gguf(path: Path) -> Model:
    """The model of a file. Raises SourceError, OSError."""
    try:
        reader = GGUFReader(path)
    except OSError:
        raise
    except Exception as error:
        # The library says in many ways that bytes are missing or wrong.
        raise SourceError(f"{path.name}: is no whole GGUF file: {type(error).__name__}: {error}") from None
    facts = _Facts(reader)
    family = facts["general.architecture"]
    if family not in _FAMILIES:
        raise SourceError(f"general.architecture: expected one of {', '.join(_FAMILIES)}, got {family!r}")
    factors = [tensor for tensor in reader.tensors if tensor.name == _ROTATION]
    weights = _GgufWeights(path.name, [tensor for tensor in reader.tensors if tensor.name != _ROTATION])
    if weights.unknown:
        raise SourceError(f"{weights.unknown[0]}: is no weight of {family} as it is computed here")
    try:
        llama = _llama(family, facts, weights, factors)
        files, notes = tokenizer_files(facts, llama)
    except (TypeError, ValueError, UnicodeDecodeError) as error:
        raise SourceError(f"{path.name}: {error}") from None
    if family == "llama":
        weights.turned = {"q": llama.heads, "k": llama.kv_heads}
    named = facts.get("general.name", "")
    return Model(llama, weights, files, named if isinstance(named, str) else "", notes)


def _llama(family: str, facts: _Facts, weights: _GgufWeights, factors: list[ReaderTensor]) -> Llama:
    def fact(name: str, default: Any = None) -> Any:
        return facts[f"{family}.{name}"] if default is None else facts.get(f"{family}.{name}", default)

    hidden, heads = int(fact("embedding_length")), int(fact("attention.head_count"))
    head_size = int(fact("attention.key_length", hidden // heads))
    if int(fact("rope.dimension_count", head_size)) != head_size:
        raise SourceError(f"{family}.rope.dimension_count: expected {head_size}, got {fact('rope.dimension_count')}")
    rotation = frequencies(float(fact("rope.freq_base", 10000.0)), head_size)
    scaling = fact("rope.scaling.type", "none")
    if scaling == "linear":
        rotation = rotation / float(fact("rope.scaling.factor"))
    elif scaling != "none":
        raise SourceError(f"{family}.rope.scaling.type: expected none or linear, got {scaling!r}")
    for tensor in factors:
        # Llama 3's scaling, worked out when the file was made.
        values = _floats(tensor).astype(np.float64).reshape(-1)
        if values.size != head_size // 2 or not (values > 0).all():
            raise SourceError(f"{_ROTATION}: expected {head_size // 2} positive numbers, got {values.size}")
        rotation = rotation / values
    embedding = weights.shape("embedding") or (0, 0)
    biases = [weights.shape(f"layers.0.{part}_bias") is not None for part in "qkv"]
    if any(biases) and family == "llama":
        raise SourceError("layers.0.q_bias: biases of the architecture llama are not computed here")
    ends = [facts["tokenizer.ggml.eos_token_id"], facts.get("tokenizer.ggml.eot_token_id")]
    end_tokens = tuple(dict.fromkeys(int(token) for token in ends if token is not None))
    begin = facts.get("tokenizer.ggml.bos_token_id")
    return Llama(
        layers=int(fact("block_count")),
        hidden=hidden,
        heads=heads,
        kv_heads=int(fact("attention.head_count_kv", heads)),
        head_size=head_size,
        inner=int(fact("feed_forward_length")),
        vocabulary=math.prod(embedding[:1]),
        context=int(fact("context_length")),
        epsilon=float(fact("attention.layer_norm_rms_epsilon")),
        frequencies=rotation,
        tied=weights.shape("head") is None,
        biased=any(biases),
        begin=None if begin is None else int(begin),
        ends=end_tokens,
        padding=int(facts.get("tokenizer.ggml.padding_token_id", end_tokens[0])),
    )
