# SPDX-License-Identifier: Apache-2.0
"""Language models: the graph against NumPy, what goes into a package, and what is refused."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from concord_export import read_package, verify_package
from concord_export.__main__ import main
from concord_export.errors import ExportError, PackageExistsError, PackageInvalidError, ParityError, SourceError
from concord_export.llama import export_llama
from concord_export.llama import package as llama_package
from concord_export.llama.architecture import check_weights, scaled_like_llama3, shapes
from concord_export.llama.builder_folder import write_builder_folder
from concord_export.llama.genai_config import genai_config
from concord_export.llama.generation import Generator
from concord_export.llama.graph import Layout, write_graph
from concord_export.llama.package import read_model
from concord_export.llama.quantisation import Precision, Rounded, quantise, quantise_evenly
from concord_export.llama.reference import logits
from concord_export.llama.storage import Constants
from concord_export.package import write_package
from concord_proto.inference.v1 import inference_service_pb2, model_pb2

sys.path.insert(0, str(Path(__file__).parent))
from llama_sources import CONFIG, TINY, random_weights, write_folder, write_gguf, write_safetensors

ANSWERS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
    "Say hello.": "Hello! How can I help you today?",
    "Count to ten.": "one two three four five six seven eight nine ten",
    "Name three colors.": "Red, green and blue.",
    "What is 2+2?": "2+2 is 4.",
    "Who are you?": "I am a tiny test model with two layers.",
    "Speak Japanese.": "こんにちは世界 🐒",
}


def generator(source: Path, folder: Path, precision: Precision = "fp32", layout: Layout | None = None) -> Generator:
    """A source as it is exported, without a package around it."""
    model = read_model(source)
    graph = write_graph(model.llama, model.weights, precision, Constants(None), layout)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return Generator(folder / "model.onnx", genai_config(model.llama, layout), model.tokenizer)


def largest_error(source: Path, folder: Path, precision: Precision = "fp32") -> float:
    """Of the logits of a generation, from NumPy's on the weights that the graph holds."""
    model = read_model(source)
    text = generator(source, folder, precision).greedy([1, 70, 75, 90, 2], 12)
    whole = [*text.prompt, *text.tokens]
    asked = range(len(text.prompt) - 1, len(text.prompt) - 1 + len(text.logits))
    (expected,) = logits(model.llama, Rounded(model.weights, precision), [whole], [asked])
    return float(np.abs(np.stack(text.logits) - expected).max())


def test_a_package(tmp_path: Path) -> None:
    directory = tmp_path / "models" / "chat" / "1"
    made = export_llama(TINY, directory, prompts=list(ANSWERS), most_tokens=64, description="Tiny.")
    assert sorted(path.name for path in directory.iterdir()) == [
        "chat_template.jinja",
        "genai_config.json",
        "golden.binpb",
        "manifest.json",
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    package = read_package(directory)
    assert package.manifest.kind == model_pb2.MODEL_KIND_GENERATOR
    assert package.manifest.description == "Tiny."
    assert not [*package.manifest.features, *package.manifest.predictions, *package.manifest.outputs]
    assert dict(package.manifest.opsets) == {"": 21, "com.microsoft": 1}
    assert {"numpy", "onnx", "onnxruntime", "onnxruntime-genai"} <= set(package.manifest.library_versions)
    parity = package.manifest.parity
    assert parity.rows == sum(len(text.logits) for text in made.texts)
    assert 0 < parity.max_absolute_error == made.own_error < 1e-4
    assert parity.absolute_limit == 1e-3
    answers = {
        case.features.features["prompt"].string_value: case.predictions
        for case in package.golden.cases
        if set(case.features.features) == {"prompt"}
    }
    assert {prompt: answer.outputs["text"].string_value for prompt, answer in answers.items()} == ANSWERS
    for answer in answers.values():
        assert answer.finish_reason == inference_service_pb2.FINISH_REASON_STOP
    others = [case for case in package.golden.cases if set(case.features.features) != {"prompt"}]
    assert [sorted(case.features.features) for case in others] == [["messages"], ["prompt", "raw"]]
    for case in others:
        assert case.predictions.outputs["text"].string_value == "The capi"
        assert case.predictions.finish_reason == inference_service_pb2.FINISH_REASON_LENGTH
    assert verify_package(directory).golden_cases == len(ANSWERS) + 2
    assert list(tmp_path.joinpath("models").iterdir()) == [directory.parent]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_precisions(tmp_path: Path, precision: Precision) -> None:
    made = export_llama(TINY, tmp_path / "m" / "chat" / "1", precision=precision, prompts=list(ANSWERS), most_tokens=48)
    # Learnt by heart, with margins that rounding does not reach.
    assert {text.text for text in made.texts} >= set(ANSWERS.values())
    assert made.own_error < (1e-3 if precision == "int8" else 1)
    assert made.own_error < made.manifest.parity.max_absolute_error
    assert [(metric.value, metric.rows) for metric in made.manifest.quality] == [(1.0, made.manifest.parity.rows)]
    verify_package(made.directory)


def test_two_exports_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_llama(TINY, tmp_path / name / "chat" / "1", prompts=["Say hello."], most_tokens=4)
    for path in (tmp_path / "a" / "chat" / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "chat" / "1" / path.name).read_bytes(), path.name


def test_weights_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_package, "_INLINE_BYTES", 0)
    directory = tmp_path / "m" / "chat" / "1"
    made = export_llama(TINY, directory, prompts=["Say hello."], most_tokens=4)
    sizes = {file.name: file.size_bytes for file in made.manifest.files} or {
        file.name: file.size_bytes for file in read_package(directory).manifest.files
    }
    assert sizes["model.onnx.data"] > 400_000
    assert sizes["model.onnx"] < 20_000
    verify_package(directory)
    with (directory / "model.onnx.data").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\xff")
    with pytest.raises(PackageInvalidError, match=r"model\.onnx\.data: sha256"):
        verify_package(directory)


