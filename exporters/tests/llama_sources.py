# SPDX-License-Identifier: Apache-2.0
"""Sources of language models to export in tests: folders of random weights, and tiny-chat as a GGUF file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import concord_export.models
import gguf
import numpy as np
import numpy.typing as npt
from concord_export.llama.package import read_model

TINY = Path(concord_export.models.__file__).parent / "data" / "tiny-chat"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 259,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "eos_token_id": [2, 0],
    "bos_token_id": 1,
    "tie_word_embeddings": True,
}

Arrays = dict[str, npt.NDArray[Any]]


def random_weights(config: dict[str, Any]) -> Arrays:
    """Weights that fit a configuration, by the names of Hugging Face's libraries."""
    random = np.random.default_rng(0)
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    size = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = size * config["num_attention_heads"], size * config["num_key_value_heads"]

    def some(*shape: int) -> npt.NDArray[np.float32]:
        return random.normal(0, 0.4, shape).astype(np.float32)

    weights: Arrays = {"model.embed_tokens.weight": some(vocabulary, hidden), "model.norm.weight": 1 + some(hidden)}
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = some(vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        shapes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
        }
        if config["model_type"] == "qwen2":
            shapes |= {
                f"self_attn.{part}_proj.bias": (length,)
                for part, length in zip("qkv", (queries, keys, keys), strict=True)
            }
        weights |= {f"model.layers.{layer}.{name}": some(*shape) for name, shape in shapes.items()}
    return weights


def write_safetensors(path: Path, weights: Arrays, dtypes: dict[str, str] | None = None) -> None:
    """Writes float32 arrays, or arrays of raw bits as the dtypes that are named."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in weights.items():
        dtype = (dtypes or {}).get(name, {"float32": "F32", "float16": "F16"}.get(array.dtype.name, "F32"))
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_folder(folder: Path, config: dict[str, Any], weights: Arrays | None = None) -> Path:
    """A model of a configuration, with tiny-chat's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", random_weights(config) if weights is None else weights)
    for name in TOKENIZER_FILES:
        shutil.copy(TINY / name, folder)
    return folder


_GGUF_NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "attention_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
}


def write_gguf(
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    architecture: str = "llama",
    without: tuple[str, ...] = (),
    facts: dict[str, Any] | None = None,
    tensors: Arrays | None = None,
) -> Path:
    """tiny-chat as a GGUF file, its matrices in a quantisation; without some keys or tensors, or with other ones."""
    model = read_model(TINY)
    llama, weights = model.llama, model.weights
    document = json.loads(model.tokenizer["tokenizer.json"])
    tokens = sorted(document["model"]["vocab"], key=document["model"]["vocab"].__getitem__)
    given: dict[str, Any] = {
        "general.name": "Tiny",
        f"{architecture}.block_count": llama.layers,
        f"{architecture}.context_length": llama.context,
        f"{architecture}.embedding_length": llama.hidden,
        f"{architecture}.feed_forward_length": llama.inner,
        f"{architecture}.attention.head_count": llama.heads,
        f"{architecture}.attention.head_count_kv": llama.kv_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": llama.epsilon,
        f"{architecture}.rope.freq_base": 10000.0,
        f"{architecture}.rope.dimension_count": llama.head_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * 256,
        # Of tokens that are not there, so that nothing is merged: the file format has no empty list.
        "tokenizer.ggml.merges": ["! !"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": model.tokenizer["chat_template.jinja"].decode(),
        **(facts or {}),
    }
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in given.items():
        if key in without:
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    named: Arrays = {"token_embd.weight": weights.read("embedding"), "output_norm.weight": weights.read("norm")}
    for layer in range(llama.layers):
        for part, name in _GGUF_NAMES.items():
            array: npt.NDArray[Any] = weights.read(f"layers.{layer}.{part}")
            if part in "qk" and architecture == "llama":
                heads = llama.heads if part == "q" else llama.kv_heads
                array = array.reshape(heads, 2, len(array) // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)
            named[f"blk.{layer}.{name}.weight"] = array
    for name, array in {**named, **(tensors or {})}.items():
        if name in without:
            continue
        if array.ndim == 2 and array.shape[1] % 32 == 0 and kind != gguf.GGMLQuantizationType.F32:
            data = gguf.quants.quantize(np.ascontiguousarray(array, np.float32), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
