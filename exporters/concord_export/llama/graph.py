# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph of a model of the Llama family, with its keys and values as inputs and outputs.

    input_ids [rows, length], attention_mask [rows, total]            int64; the mask says how many tokens each row has
    past_key_values.N.key / .value [rows, kv heads, past, head size]  float
    logits [rows, 1, vocabulary]                                      float; after each row's last token
    present.N.key / .value [rows, kv heads, total, head size]         float

past and present may be the same memory, longer than what is in it: GroupQueryAttention writes the new entries only.
Names are those of onnxruntime-genai's own model builder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from concord_export.llama.architecture import Floats, Llama, Weights
from concord_export.llama.quantisation import BITS, BLOCK, Precision, packed, quantise, quantise_evenly
from concord_export.llama.storage import Constants

__all__ = ["PAST", "PRESENT", "Layout", "write_graph"]

PAST, PRESENT = "past_key_values", "present"
_CONTRIB = "com.microsoft"
_OPSETS = {"": 21, _CONTRIB: 1}


@dataclass(frozen=True)
class Layout:
    """What may differ in graphs that compute the same."""

    last_logits_only: bool = True
    """Whether logits are those after each row's last token, or those after each token: [rows, length, vocabulary]."""
    position_ids: bool = False
    """Whether positions are an input, [rows, length], for operators of their own that rotate queries and keys; else
    they follow from the mask, and the attention rotates."""


class _Graph:
    def __init__(
        self, llama: Llama, weights: Weights, precision: Precision, constants: Constants, *, integers: bool
    ) -> None:
        self.llama = llama
        self.weights = weights
        self.bits = BITS[precision]
        # What MatMulNBits calls products in 8-bit integers, and in floats.
        self.accuracy = 4 if integers else 0
        self.constants = constants
        self.nodes: list[onnx.NodeProto] = []

    def node(self, op_type: str, output: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        return self.constants.add(name, np.asarray(value))

    def linear(self, output: str, value: str, weight: Floats, bias: Floats | None = None) -> str:
        """value times a matrix [out, in]."""
        product = output if bias is None else f"{output}/product"
        if self.bits == 32:
            self.node("MatMul", product, value, self.constant(f"{output}/weight", weight.T))
        else:
            quantised = quantise(weight, self.bits)
            levels, zeros = packed(quantised, self.bits)
            self.product_of_blocks(
                product,
                value,
                (len(weight), weight.shape[1]),
                self.constant(f"{output}/weight", levels),
                self.constant(f"{output}/scales", quantised.scales),
                self.constant(f"{output}/zeros", zeros),
                bits=self.bits,
            )
        return output if bias is None else self.node("Add", output, product, self.constant(f"{output}/bias", bias))

    def product_of_blocks(self, output: str, value: str, shape: tuple[int, int], *weight: str, bits: int) -> str:
        return self.node(
            "MatMulNBits",
            output,
            value,
            *weight,
            domain=_CONTRIB,
            N=shape[0],
            K=shape[1],
            bits=bits,
            block_size=BLOCK,
            accuracy_level=self.accuracy,
        )

    def norm(self, output: str, value: str, residual: str | None, weight: Floats) -> tuple[str, str]:
        """The norm of value, or of their sum where there is a residual; and that sum."""
        scale = self.constant(f"{output}/weight", weight)
        if residual is None:
            attributes: dict[str, Any] = {"axis": -1, "epsilon": self.llama.epsilon, "stash_type": 1}
            return self.node("SimplifiedLayerNormalization", output, value, scale, **attributes), value
        total = f"{output}/sum"
        self.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [residual, value, scale],
                [output, "", "", total],
                name=output,
                domain=_CONTRIB,
                epsilon=self.llama.epsilon,
            )
        )
        return output, total


