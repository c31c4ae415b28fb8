# SPDX-License-Identifier: Apache-2.0
"""The files of a tokenizer from what a GGUF file says of it: byte-level BPE, as GPT-2's."""

from __future__ import annotations

import json
from typing import Any, Protocol

from concord_export.errors import SourceError
from concord_export.llama.architecture import Llama

__all__ = ["DIGITS_NOTE", "tokenizer_files"]

DIGITS_NOTE = "tokenizer: digits are not taken apart first: white space before them may be cut otherwise"

_CONTROL, _USER_DEFINED = 3, 4
# How text is cut before it is merged. Qwen2's and Llama 3's are patterns of their own.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")
_PATTERNS = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _QWEN2}


class _Facts(Protocol):
    def get(self, key: str, default: Any = None) -> Any: ...
    def __getitem__(self, key: str) -> Any: ...


def tokenizer_files(facts: _Facts, llama: Llama) -> tuple[dict[str, bytes], list[str]]:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja if there is one; and what the author should know.

    Raises SourceError for a tokenizer of another kind.
    """
    kind = facts["tokenizer.ggml.model"]
    if kind != "gpt2":
        raise SourceError(f"tokenizer.ggml.model: expected gpt2, got {kind!r}: export from the safetensors folder")
    tokens, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    if len(tokens) != llama.vocabulary or len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise SourceError(f"tokenizer.ggml.tokens: expected {llama.vocabulary} different tokens, got {len(tokens)}")
    cut, notes = _cut(facts.get("tokenizer.ggml.pre", "default"))
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    merges = [_merge(text) for text in facts["tokenizer.ggml.merges"]]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    template = facts.get("tokenizer.chat_template")
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "add_bos_token": bool(facts.get("tokenizer.ggml.add_bos_token", False)),
        "bos_token": tokens[llama.ends[0] if llama.begin is None else llama.begin],
        "eos_token": tokens[llama.ends[0]],
        "pad_token": tokens[llama.padding],
        "unk_token": tokens[int(facts.get("tokenizer.ggml.unknown_token_id", llama.ends[0]))],
        "tokenizer_class": "GPT2Tokenizer",
        "clean_up_tokenization_spaces": False,
        "model_max_length": llama.context,
        "added_tokens_decoder": {
            str(token["id"]): {name: value for name, value in token.items() if name != "id"} for token in added
        },
    }
    files = {"tokenizer.json": _json(document)}
    if isinstance(template, str):
        config["chat_template"] = template
        files["chat_template.jinja"] = template.encode()
    return files | {"tokenizer_config.json": _json(config)}, notes


def _merge(text: str) -> list[str]:
    first, space, second = text.partition(" ")
    if not space or not first or not second:
        raise SourceError(f"tokenizer.ggml.merges: expected two tokens, got {text!r}")
    return [first, second]


def _cut(name: str) -> tuple[dict[str, Any], list[str]]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if name in ("default", "gpt-2"):
        return level, []
    if name == "smollm":
        # Its own tokenizer first takes each digit apart, which onnxruntime-genai's does not follow.
        return level, [DIGITS_NOTE]
    if name in _PATTERNS:
        split = {"type": "Split", "pattern": {"Regex": _PATTERNS[name]}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, level | {"use_regex": False}]}, []
    known = ", ".join(["gpt-2", "smollm", *_PATTERNS])
    raise SourceError(f"tokenizer.ggml.pre: expected one of {known}, got {name!r}: export from the safetensors folder")


def _json(document: Any) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()
