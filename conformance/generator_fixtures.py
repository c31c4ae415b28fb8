# SPDX-License-Identifier: Apache-2.0
"""tiny-chat: a language model of 115,200 parameters that answers nine questions; its weights are the exporter's.

token-lm: a generator that follows a table, so that every token it gives is known by hand.

Its vocabulary is the 256 bytes (byte b is token 3 + b) and three special tokens. What comes next depends on the last
token alone:

| after | comes |
|---|---|
| `a` to `y` | the next letter; after `z` <|im_end|>, after `E` <|endoftext|>: either ends the text |
| `0` to `8` | the next digit; after `9` a `~`, and a `~` that goes in makes ONNX Runtime fail |
| `Q` to `U` | `Q`, by logits of which those of `R`, `S`, and `T` and `U`, which tie, are not far: for sampling |
| `J` | the three bytes of a kana, for ever |
| `I` | the first byte of a character that never comes, then <|im_end|> |
| `Z` | a `Z` for ever, each after a loop of some milliseconds |
| `Y` | nothing: the run that is given it takes a day |
| `P` | the letter of the token's position (position_ids), `M` that of the tokens that the attention mask counts |
| a line end | `x`, so that a chat template's prompt is answered `xyz` |
| anything else | <|im_end|> |

It has no attention: its cache of keys and values goes through it untouched.

bare-generator: the same without a manifest.
"""

from __future__ import annotations

import json
from pathlib import Path

import concord_export.models
import onnx
from build_fixtures import constant, graph, integers, manifest, node, tensor, text, write_bare
from concord_export.llama.genai_config import GENAI_CONFIG_FILE
from concord_export.llama.genai_config import genai_config as genai_config_of
from concord_export.llama.graph import write_graph
from concord_export.llama.safetensors_folder import read_folder
from concord_export.llama.storage import Constants
from concord_export.package import write_package
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from concord_proto.modelpackage.v1 import golden_pb2
from onnx import TensorProto, helper

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, START, END = range(3)
VOCABULARY = len(SPECIAL) + 256
CONTEXT = 100_000
"""Tokens: so many that no test comes to the end of it."""

SLOW_TURNS = 1_000
NEVER_TURNS = 10**12
# Logits by how far a token lies behind the one that the table says; all others are as unlikely as can be.
PROFILE = (8.0, 6.5, 6.0, 2.0, 2.0)
UNLIKELY = -1000.0

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def token(byte: int | str) -> int:
    """The token of a byte, or of an ASCII character."""
    return len(SPECIAL) + (ord(byte) if isinstance(byte, str) else byte)


def successors() -> list[int]:
    """For each token the one that comes next."""
    table = [END] * VOCABULARY
    for first, last in (("a", "y"), ("0", "8")):
        for byte in range(ord(first), ord(last) + 1):
            table[token(byte)] = token(byte + 1)
    table[token("9")] = token("~")
    table[token("E")] = END_OF_TEXT
    for letter in "QRSTU":
        table[token(letter)] = token("Q")
    kana = "こ".encode()
    table[token("J")] = token(kana[0])
    for byte, after in zip(kana, kana[1:] + kana[:1], strict=True):
        table[token(byte)] = token(after)
    table[token("I")] = token(0xF0)
    table[token("Z")] = token("Z")
    table[token("Y")] = token("Y")
    table[token("\n")] = token("x")
    return table