def write_graph(
    llama: Llama,
    weights: Weights,
    precision: Precision,
    constants: Constants,
    layout: Layout | None = None,
    *,
    integers: bool = False,
) -> onnx.ModelProto:
    """The model; its constants go to `constants`, one by one as they are read. `integers` says that quantised weights
    are multiplied in 8-bit integers. Raises SourceError, OSError."""
    layout = layout or Layout()
    made = _Graph(llama, weights, precision, constants, integers=integers)
    lengths = _lengths(made)
    value, lookup = _embedded(made)
    residual: str | None = None
    for layer in range(llama.layers):
        value, residual = _layer(made, layer, value, residual, lengths, position_ids=layout.position_ids)
    value, _ = made.norm("norm", value, residual, weights.read("norm"))
    _logits(made, value, lookup, last_only=layout.last_logits_only)

    def tensor(name: str, kind: int, *axes: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, axes)

    cache = ("batch_size", llama.kv_heads), (llama.head_size,)
    inputs = [
        tensor("input_ids", TensorProto.INT64, "batch_size", "sequence_length"),
        tensor("attention_mask", TensorProto.INT64, "batch_size", "total_sequence_length"),
    ]
    if layout.position_ids:
        inputs.append(tensor("position_ids", TensorProto.INT64, "batch_size", "sequence_length"))
    length = 1 if layout.last_logits_only else "sequence_length"
    outputs = [tensor("logits", TensorProto.FLOAT, "batch_size", length, llama.vocabulary)]
    for layer in range(llama.layers):
        for part in ("key", "value"):
            past, present = (f"{name}.{layer}.{part}" for name in (PAST, PRESENT))
            inputs.append(tensor(past, TensorProto.FLOAT, *cache[0], "past_sequence_length", *cache[1]))
            outputs.append(tensor(present, TensorProto.FLOAT, *cache[0], "total_sequence_length", *cache[1]))
    graph = helper.make_graph(made.nodes, "llama", inputs, outputs, constants.tensors)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="concord-export")


class _Lengths(NamedTuple):
    """What every layer's attention is told: the names of how long each row is, and of the rotation."""

    last: str
    """[rows]: the index of each row's last token."""
    total: str
    """How long the mask is."""
    cosines: str
    sines: str


def _lengths(made: _Graph) -> _Lengths:
    axis = made.constant("axis", np.array([1]))
    tokens = made.node("ReduceSum", "tokens", "attention_mask", axis, keepdims=0)
    last = made.node("Cast", "last", made.node("Sub", "last/wide", tokens, axis), to=TensorProto.INT32)
    shape = made.node("Shape", "total/shape", "attention_mask")
    whole = made.node("Gather", "total/wide", shape, made.constant("second", np.array(1)), axis=0)
    total = made.node("Cast", "total", whole, to=TensorProto.INT32)
    angles = np.outer(np.arange(made.llama.context, dtype=np.float64), made.llama.frequencies)
    cosines = made.constant("cosines", np.cos(angles).astype(np.float32))
    sines = made.constant("sines", np.sin(angles).astype(np.float32))
    return _Lengths(last, total, cosines, sines)


def _embedded(made: _Graph) -> tuple[str, tuple[str, ...]]:
    """The tokens' embeddings, and the constants of the table: the last layer may be the same ones."""
    table = made.weights.read("embedding")
    if made.bits == 32:
        name = made.constant("embedding/weight", table)
        return made.node("Gather", "embedding", name, "input_ids"), (name,)
    quantised = quantise_evenly(table)
    levels = made.constant("embedding/weight", quantised.levels)
    scales = made.constant("embedding/scales", quantised.scales[..., np.newaxis])
    blocks = made.node(
        "GatherBlockQuantized",
        "embedding/blocks",
        levels,
        "input_ids",
        scales,
        domain=_CONTRIB,
        bits=8,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=2,
    )
    merged = made.constant("embedding/shape", np.array([0, 0, made.llama.hidden]))
    return made.node("Reshape", "embedding", blocks, merged), (levels,)