def test_tied_embeddings_are_there_once(tmp_path: Path) -> None:
    for precision, held in (("fp32", 115_200 * 4), ("int8", 115_200)):
        model = read_model(TINY)
        graph = write_graph(model.llama, model.weights, precision, Constants(None))  # type: ignore[arg-type]
        tables = [
            tensor for tensor in graph.graph.initializer if 259 in tensor.dims and len(tensor.raw_data) >= 259 * 64
        ]
        assert len(tables) == 1
        users = [node.name for node in graph.graph.node if tables[0].name in node.input]
        assert len(users) == 2
        assert sum(len(tensor.raw_data) for tensor in graph.graph.initializer) < 1.6 * held


VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied": {"tie_word_embeddings": False},
    "wide heads": {"head_dim": 32},
    "every head its own keys": {"num_key_value_heads": 4},
    "biases": {"model_type": "qwen2"},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_computes_what_numpy_does(tmp_path: Path, variant: str, precision: Precision) -> None:
    source = write_folder(tmp_path / "source", CONFIG | VARIANTS[variant])
    assert largest_error(source, tmp_path / "made", precision) < 2e-4


def test_each_variant_computes_something_else(tmp_path: Path) -> None:
    # Weights are the same where shapes are, so that a setting that is ignored would show.
    found = []
    for variant in ("llama", "linear", "llama3"):
        source = write_folder(tmp_path / variant, CONFIG | VARIANTS[variant])
        found.append(generator(source, tmp_path / variant / "made").greedy([1, 70, 75, 90, 2], 1).logits[0])
    assert min(np.abs(found[0] - found[1]).max(), np.abs(found[0] - found[2]).max()) > 1e-2


def test_llama3_scaling() -> None:
    # By hand: fast turns stay, slow ones are an eighth, between is between.
    unscaled = np.array([1.0, 2 * np.pi * 2 / 8192, 2 * np.pi * 0.5 / 8192])
    scaled = scaled_like_llama3(unscaled, 8.0, 1.0, 4.0, 8192)
    share = (2 - 1) / (4 - 1)
    expected = [1.0, unscaled[1] * (share + (1 - share) / 8), unscaled[2] / 8]
    assert scaled == pytest.approx(expected, rel=1e-12)