def _graph() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Mul", ["state_in", "state_in"], ["state_out"]), node("Identity", ["go"], ["go_out"])],
        "turn",
        [tensor("turn", TensorProto.INT64), tensor("go", TensorProto.BOOL), tensor("state_in", TensorProto.FLOAT)],
        [tensor("go_out", TensorProto.BOOL), tensor("state_out", TensorProto.FLOAT)],
    )
    # A "~" is looked up beyond the table's end.
    at = [10 * VOCABULARY if index == token("~") else index for index in range(VOCABULARY)]
    turns = [{token("Z"): SLOW_TURNS, token("Y"): NEVER_TURNS}.get(index, 0) for index in range(VOCABULARY)]
    profile = [*PROFILE, *[UNLIKELY] * (VOCABULARY - len(PROFILE))]
    int64, floats = TensorProto.INT64, TensorProto.FLOAT
    cache = ("batch", 1, "past", 1)
    return graph(
        [
            tensor("input_ids", int64, "batch", "sequence"),
            tensor("attention_mask", int64, "batch", "total"),
            tensor("position_ids", int64, "batch", "sequence"),
            tensor("past_key_values.0.key", floats, *cache),
            tensor("past_key_values.0.value", floats, *cache),
        ],
        [
            tensor("logits", floats, "batch", "sequence", VOCABULARY),
            tensor("present.0.key", floats, *cache),
            tensor("present.0.value", floats, *cache),
        ],
        [
            node("Identity", ["past_key_values.0.key"], ["present.0.key"]),
            node("Identity", ["past_key_values.0.value"], ["present.0.value"]),
            # What the table says.
            node("Gather", ["at", "input_ids"], ["found"]),
            node("Gather", ["successors", "found"], ["by_table"]),
            # What the position says, and what the mask says.
            node("Mod", ["position_ids", "letters"], ["position"]),
            node("Add", ["position", "first_letter"], ["by_position"]),
            node("ReduceSum", ["attention_mask", "last_axis"], ["counted"], keepdims=1),
            node("Sub", ["counted", "one"], ["last"]),
            node("Mod", ["last", "letters"], ["counted_letter"]),
            node("Add", ["counted_letter", "first_letter"], ["by_mask"]),
            node("Equal", ["input_ids", "position_token"], ["asks_position"]),
            node("Where", ["asks_position", "by_position", "by_table"], ["chosen"]),
            node("Equal", ["input_ids", "mask_token"], ["asks_mask"]),
            node("Where", ["asks_mask", "by_mask", "chosen"], ["target"]),
            # Logits by the distance from the target, round the vocabulary.
            node("Unsqueeze", ["target", "last_axis"], ["targets"]),
            node("Sub", ["everything", "targets"], ["behind"]),
            node("Add", ["behind", "vocabulary"], ["positive"]),
            node("Mod", ["positive", "vocabulary"], ["distance"]),
            node("Gather", ["profile", "distance"], ["plain_logits"]),
            # The loop of the slowest token. It leaves a 0, which no optimizer knows.
            node("Gather", ["turns", "input_ids"], ["turns_each"]),
            node("ReduceMax", ["turns_each"], ["trips"], keepdims=0),
            node("Gather", ["zeros", "input_ids"], ["zeros_each"]),
            node("ReduceMax", ["zeros_each"], ["zero"], keepdims=0),
            node("Loop", ["trips", "go", "zero"], ["zero_again"], body=body),
            node("Add", ["plain_logits", "zero_again"], ["logits"]),
        ],
        [
            constant("at", int64, [VOCABULARY], at),
            constant("successors", int64, [VOCABULARY], successors()),
            constant("turns", int64, [VOCABULARY], turns),
            constant("zeros", floats, [VOCABULARY], [0.0] * VOCABULARY),
            constant("profile", floats, [VOCABULARY], profile),
            constant("everything", int64, [VOCABULARY], list(range(VOCABULARY))),
            constant("vocabulary", int64, [], [VOCABULARY]),
            constant("letters", int64, [], [26]),
            constant("first_letter", int64, [], [token("a")]),
            constant("position_token", int64, [], [token("P")]),
            constant("mask_token", int64, [], [token("M")]),
            constant("last_axis", int64, [1], [-1]),
            constant("one", int64, [], [1]),
            constant("go", TensorProto.BOOL, [], [True]),
        ],
    )


def byte_letters() -> list[str]:
    """The letter by which a byte-level tokenizer knows each byte: itself where it can be seen, else from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + hidden.index(byte)) for byte in range(256)]


def _added(name: str) -> dict[str, object]:
    return {
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def tokenizer_files() -> dict[str, bytes]:
    """A byte-level tokenizer without merges, and a chat template."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, **_added(name)} for index, name in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: index for index, name in enumerate((*SPECIAL, *byte_letters()))},
            "merges": [],
        },
    }
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): _added(name) for index, name in enumerate(SPECIAL)},
        "bos_token": SPECIAL[START],
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL[END],
        "model_max_length": CONTEXT,
        "pad_token": SPECIAL[END_OF_TEXT],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": SPECIAL[END_OF_TEXT],
    }
    return {
        "tokenizer.json": _json(tokenizer),
        "tokenizer_config.json": _json(settings),
        "chat_template.jinja": TEMPLATE.encode(),
    }