def _layer(
    made: _Graph, layer: int, value: str, residual: str | None, lengths: _Lengths, *, position_ids: bool
) -> tuple[str, str]:
    llama, at = made.llama, f"layers.{layer}"

    def weight(part: str) -> Floats:
        return made.weights.read(f"{at}.{part}")

    normed, total = made.norm(f"{at}/attention_norm", value, residual, weight("attention_norm"))
    if position_ids:
        states = []
        for part in ("q", "k", "v"):
            bias = weight(f"{part}_bias") if llama.biased else None
            state = made.linear(f"{at}/{part}", normed, weight(part), bias)
            if part != "v":
                turned = ("position_ids", lengths.cosines, lengths.sines)
                state = made.node("RotaryEmbedding", f"{at}/{part}/turned", state, *turned, domain=_CONTRIB)
            states.append(state)
        rotation: list[str] = []
    else:
        # Queries, keys and values side by side: one product instead of three.
        joined = np.concatenate([weight(part) for part in ("q", "k", "v")])
        bias = np.concatenate([weight(f"{part}_bias") for part in ("q", "k", "v")]) if llama.biased else None
        states = [made.linear(f"{at}/qkv", normed, joined, bias), "", ""]
        rotation = [lengths.cosines, lengths.sines]
    caches = [f"{PAST}.{layer}.key", f"{PAST}.{layer}.value"]
    made.nodes.append(
        helper.make_node(
            "GroupQueryAttention",
            [*states, *caches, lengths.last, lengths.total, *rotation],
            [f"{at}/attention", f"{PRESENT}.{layer}.key", f"{PRESENT}.{layer}.value"],
            name=f"{at}/attention",
            domain=_CONTRIB,
            num_heads=llama.heads,
            kv_num_heads=llama.kv_heads,
            scale=float(llama.head_size) ** -0.5,
            do_rotary=0 if position_ids else 1,
            rotary_interleaved=0,
            local_window_size=-1,
        )
    )
    attended = made.linear(f"{at}/o", f"{at}/attention", weight("o"))
    normed, total = made.norm(f"{at}/mlp_norm", attended, total, weight("mlp_norm"))
    gate = made.linear(f"{at}/gate", normed, weight("gate"))
    up = made.linear(f"{at}/up", normed, weight("up"))
    open_ = made.node("Mul", f"{at}/silu", gate, made.node("Sigmoid", f"{at}/sigmoid", gate))
    return made.linear(f"{at}/down", made.node("Mul", f"{at}/inner", open_, up), weight("down")), total


def _logits(made: _Graph, value: str, lookup: tuple[str, ...], *, last_only: bool) -> None:
    llama = made.llama
    if last_only:
        value = made.node("Gather", "last_state", value, made.constant("last_index", np.array([-1])), axis=1)
    if made.bits != 32:
        if llama.tied:
            (levels,) = lookup
            # The same numbers, in the shape that this operator wants.
            quantised = quantise_evenly(made.weights.read("embedding"))
        else:
            quantised = quantise_evenly(made.weights.read("head"))
            levels = made.constant("logits/weight", quantised.levels)
        scales = made.constant("logits/scales", quantised.scales)
        zeros = made.constant("logits/zeros", quantised.zeros)
        made.product_of_blocks("logits", value, (llama.vocabulary, llama.hidden), levels, scales, zeros, bits=8)
        return
    weight = lookup[0] if llama.tied else made.constant("logits/weight", made.weights.read("head"))
    # Gemm takes the table as it lies; it knows two axes only.
    flat = made.node("Reshape", "logits/rows", value, made.constant("logits/flat", np.array([-1, llama.hidden])))
    product = made.node("Gemm", "logits/product", flat, weight, transB=1)
    if last_only:
        made.node("Unsqueeze", "logits", product, made.constant("logits/axis", np.array([1])))
        return
    ids = made.node("Shape", "logits/ids", "input_ids")
    size = made.constant("logits/vocabulary", np.array([llama.vocabulary]))
    shape = made.node("Concat", "logits/shape", ids, size, axis=0)
    made.node("Reshape", "logits", product, shape)
