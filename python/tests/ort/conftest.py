# SPDX-License-Identifier: Apache-2.0
"""A small network with attention and random weights, and what of it a decoder may be given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from concord_server.generate import Row, Sizes
from concord_server.generate.settings import parse_settings
from concord_server.model import Call
from concord_server.ort import OrtDecoder, Runtime
from onnx import NodeProto, TensorProto, helper, numpy_helper

LAYERS, HEADS, KV_HEADS, SIZE, VOCABULARY, CONTEXT = 2, 4, 2, 16, 61, 96
HIDDEN = HEADS * SIZE


def network(*, half: bool = False, last_only: bool = False, says_so: bool = False, positions: bool = False) -> bytes:
    """A graph: `half` is float16, `last_only` gives the last token's logits alone, and `says_so` in its shape.

    With `positions` it takes the tokens' positions instead of counting them.
    """
    random = np.random.default_rng(7)
    number, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    weights = {}

    def weight(name: str, *shape: int) -> str:
        weights[name] = random.normal(0, 1 / np.sqrt(shape[0]), shape).astype(number)
        return name

    nodes: list[NodeProto] = []

    def add(
        operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: object
    ) -> str:
        nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    angles = np.outer(np.arange(CONTEXT), 10000.0 ** (-np.arange(0, SIZE, 2) / SIZE))
    weights |= {"cos": np.cos(angles).astype(number), "sin": np.sin(angles).astype(number)}
    weights |= {"one": np.array([1]), "axis": np.array(1)}
    add("ReduceSum", ["attention_mask", "one"], ["sum"], keepdims=1)
    add("Sub", ["sum", "one"], ["last"])
    add("Cast", ["last"], ["seqlens"], to=TensorProto.INT32)
    add("Shape", ["attention_mask"], ["lengths"])
    add("Gather", ["lengths", "axis"], ["length"], axis=0)
    add("Cast", ["length"], ["total"], to=TensorProto.INT32)
    hidden = add("Gather", [weight("embedding", VOCABULARY, HIDDEN), "input_ids"], ["h"])
    for i in range(LAYERS):
        made = {}
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            name = f"{part}{i}"
            made[part] = add("MatMul", [hidden, weight(f"w{name}", HIDDEN, heads * SIZE)], [name])
            if positions and part != "v":
                rotary = [name, "position_ids", "cos", "sin"]
                made[part] = add("RotaryEmbedding", rotary, [name + "r"], "com.microsoft", num_heads=0)
        past = [f"past_key_values.{i}.{part}" for part in ("key", "value")]
        present = [f"present.{i}.{part}" for part in ("key", "value")]
        turn = [] if positions else ["cos", "sin"]
        inputs = [*made.values(), *past, "seqlens", "total", *turn]
        attributes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "do_rotary": int(not positions)}
        add("GroupQueryAttention", inputs, [f"a{i}", *present], "com.microsoft", **attributes)
        add("MatMul", [f"a{i}", weight(f"wo{i}", HIDDEN, HIDDEN)], [f"o{i}"])
        hidden = add("Add", [hidden, f"o{i}"], [f"h{i}"])
    if last_only:
        weights |= {"minus": np.array([-1])}
        hidden = add("Gather", [hidden, "minus"], ["hl"], axis=1)
    add("MatMul", [hidden, weight("head", HIDDEN, VOCABULARY)], ["logits"])
    cache = ["batch", KV_HEADS, "past", SIZE]
    names = ["input_ids", "attention_mask", *(["position_ids"] if positions else [])]
    ends = [f"{i}.{part}" for i in range(LAYERS) for part in ("key", "value")]
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", f"{name}_length"]) for name in names]
    given += [helper.make_tensor_value_info(f"past_key_values.{end}", kind, cache) for end in ends]
    rows = 1 if says_so else "tokens"
    told = [helper.make_tensor_value_info("logits", kind, ["batch", rows, VOCABULARY])]
    told += [helper.make_tensor_value_info(f"present.{end}", kind, ["batch", KV_HEADS, "total", SIZE]) for end in ends]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", given, told, initializers)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def settings(**changes: object) -> bytes:
    """genai_config.json of the network."""
    decoder = {"num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS, "head_size": SIZE}
    model = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "eos_token_id": [0], "decoder": decoder}
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = model
        for parent in parents:
            place = place.setdefault(parent, {})  # type: ignore[assignment]
        place[last] = value
    return json.dumps({"model": model}).encode()


def decoder(graph: bytes | None = None, *, slots: int = 4, most: int = 1 << 26, **changes: object) -> OrtDecoder:
    """A decoder on the network."""
    session = Runtime(1).load(network() if graph is None else graph, {})
    return OrtDecoder(session, parse_settings(settings(**changes)), Sizes(slots, most))


def prefill(of: OrtDecoder, slot: int, tokens: Sequence[int], piece: int = CONTEXT) -> int:
    """What comes after a prompt that is given in pieces."""
    logits = None
    for at in range(0, len(tokens), piece):
        (logits,) = of.run([Row(slot, at, tokens[at : at + piece])], Call())
    assert logits is not None
    return int(logits.argmax())


def generate(of: OrtDecoder, tokens: Sequence[int], count: int, slot: int = 0, piece: int = CONTEXT) -> list[int]:
    """Greedy tokens of a prompt, alone."""
    made = [prefill(of, slot, tokens, piece)]
    while len(made) < count:
        (logits,) = of.run([Row(slot, len(tokens) + len(made) - 1, made[-1:])], Call())
        made.append(int(logits.argmax()))
    return made


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The functions of this file: modules of tests cannot import one another."""
    return SimpleNamespace(network=network, settings=settings, decoder=decoder, prefill=prefill, generate=generate)


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Of several lengths."""
    random = np.random.default_rng(11)
    return [random.integers(1, VOCABULARY, length).tolist() for length in (1, 5, 23, 40, 11, 2)]