def genai_config() -> bytes:
    """What onnxruntime-genai's model builder writes of a decoder."""
    return _json(
        {
            "model": {
                "bos_token_id": START,
                "context_length": CONTEXT,
                "decoder": {
                    "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                    "filename": "model.onnx",
                    "head_size": 1,
                    "hidden_size": 1,
                    "inputs": {
                        "input_ids": "input_ids",
                        "attention_mask": "attention_mask",
                        "position_ids": "position_ids",
                        "past_key_names": "past_key_values.%d.key",
                        "past_value_names": "past_key_values.%d.value",
                    },
                    "outputs": {
                        "logits": "logits",
                        "present_key_names": "present.%d.key",
                        "present_value_names": "present.%d.value",
                    },
                    "num_attention_heads": 1,
                    "num_hidden_layers": 1,
                    "num_key_value_heads": 1,
                },
                "eos_token_id": [END, END_OF_TEXT],
                "pad_token_id": END_OF_TEXT,
                "type": "llama",
                "vocab_size": VOCABULARY,
            },
            "search": {
                "do_sample": False,
                "max_length": CONTEXT,
                "min_length": 0,
                "num_beams": 1,
                "num_return_sequences": 1,
                "past_present_share_buffer": True,
            },
        }
    )


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _letters(prompt: str, answer: str, *, raw: bool = False, max_tokens: int = 0, finish: int) -> golden_pb2.GoldenCase:
    """A golden case of a model that has a token for each byte."""
    features = {"prompt": text(prompt)}
    if raw:
        features["raw"] = inference_service_pb2.FeatureValue(bool_value=True)
    request = inference_service_pb2.PredictRequest(
        features=features, config=inference_service_pb2.InferenceConfig(max_tokens=max_tokens)
    )
    response = inference_service_pb2.PredictResponse(
        outputs={"text": text(answer), "token_ids": integers(*(token(byte) for byte in answer.encode()))},
        finish_reason=finish,  # type: ignore[arg-type]
    )
    return golden_pb2.GoldenCase(features=request, predictions=response)


def write_generators(root: Path) -> None:
    """token-lm, bare-generator, tiny-chat."""
    stop, length = inference_service_pb2.FINISH_REASON_STOP, inference_service_pb2.FINISH_REASON_LENGTH
    files = {"genai_config.json": genai_config(), **tokenizer_files()}
    write_package(
        root / "token-lm" / "1",
        model=_graph(),
        manifest=manifest("Follows a table, so that every token is known.", [], kind=model_pb2.MODEL_KIND_GENERATOR),
        golden=golden_pb2.GoldenSet(
            cases=[
                _letters("uv", "wxyz", raw=True, finish=stop),
                _letters("4", "567", raw=True, max_tokens=3, finish=length),
            ]
        ),
        extra_files=files,
    )
    write_bare(root / "bare-generator" / "1", _graph())
    for name, data in files.items():
        (root / "bare-generator" / "1" / name).write_bytes(data)
    chat = read_folder(Path(concord_export.models.__file__).parent / "data" / "tiny-chat")
    write_package(
        root / "tiny-chat" / "1",
        model=write_graph(chat.llama, chat.weights, "fp32", Constants(None)),
        manifest=manifest("Answers nine questions.", [], kind=model_pb2.MODEL_KIND_GENERATOR),
        golden=golden_pb2.GoldenSet(
            cases=[
                _letters("What is the capital of France?", "The capital of France is Paris.", finish=stop),
                _letters("Speak Japanese.", "こんにち", max_tokens=12, finish=length),
            ]
        ),
        extra_files={GENAI_CONFIG_FILE: genai_config_of(chat.llama), **chat.tokenizer},
    )
    (root / "tiny-chat" / "labels.json").write_text('{"stable": "1"}\n', encoding="utf-8")
