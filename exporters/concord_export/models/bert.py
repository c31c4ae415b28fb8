# SPDX-License-Identifier: Apache-2.0
"""A sentence embedder of the BERT family: its ONNX graph, and the same computation in NumPy to compare it with.

One sentence's token ids go in; out comes the mean of its tokens' last hidden states, of length 1. There is no padding
and no mask: sentences run one by one, since together each would differ in its last bits from what it is alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from concord_export.errors import SourceError

__all__ = ["EMBEDDING", "INPUT_IDS", "Bert", "embed", "graph", "read_safetensors"]

INPUT_IDS = "input_ids"
EMBEDDING = "embedding"

Weights = Mapping[str, npt.NDArray[np.float32]]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bert:
    """Sizes of a BERT encoder, as its config.json has them."""

    hidden: int
    heads: int
    layers: int
    epsilon: float
    positions: int
    """Most tokens that it has learnt places for."""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Bert:
        """From config.json. Raises SourceError for what is computed otherwise here."""
        for field, value in (("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("model_type", "bert")):
            if config.get(field, value) != value:
                raise SourceError(f"config.json: {field}: expected {value!r}, got {config[field]!r}")
        return cls(
            hidden=int(config["hidden_size"]),
            heads=int(config["num_attention_heads"]),
            layers=int(config["num_hidden_layers"]),
            epsilon=float(config["layer_norm_eps"]),
            positions=int(config["max_position_embeddings"]),
        )


def read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a safetensors file: a length, a JSON header that long, the numbers. Raises SourceError."""
    data = path.read_bytes()
    dtypes = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4"}
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], dtypes[entry["dtype"]]).reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path.name}: is no safetensors file that can be read: {error}") from None
    return tensors


class _Graph:
    """Nodes and constants, in 32-bit floats, named after where they belong."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op_type: str, output: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        value = self._weights[name].astype(np.float32)
        return self.constant(name, value.T if transposed else value)

    def linear(self, output: str, value: str, name: str) -> str:
        # Weights are stored [out, in].
        product = self.node("MatMul", f"{output}/product", value, self.weight(f"{name}.weight", transposed=True))
        return self.node("Add", output, product, self.weight(f"{name}.bias"))

    def normalized(self, output: str, value: str, name: str, epsilon: float) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", output, value, scale, bias, axis=-1, epsilon=epsilon)


def graph(bert: Bert, weights: Weights) -> onnx.ModelProto:
    """INPUT_IDS int64 [rows, length] to EMBEDDING float [rows, hidden]."""
    made = _Graph(weights)
    size = bert.hidden // bert.heads
    one = made.constant("one", np.array([1]))
    words = made.node("Gather", "words", made.weight("embeddings.word_embeddings.weight"), INPUT_IDS)
    length = made.node("Shape", "length", INPUT_IDS, start=1, end=2)
    zero = made.constant("zero", np.array([0]))
    table = made.weight("embeddings.position_embeddings.weight")
    # A sentence longer than the table has too few positions, and the sum then fails.
    positions = made.node("Slice", "positions", table, zero, length, zero)
    kinds = made.constant("kind", weights["embeddings.token_type_embeddings.weight"][0].astype(np.float32))
    summed = made.node("Add", "sum", made.node("Add", "placed", words, positions), kinds)
    state = made.normalized("state", summed, "embeddings.LayerNorm", bert.epsilon)
    split = made.constant("split", np.array([0, 0, bert.heads, size]))
    merge = made.constant("merge", np.array([0, 0, bert.hidden]))
    scale = made.constant("scale", np.array(1.0 / np.sqrt(size), np.float32))
    for layer in range(bert.layers):
        name, at = f"encoder.layer.{layer}", f"layer{layer}"
        parts = {}
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            flat = made.linear(f"{at}/{part}", state, f"{name}.attention.self.{part}")
            heads = made.node("Reshape", f"{at}/{part}/heads", flat, split)
            parts[part] = made.node("Transpose", f"{at}/{part}/turned", heads, perm=order)
        scores = made.node("MatMul", f"{at}/scores", parts["query"], parts["key"])
        scores = made.node("Mul", f"{at}/scaled", scores, scale)
        shares = made.node("Softmax", f"{at}/shares", scores, axis=-1)
        context = made.node("MatMul", f"{at}/context", shares, parts["value"])
        context = made.node("Transpose", f"{at}/context/turned", context, perm=[0, 2, 1, 3])
        context = made.node("Reshape", f"{at}/context/merged", context, merge)
        attended = made.linear(f"{at}/attended", context, f"{name}.attention.output.dense")
        attended = made.node("Add", f"{at}/attended/sum", attended, state)
        attended = made.normalized(f"{at}/attended/state", attended, f"{name}.attention.output.LayerNorm", bert.epsilon)
        wide = made.linear(f"{at}/wide", attended, f"{name}.intermediate.dense")
        wide = made.node("Gelu", f"{at}/gelu", wide)
        narrow = made.linear(f"{at}/narrow", wide, f"{name}.output.dense")
        narrow = made.node("Add", f"{at}/sum", narrow, attended)
        state = made.normalized(f"{at}/state", narrow, f"{name}.output.LayerNorm", bert.epsilon)
    mean = made.node("ReduceMean", "mean", state, one, keepdims=0)
    norm = made.node("ReduceL2", "norm", mean, one, keepdims=1)
    made.node(
        "Div", EMBEDDING, mean, made.node("Max", "norm/safe", norm, made.constant("least", np.array(1e-12, np.float32)))
    )
    whole = helper.make_graph(
        made.nodes,
        "embedder",
        [helper.make_tensor_value_info(INPUT_IDS, TensorProto.INT64, ["rows", "length"])],
        [helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["rows", bert.hidden])],
        made.constants,
    )
    model = helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="concord-export"
    )
    onnx.checker.check_model(model)
    return model


def embed(bert: Bert, weights: Weights, ids: npt.NDArray[np.int64]) -> Doubles:
    """The embedding of one sentence's ids [length], computed in doubles: what the graph is compared with."""

    def weight(name: str) -> Doubles:
        return np.asarray(weights[name], np.float64)

    def linear(value: Doubles, name: str) -> Doubles:
        return value @ weight(f"{name}.weight").T + weight(f"{name}.bias")

    def normalized(value: Doubles, name: str) -> Doubles:
        centered = value - value.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + bert.epsilon)
        return np.asarray(centered / deviation * weight(f"{name}.weight") + weight(f"{name}.bias"))

    def heads(value: Doubles) -> Doubles:
        return np.asarray(value.reshape(len(ids), bert.heads, -1).transpose(1, 0, 2))

    from scipy.special import erf

    state = weight("embeddings.word_embeddings.weight")[ids]
    state = state + weight("embeddings.position_embeddings.weight")[: len(ids)]
    state = normalized(state + weight("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    for layer in range(bert.layers):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            heads(linear(state, f"{name}.attention.self.{part}")) for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = powers / powers.sum(axis=-1, keepdims=True) @ value
        context = context.transpose(1, 0, 2).reshape(len(ids), bert.hidden)
        attended = linear(context, f"{name}.attention.output.dense") + state
        attended = normalized(attended, f"{name}.attention.output.LayerNorm")
        wide = linear(attended, f"{name}.intermediate.dense")
        wide = 0.5 * wide * (1 + erf(wide / np.sqrt(2)))
        state = normalized(linear(wide, f"{name}.output.dense") + attended, f"{name}.output.LayerNorm")
    mean = state.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))
