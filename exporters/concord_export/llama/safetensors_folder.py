# SPDX-License-Identifier: Apache-2.0
"""A model as Hugging Face's libraries write it: config.json, safetensors weights, and the tokenizer's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from concord_export.errors import SourceError
from concord_export.llama.architecture import Floats, Llama, Model, frequencies, scaled_like_llama3
from concord_export.llama.gguf_tokenizer import DIGITS_NOTE
from concord_export.llama.safetensors_file import SafetensorsFile

__all__ = ["read_folder"]

_FAMILIES = ("llama", "qwen2")
_PARTS = {
    "self_attn.q_proj.weight": "q",
    "self_attn.k_proj.weight": "k",
    "self_attn.v_proj.weight": "v",
    "self_attn.o_proj.weight": "o",
    "self_attn.q_proj.bias": "q_bias",
    "self_attn.k_proj.bias": "k_bias",
    "self_attn.v_proj.bias": "v_bias",
    "mlp.gate_proj.weight": "gate",
    "mlp.up_proj.weight": "up",
    "mlp.down_proj.weight": "down",
    "input_layernorm.weight": "attention_norm",
    "post_attention_layernorm.weight": "mlp_norm",
}
_WHOLE = {"model.embed_tokens.weight": "embedding", "model.norm.weight": "norm", "lm_head.weight": "head"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_FILE_LIMIT_BYTES = 64 << 20


class _FolderWeights:
    """Weights of one safetensors file or of several."""

    def __init__(self, files: list[SafetensorsFile]) -> None:
        self._places: dict[str, tuple[SafetensorsFile, str]] = {}
        self.unknown: list[str] = []
        for file in files:
            for name in file.shapes:
                ours = _our_name(name)
                if ours is None:
                    self.unknown.append(name)
                elif ours in self._places:
                    raise SourceError(f"{name}: is there twice")
                else:
                    self._places[ours] = (file, name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        if name not in self._places:
            return None
        file, theirs = self._places[name]
        return file.shapes[theirs]

    def read(self, name: str) -> Floats:
        file, theirs = self._places[name]
        return file.read(theirs)


def _our_name(name: str) -> str | None:
    if name in _WHOLE:
        return _WHOLE[name]
    before, _, rest = name.partition("model.layers.")
    layer, _, part = rest.partition(".")
    return f"layers.{layer}.{_PARTS[part]}" if not before and layer.isdecimal() and part in _PARTS else None


def read_folder(path: Path) -> Model:
    """The model of a folder, or of the folder in which a .safetensors file lies. Raises SourceError, OSError."""
    folder = path if path.is_dir() else path.parent
    config = _json(folder / "config.json")
    weights = _FolderWeights(_files(path))
    try:
        llama = _llama(config, _optional_json(folder / "generation_config.json"), weights)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"config.json: {_said(error)}") from None
    # Buffers that old versions wrote; they follow from the configuration.
    strangers = [name for name in weights.unknown if not name.endswith(".rotary_emb.inv_freq")]
    if strangers:
        raise SourceError(f"{strangers[0]}: is no weight of {config['model_type']} as it is computed here")
    files, notes = _tokenizer(folder)
    return Model(llama, weights, files, notes=notes)


def _files(path: Path) -> list[SafetensorsFile]:
    if path.is_file():
        return [SafetensorsFile(path)]
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        single = path / "model.safetensors"
        if not single.is_file():
            raise SourceError("model.safetensors: is missing; a folder holds it, or model.safetensors.index.json")
        return [SafetensorsFile(single)]
    names = _json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) and "/" not in name for name in names.values()):
        raise SourceError(f"{index.name}: expected a weight_map of names of files")
    return [SafetensorsFile(path / name) for name in sorted(set(names.values()))]


def _llama(config: Mapping[str, Any], generation: Mapping[str, Any], weights: _FolderWeights) -> Llama:
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise SourceError(f"config.json: model_type: expected one of {', '.join(_FAMILIES)}, got {family!r}")
    for field, value in (("hidden_act", "silu"), ("mlp_bias", False), ("use_sliding_window", False)):
        if config.get(field, value) != value:
            raise SourceError(f"config.json: {field}: expected {value!r}, got {config[field]!r}")
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    # A size that is absent follows from the others; a null means the same.
    head_size = int(config.get("head_dim") or hidden // heads)
    begin, ends, padding = (
        generation.get(name, config.get(name)) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    )
    if ends is None:
        raise SourceError("config.json: eos_token_id: is missing")
    ended = tuple(int(token) for token in (ends if isinstance(ends, list) else [ends]))
    return Llama(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=head_size,
        inner=int(config["intermediate_size"]),
        vocabulary=int(config["vocab_size"]),
        context=int(config["max_position_embeddings"]),
        epsilon=float(config["rms_norm_eps"]),
        frequencies=_rotation(config, head_size),
        tied=bool(config.get("tie_word_embeddings", False)) or weights.shape("head") is None,
        biased=family == "qwen2" or bool(config.get("attention_bias", False)),
        begin=None if begin is None else int(begin),
        ends=ended,
        padding=ended[0] if padding is None else int(padding),
    )


def _rotation(config: Mapping[str, Any], head_size: int) -> npt.NDArray[np.float64]:
    parameters = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    base = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    if parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise SourceError("config.json: partial_rotary_factor: expected 1.0")
    unscaled = frequencies(float(base), head_size)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return unscaled
    if kind == "linear":
        return np.asarray(unscaled / float(parameters["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, original = (float(parameters[name]) for name in names)
        return scaled_like_llama3(unscaled, factor, low, high, int(original))
    raise SourceError(f"config.json: rope_type: expected default, linear or llama3, got {kind!r}")


def _tokenizer(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    found = {name: _bytes(folder / name) for name in _TOKENIZER_FILES if (folder / name).is_file()}
    for name in _TOKENIZER_FILES[:2]:
        if name not in found:
            raise SourceError(f"{name}: is missing beside the weights")
    template = _json(folder / "tokenizer_config.json").get("chat_template")
    if "chat_template.jinja" not in found and isinstance(template, str):
        found["chat_template.jinja"] = template.encode()
    document = _json(folder / "tokenizer.json")
    cut = document.get("pre_tokenizer")
    steps = cut.get("pretokenizers") if isinstance(cut, dict) else None
    if isinstance(steps, list) and [step.get("type") for step in steps] == ["Digits", "ByteLevel"]:
        # As SmolLM2's. onnxruntime-genai leaves out such a first step, so nobody else shall take it.
        document["pre_tokenizer"] = steps[1]
        found["tokenizer.json"] = (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()
        return found, [DIGITS_NOTE]
    return found, []


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise SourceError(f"{path.name}: is missing")
    if path.stat().st_size > _FILE_LIMIT_BYTES:
        raise SourceError(f"{path.name}: is larger than {_FILE_LIMIT_BYTES} bytes")
    return path.read_bytes()


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path.name}: is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise SourceError(f"{path.name}: expected a JSON object, got {type(document).__name__}")
    return document


def _optional_json(path: Path) -> dict[str, Any]:
    return _json(path) if path.is_file() else {}


def _said(error: Exception) -> str:
    return f"{error.args[0]}: is missing" if isinstance(error, KeyError) else str(error)
