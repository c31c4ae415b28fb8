# SPDX-License-Identifier: Apache-2.0
"""genai_config.json, as onnxruntime-genai's own model builder lays it out: what a server needs to know of a decoder."""

from __future__ import annotations

import json

from concord_export.llama.architecture import Llama
from concord_export.llama.graph import PAST, PRESENT, Layout
from concord_export.package import MODEL_FILE

__all__ = ["GENAI_CONFIG_FILE", "genai_config"]

GENAI_CONFIG_FILE = "genai_config.json"


def genai_config(llama: Llama, layout: Layout | None = None) -> bytes:
    """The file. Its section "search" is onnxruntime-genai's own default: requests say how to sample."""
    inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    if layout is not None and layout.position_ids:
        inputs["position_ids"] = "position_ids"
    inputs |= {f"past_{part}_names": f"{PAST}.%d.{part}" for part in ("key", "value")}
    outputs = {"logits": "logits"} | {f"present_{part}_names": f"{PRESENT}.%d.{part}" for part in ("key", "value")}
    document = {
        "model": {
            "bos_token_id": llama.ends[0] if llama.begin is None else llama.begin,
            "context_length": llama.context,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": MODEL_FILE,
                "head_size": llama.head_size,
                "hidden_size": llama.hidden,
                "inputs": inputs,
                "outputs": outputs,
                "num_attention_heads": llama.heads,
                "num_hidden_layers": llama.layers,
                "num_key_value_heads": llama.kv_heads,
            },
            "eos_token_id": list(llama.ends) if len(llama.ends) > 1 else llama.ends[0],
            "pad_token_id": llama.padding,
            "type": "llama",
            "vocab_size": llama.vocabulary,
        },
        "search": {
            "diversity_penalty": 0.0,
            "do_sample": False,
            "early_stopping": True,
            "length_penalty": 1.0,
            "max_length": llama.context,
            "min_length": 0,
            "no_repeat_ngram_size": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }
    return (json.dumps(document, indent=2) + "\n").encode()