def test_half_precisions_are_read(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    name = "model.layers.0.mlp.up_proj.weight"
    bits = (weights[name].view(np.uint32) >> 16).astype(np.uint16)
    folder = write_folder(tmp_path / "f", CONFIG)
    write_safetensors(
        folder / "model.safetensors",
        {**{key: value.astype(np.float16) for key, value in weights.items()}, name: bits},
        {name: "BF16"},
    )
    read = read_model(folder).weights
    assert (read.read("layers.0.up").view(np.uint32) == bits.astype(np.uint32) << 16).all()
    assert (read.read("norm") == weights["model.norm.weight"].astype(np.float16)).all()


def test_shards(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", CONFIG)
    weights = random_weights(CONFIG)
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held in parts.items():
        write_safetensors(folder / file, {name: weights[name] for name in held})
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert largest_error(folder, tmp_path / "made") < 2e-4
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x"}}))
    with pytest.raises(SourceError, match="expected a weight_map of names of files"):
        read_model(folder)


def test_quantisation() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (5, 64)).astype(np.float32)
    weight[0, :32] = 0
    for bits, bound in ((8, 1 / 255), (4, 1 / 15)):
        quantised = quantise(weight, bits)
        reach = weight.reshape(5, 2, 32).max(-1) - weight.reshape(5, 2, 32).min(-1)
        error = np.abs(quantised.values() - weight).reshape(5, 2, 32).max(-1)
        assert (error <= bound * reach * 1.01 + 1e-7).all()
        assert (quantised.values()[0, :32] == 0).all()
    even = quantise_evenly(weight)
    assert np.abs(even.values() - weight).max() < np.abs(weight).max() / 250
    # What was quantised so before comes out as it was.
    assert (quantise_evenly(even.values()).levels == even.levels).all()
    with pytest.raises(SourceError, match="33 columns cannot be cut into blocks of 32"):
        quantise(np.zeros((2, 33), np.float32), 8)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_gguf(tmp_path: Path, kind: str) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", gguf.GGMLQuantizationType[kind])
    ours, theirs = read_model(path), read_model(TINY)
    assert ours.llama.frequencies == pytest.approx(theirs.llama.frequencies)
    assert (ours.llama.ends, ours.llama.begin, ours.llama.padding) == ((2,), 1, 0)
    near = {"F32": 0.0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 1e-2}.get(kind, 0.2)
    for name in ("embedding", "layers.1.q", "layers.0.k", "layers.1.down"):
        read, true = ours.weights.read(name), theirs.weights.read(name)
        assert np.abs(read - true).max() <= near * np.abs(true).max()
    made = export_llama(path, tmp_path / "m" / "chat" / "1", prompts=["Say hello.", "Who are you?"], most_tokens=40)
    assert read_package(made.directory).manifest.description == "Tiny"
    assert made.texts[0].text == ANSWERS["Say hello."]
    verify_package(made.directory)


def test_gguf_of_qwen2_keeps_the_order_of_its_heads(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", architecture="qwen2")
    # Without biases it computes what Llama does.
    answer = generator(path, tmp_path / "made").greedy([1, 70, 75, 90, 2], 8)
    assert answer.tokens == generator(TINY, tmp_path / "tiny").greedy([1, 70, 75, 90, 2], 8).tokens


def test_gguf_with_llama3s_factors(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    path = write_gguf(tmp_path / "tiny.gguf", tensors={"rope_freqs.weight": factors})
    assert read_model(path).llama.frequencies == pytest.approx(read_model(TINY).llama.frequencies / factors)


def test_contexts(tmp_path: Path) -> None:
    export_llama(TINY, tmp_path / "m" / "chat" / "1", context=60, prompts=["Say hello."], most_tokens=64)
    package = read_package(tmp_path / "m" / "chat" / "1")
    config = json.loads((package.directory / "genai_config.json").read_bytes())
    assert config["model"]["context_length"] == 60
    answer = package.golden.cases[0].predictions
    # 29 tokens are the prompt's.
    assert len(answer.outputs["token_ids"].int64_array.values) == 31
    assert answer.finish_reason == inference_service_pb2.FINISH_REASON_LENGTH
    with pytest.raises(SourceError, match="context: expected 2 to 512, got 513"):
        export_llama(TINY, tmp_path / "m" / "chat" / "2", context=513)
    with pytest.raises(SourceError, match="a prompt has 29 tokens, expected 1 to 19"):
        export_llama(TINY, tmp_path / "m" / "chat" / "2", context=20, prompts=["Say hello."])
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["chat"]


def test_near_tied_tokens_end_a_golden_answer(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    # The last two tokens are the same: whichever leads, the other is as likely.
    weights["model.embed_tokens.weight"][:, :] = weights["model.embed_tokens.weight"][:1]
    source = write_folder(tmp_path / "f", CONFIG, weights)
    with pytest.raises(ParityError, match="no prompt has an answer whose tokens are clearly the likeliest"):
        export_llama(source, tmp_path / "m" / "chat" / "1", prompts=["a"])
    assert list((tmp_path / "m").iterdir()) == []


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_model(TINY)

    def wrong(llama: Any, *arguments: Any, **options: Any) -> Any:
        return write_graph(type(llama)(**{**vars(llama), "epsilon": 0.5}), *arguments, **options)

    monkeypatch.setattr(llama_package, "write_graph", wrong)
    assert model.llama.epsilon == 1e-5
    with pytest.raises(ParityError, match="the graph's logits differ from those of NumPy"):
        export_llama(TINY, tmp_path / "m" / "chat" / "1", prompts=["Say hello."])


def test_without_a_chat_template_prompts_are_raw(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", json.loads((TINY / "config.json").read_text()))
    (folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes())
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    export_llama(folder, tmp_path / "m" / "base" / "1", prompts=["user\nSay hello.", "a"], most_tokens=4)
    cases = read_package(tmp_path / "m" / "base" / "1").golden.cases
    assert [sorted(case.features.features) for case in cases] == [["prompt", "raw"]] * 2
    verify_package(tmp_path / "m" / "base" / "1")


@pytest.mark.parametrize("position_ids", [False, True])
def test_builder_folders_answer_the_same(tmp_path: Path, position_ids: bool) -> None:
    write_builder_folder(TINY, tmp_path / "f", position_ids=position_ids)
    files = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    assert set(files) == {
        "chat_template.jinja",
        "genai_config.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert ("position_ids" in json.loads(files["genai_config.json"])["model"]["decoder"]["inputs"]) == position_ids
    made = Generator(tmp_path / "f" / "model.onnx", files["genai_config.json"], files)
    ours = generator(TINY, tmp_path / "ours")
    for prompt in ([1, 70, 75, 90, 2], list(range(3, 200))):
        theirs, expected = made.greedy(prompt, 20), ours.greedy(prompt, 20)
        assert theirs.tokens == expected.tokens
        assert np.abs(np.stack(theirs.logits) - np.stack(expected.logits)).max() < 1e-4


def test_golden_answers_are_checked(tmp_path: Path) -> None:
    directory = tmp_path / "m" / "chat" / "1"
    export_llama(TINY, directory, prompts=["Say hello."], most_tokens=4)
    package = read_package(directory)
    small = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in (".json", ".jinja")}
    del small["manifest.json"]

    def again(version: str, **changes: bytes) -> Path:
        target = directory.parent / version
        write_package(
            target,
            model=package.model_path.read_bytes(),
            manifest=package.manifest,
            golden=package.golden,
            extra_files={**small, **{name.replace("__", "."): data for name, data in changes.items()}},
        )
        return target

    verify_package(again("2"))
    answer = package.golden.cases[0].predictions
    answer.finish_reason = inference_service_pb2.FINISH_REASON_STOP
    with pytest.raises(PackageInvalidError, match="golden case 0: finish_reason: expected FINISH_REASON_STOP, got"):
        verify_package(again("3"))
    answer.outputs["text"].string_value = "Hi"
    with pytest.raises(PackageInvalidError, match="golden case 0: output 'text': expected 'Hi', got 'Hell'"):
        verify_package(again("4"))
    with pytest.raises(PackageInvalidError, match=r"genai_config\.json"):
        verify_package(again("5", genai_config__json=b"{}"))
    with pytest.raises(PackageInvalidError, match="the tokenizer"):
        verify_package(again("6", tokenizer__json=b"{}"))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def changed(folder: Path, **config: Any) -> Path:
    given = {name: value for name, value in (CONFIG | config).items() if value != "absent"}
    return write_folder(folder, given, random_weights(CONFIG))


def without(folder: Path, name: str, weight: Any = None) -> Path:
    weights = random_weights(CONFIG)
    weights.pop(name, None)
    if weight is not None:
        weights[name] = weight
    return write_folder(folder, CONFIG, weights)


UP = "model.layers.1.mlp.up_proj.weight"
WRONG_FOLDERS: dict[str, tuple[Any, str]] = {
    "another family": (
        lambda f: changed(f, model_type="mamba"),
        "model_type: expected one of llama, qwen2, got 'mamba'",
    ),
    "no family": (lambda f: changed(f, model_type="absent"), "model_type: expected one of llama, qwen2, got None"),
    "activation": (lambda f: changed(f, hidden_act="gelu"), "hidden_act: expected 'silu', got 'gelu'"),
    "rotation": (
        lambda f: changed(f, rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        "rope_type: expected default, linear or llama3, got 'yarn'",
    ),
    "part of a rotation": (lambda f: changed(f, partial_rotary_factor=0.5), "partial_rotary_factor: expected 1.0"),
    "factor": (
        lambda f: changed(f, rope_scaling={"rope_type": "llama3", "factor": 2.0}),
        "config.json: low_freq_factor: is missing",
    ),
    "no size": (lambda f: changed(f, hidden_size="absent"), "config.json: hidden_size: is missing"),
    "size that is none": (lambda f: changed(f, num_hidden_layers="two"), "config.json: invalid literal"),
    "too many layers": (lambda f: changed(f, num_hidden_layers=10**9), "layers: expected 1 to 1024, got 1000000000"),
    "heads": (lambda f: changed(f, num_key_value_heads=3), "4 heads cannot share the keys and values of 3"),
    "size of a head": (lambda f: changed(f, head_dim=12), "size of a head: expected a multiple of 16"),
    "end": (lambda f: changed(f, eos_token_id=259), "special tokens: expected some below 259"),
    "no end": (lambda f: changed(f, eos_token_id="absent"), "eos_token_id: is missing"),
    "missing weight": (lambda f: without(f, UP), r"layers\.1\.up: is missing, expected \[96, 64\]"),
    "another shape": (
        lambda f: without(f, UP, np.zeros((96, 63), np.float32)),
        r"layers\.1\.up: expected \[96, 64\], got \[96, 63\]",
    ),
    "unknown weight": (
        lambda f: without(f, "model.layers.0.self_attn.q_norm.weight", np.zeros(16, np.float32)),
        "q_norm.weight: is no weight of llama as it is computed here",
    ),
    "no weights": (
        lambda f: (write_folder(f, CONFIG) / "model.safetensors").unlink() or f,
        "model.safetensors: is miss",
    ),
    "no tokenizer": (
        lambda f: (write_folder(f, CONFIG) / "tokenizer.json").unlink() or f,
        "tokenizer.json: is missing",
    ),
    "no JSON": (lambda f: write(write_folder(f, CONFIG) / "config.json", b"{").parent, "config.json: is no JSON"),
    "no object": (
        lambda f: write(write_folder(f, CONFIG) / "config.json", b"[]").parent,
        "expected a JSON object, got list",
    ),
    "no safetensors": (
        lambda f: write(write_folder(f, CONFIG) / "model.safetensors", b"\xff" * 64).parent,
        "is no whole safetensors file",
    ),
    "empty safetensors": (
        lambda f: write(write_folder(f, CONFIG) / "model.safetensors", b"").parent,
        "is no whole safetensors file",
    ),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_folders_that_are_refused(tmp_path: Path, case: str) -> None:
    make, message = WRONG_FOLDERS[case]
    with pytest.raises(SourceError, match=message) as error:
        export_llama(make(tmp_path / "f"), tmp_path / "m" / "chat" / "1")
    assert str(tmp_path) not in str(error.value)
    assert not (tmp_path / "m").exists()


def test_safetensors_that_are_cut_off_or_hold_no_floats(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", CONFIG)
    whole = (folder / "model.safetensors").read_bytes()
    for length in (7, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(SourceError, match="safetensors"):
            read_model(folder)
    weights = random_weights(CONFIG)
    write_safetensors(folder / "model.safetensors", weights, {UP: "F8_E4M3"})
    with pytest.raises(SourceError, match="expected one of F32, F16, F64, BF16, got F8_E4M3"):
        read_model(folder).weights.read("layers.1.up")
    write_safetensors(folder / "model.safetensors", weights, {UP: "F16"})
    with pytest.raises(SourceError, match="does not have 24576 bytes"):
        read_model(folder)


WRONG_GGUFS: dict[str, tuple[dict[str, Any], str]] = {
    "another family": ({"architecture": "mamba"}, "general.architecture: expected one of llama, qwen2, got 'mamba'"),
    "no context": ({"without": ("llama.context_length",)}, "llama.context_length: is missing"),
    "another tokenizer": ({"facts": {"tokenizer.ggml.model": "llama"}}, "expected gpt2, got 'llama'"),
    "another cut": (
        {"facts": {"tokenizer.ggml.pre": "viking"}},
        "tokenizer.ggml.pre: expected one of .*, got 'viking'",
    ),
    "fewer tokens": ({"facts": {"tokenizer.ggml.tokens": ["a", "b"]}}, "expected 259 different tokens, got 2"),
    "merge": ({"facts": {"tokenizer.ggml.merges": ["ab"]}}, "tokenizer.ggml.merges: expected two tokens, got 'ab'"),
    "scaling": ({"facts": {"llama.rope.scaling.type": "yarn"}}, "expected none or linear, got 'yarn'"),
    "part of a rotation": ({"facts": {"llama.rope.dimension_count": 8}}, "dimension_count: expected 16, got 8"),
    "missing weight": ({"without": ("blk.1.ffn_up.weight",)}, r"layers\.1\.up: is missing"),
    "another shape": (
        {"tensors": {"blk.1.ffn_up.weight": np.zeros((192, 32))}},
        r"layers\.1\.up: expected \[192, 64\], got \[192, 32\]",
    ),
    "unknown weight": ({"tensors": {"blk.0.attn_q_norm.weight": np.zeros(16)}}, "is no weight of llama"),
    "bias": ({"tensors": {"blk.0.attn_q.bias": np.zeros(64)}}, "biases of the architecture llama"),
    "factors": ({"tensors": {"rope_freqs.weight": np.zeros(8)}}, "rope_freqs.weight: expected 8 positive numbers"),
    "size that is none": ({"facts": {"llama.block_count": "two"}}, "invalid literal"),
    "too many layers": ({"facts": {"llama.block_count": 2_000_000_000}}, "layers: expected 1 to 1024"),
}


@pytest.mark.parametrize("case", WRONG_GGUFS)
def test_gguf_files_that_are_refused(tmp_path: Path, case: str) -> None:
    options, message = WRONG_GGUFS[case]
    path = write_gguf(tmp_path / "tiny.gguf", **options)
    with pytest.raises(SourceError, match=message) as error:
        export_llama(path, tmp_path / "m" / "chat" / "1")
    assert str(tmp_path) not in str(error.value)


def test_gguf_files_that_are_cut_off(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in (0, 3, 24, 100, 3000, 10_000, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"cut\.gguf: is no whole GGUF file"):
            read_model(path)
    path.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(SourceError, match="is no whole GGUF file"):
        read_model(path)


def test_changed_bytes_raise_nothing_else(tmp_path: Path) -> None:
    """Of a GGUF file's head and of a safetensors file's: read, or refused by a SourceError."""
    chance = random.Random(0)
    folder = write_folder(tmp_path / "f", CONFIG)
    files = {write_gguf(tmp_path / "tiny.gguf"): 4500, folder / "model.safetensors": 2500}
    refused = 0
    for path, head in files.items():
        whole = path.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(head)] = chance.choice([0, 1, 8, 9, 0x7F, 0xFF, chance.randrange(256)])
            path.write_bytes(data)
            try:
                model = read_model(path)
                check_weights(model.llama, model.weights)
                for name in shapes(model.llama):
                    model.weights.read(name)
            except SourceError:
                refused += 1
        path.write_bytes(whole)
    assert refused > 20


def test_a_quantisation_that_nobody_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concord_export.llama import gguf_file

    def refuses(*_: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(gguf_file, "dequantize", refuses)
    path = write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(SourceError, match=r"weight: the quantisation F32 cannot be read"):
        export_llama(path, tmp_path / "m" / "chat" / "1")


def test_the_command(tmp_path: Path) -> None:
    def call(*arguments: str) -> Any:
        return CliRunner().invoke(main, list(arguments))

    target = str(tmp_path / "m" / "chat")
    first = call("llama", str(TINY), target, "--prompt", "Say hello.", "--precision", "int8", "--max-tokens", "40")
    assert first.exit_code == 0, first.output
    assert "chat/1\n  parity: " in first.output
    assert "tokens that the source's own weights give, too: 1 of " in first.output
    assert repr(ANSWERS["Say hello."]) in first.output
    assert call("verify", f"{target}/1").exit_code == 0
    assert "chat version 1, generator" in call("inspect", f"{target}/1").output
    again = call("llama", str(TINY), f"{target}/1")
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    other = tmp_path / "weights.bin"
    other.write_bytes(b"")
    wrong = call("llama", str(other), target)
    assert wrong.exit_code == 1
    assert "expected a .gguf file, a .safetensors file or a folder of such" in wrong.stderr


def test_errors_are_the_exporters(tmp_path: Path) -> None:
    export_llama(TINY, tmp_path / "m" / "chat" / "1", prompts=["Say hello."], most_tokens=2)
    with pytest.raises(PackageExistsError):
        export_llama(TINY, tmp_path / "m" / "chat" / "1")
    assert issubclass(PackageExistsError, ExportError)
