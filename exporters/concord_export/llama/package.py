# SPDX-License-Identifier: Apache-2.0
"""A model of the Llama family as a package, proved: the graph against NumPy, the golden answers against both."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2

from concord_export.admission import check_admission
from concord_export.errors import PackageExistsError, ParityError, SourceError
from concord_export.limits import Limits, ulp_distance
from concord_export.llama.architecture import Llama, Model, check_weights, shapes
from concord_export.llama.genai_config import GENAI_CONFIG_FILE, genai_config
from concord_export.llama.generation import Generator, Text
from concord_export.llama.graph import write_graph
from concord_export.llama.quantisation import Precision, Rounded
from concord_export.llama.reference import logits
from concord_export.llama.safetensors_folder import read_folder
from concord_export.llama.storage import DATA_FILE, Constants
from concord_export.package import MODEL_FILE, write_package
from concord_export.progress import Progress

__all__ = ["Generated", "export_llama", "read_model"]

PROMPTS = ("What is the capital of France?", "Name three colors.", "Count to ten.", "Who are you?")
MOST_TOKENS = 24
_FEW_TOKENS = 8
# Beyond this the constants lie beside the graph, which every server reads whole.
_INLINE_BYTES = 16 << 20
_LEAST_MARGIN = 1e-3
# Of the graph against NumPy on the very weights that it holds. int4 computes in 8-bit integers.
_OWN_LIMITS: dict[Precision, Limits] = {"fp32": Limits(1e-3, 1e-5), "int8": Limits(1e-3, 1e-5), "int4": Limits(2, 0)}
# Of the graph against NumPy on the source's weights: what rounding them may cost.
_SOURCE_LIMITS: dict[Precision, Limits] = {"fp32": Limits(1e-3, 1e-5), "int8": Limits(1, 0), "int4": Limits(16, 0)}


@dataclass(frozen=True)
class Generated:
    """What was written."""

    directory: Path
    manifest: manifest_pb2.Manifest
    own_error: float
    """Largest difference of a logit from NumPy's on the weights that the package holds."""
    texts: list[Text]
    notes: list[str]


@dataclass(frozen=True)
class _Case:
    request: inference_service_pb2.PredictRequest
    text: Text


def read_model(path: Path) -> Model:
    """What a GGUF file, a safetensors file or a folder of them holds. Raises SourceError, OSError."""
    if path.suffix.lower() == ".gguf":
        # An extra: who has safetensors needs no gguf.
        from concord_export.llama.gguf_file import read_gguf

        return read_gguf(path)
    if path.is_dir() or path.suffix == ".safetensors":
        return read_folder(path)
    raise SourceError(f"{path.name}: expected a .gguf file, a .safetensors file or a folder of such")


def export_llama(
    source: Path,
    directory: Path,
    *,
    precision: Precision = "fp32",
    context: int | None = None,
    prompts: Sequence[str] = PROMPTS,
    most_tokens: int = MOST_TOKENS,
    description: str = "",
    replace_existing: bool = False,
    progress: Progress | None = None,
) -> Generated:
    """Writes the package `<repository>/<model id>/<version>`.

    `context` is most tokens of a text with its prompt, at most what the model was made for; `prompts` become golden
    cases, with answers of `most_tokens` at most. Raises ExportError, OSError.
    """
    model = read_model(source)
    llama = model.llama
    if context is not None:
        if not 2 <= context <= llama.context:
            raise SourceError(f"context: expected 2 to {llama.context}, got {context}")
        llama = dataclasses.replace(llama, context=context)
    check_weights(llama, model.weights)
    if directory.exists() and not replace_existing:
        # What comes first may take minutes.
        raise PackageExistsError(f"{directory} is there already; choose another version, or replace it")
    with _staging(directory) as staging:
        inline = 4 * sum(math.prod(shape) for shape in shapes(llama).values()) <= _INLINE_BYTES
        if progress is not None:
            progress("writing", 0, 1)
        if inline:
            graph = write_graph(llama, model.weights, precision, Constants(None))
        else:
            with (staging / DATA_FILE).open("xb") as stream:
                graph = write_graph(llama, model.weights, precision, Constants(stream))
        serialized = graph.SerializeToString(deterministic=True)
        (staging / MODEL_FILE).write_bytes(serialized)
        config = genai_config(llama)
        check_admission(serialized, frozenset() if inline else frozenset({DATA_FILE}), generator=True)
        generator = Generator(staging / MODEL_FILE, config, model.tokenizer)
        cases = [
            _Case(request, _answer(generator, request)) for request in _requests(model, generator, prompts, most_tokens)
        ]
        held = Rounded(model.weights, precision)
        cases, own_error = _checked(llama, held, generator, cases, _OWN_LIMITS[precision], progress)
        parity, same = _parity(llama, model, precision, cases, progress)
        manifest = manifest_pb2.Manifest(
            kind=model_pb2.MODEL_KIND_GENERATOR, description=description or model.description, parity=parity
        )
        for name in ("numpy", "onnxruntime", "onnxruntime-genai"):
            manifest.library_versions[name] = importlib.metadata.version(name)
        if precision != "fp32":
            rows = sum(len(case.text.logits) for case in cases)
            manifest.quality.add(name="tokens that the source's own weights give, too", value=same, rows=rows)
        write_package(
            directory,
            model=serialized,
            manifest=manifest,
            golden=golden_pb2.GoldenSet(cases=[_golden(case) for case in cases]),
            extra_files={GENAI_CONFIG_FILE: config, **model.tokenizer},
            moved_files={} if inline else {DATA_FILE: staging / DATA_FILE},
            replace=replace_existing,
        )
    return Generated(directory, manifest, own_error, [case.text for case in cases], model.notes)


@contextlib.contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A directory beside the model's, which servers overlook; gone in the end."""
    repository = directory.parent.parent
    repository.mkdir(parents=True, exist_ok=True)
    staging = repository / f".{directory.parent.name}.{directory.name}.{secrets.token_hex(8)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _requests(
    model: Model, generator: Generator, prompts: Sequence[str], most: int
) -> Iterator[inference_service_pb2.PredictRequest]:
    """Each prompt; the first one, too, as messages and as the text that the chat template makes of it."""
    for index, prompt in enumerate(prompts):
        if not model.chats:
            yield _request(most, prompt=prompt, raw=True)
            continue
        yield _request(most, prompt=prompt)
        if index == 0:
            messages = [{"role": "user", "content": prompt}]
            yield _request(min(most, _FEW_TOKENS), messages=json.dumps(messages, ensure_ascii=False))
            yield _request(min(most, _FEW_TOKENS), prompt=generator.templated(messages), raw=True)


def _request(most: int, **features: str | bool) -> inference_service_pb2.PredictRequest:
    request = inference_service_pb2.PredictRequest()
    for name, value in features.items():
        if isinstance(value, bool):
            request.features[name].bool_value = value
        else:
            request.features[name].string_value = value
    request.config.max_tokens = most
    return request


def _answer(generator: Generator, request: inference_service_pb2.PredictRequest) -> Text:
    prompt = generator.prompt(request.features)
    if not prompt or len(prompt) >= generator.context:
        raise SourceError(f"a prompt has {len(prompt)} tokens, expected 1 to {generator.context - 1}")
    return generator.greedy(prompt, min(request.config.max_tokens, generator.context - len(prompt)))


def _logits(
    llama: Llama, weights: Rounded, cases: Sequence[_Case], progress: Progress | None
) -> list[npt.NDArray[np.float64]]:
    texts = [[*case.text.prompt, *case.text.tokens] for case in cases]
    asked = [range(len(case.text.prompt) - 1, len(case.text.prompt) - 1 + len(case.text.logits)) for case in cases]
    return logits(llama, weights, texts, asked, progress)


def _checked(
    llama: Llama,
    held: Rounded,
    generator: Generator,
    cases: Sequence[_Case],
    limits: Limits,
    progress: Progress | None,
) -> tuple[list[_Case], float]:
    """The cases as far as no two tokens are nearly as likely, and the largest difference of a logit.

    NumPy knows each text from the start: if its likeliest token is the one that came, at every place, then it would
    have made the same text.
    """
    expected = _logits(llama, held, cases, progress)
    worst, error = 0.0, 0.0
    for case, wanted in zip(cases, expected, strict=True):
        got = np.stack(case.text.logits).astype(np.float64)
        worst = max(worst, float(limits.excess(wanted, got).max()))
        error = max(error, float(np.abs(got - wanted).max()))
    if not worst <= 1:
        raise ParityError(f"the graph's logits differ from those of NumPy by up to {error:.3g}, too much")
    margin = max(_LEAST_MARGIN, 2 * error)
    kept: list[_Case] = []
    for case, wanted in zip(cases, expected, strict=True):
        best = np.partition(wanted, -2, axis=-1)[:, -2:]
        clear = (best[:, 1] - best[:, 0] > margin).tolist()
        count = clear.index(False) if False in clear else len(clear)
        text = case.text
        if count < len(text.logits):
            tokens = text.tokens[:count]
            shown = generator.text(tokens)
            text = dataclasses.replace(text, tokens=tokens, ended=False, logits=text.logits[:count], text=shown)
            case.request.config.max_tokens = count
        if text.tokens:
            kept.append(_Case(case.request, text))
    if not kept:
        raise ParityError("no prompt has an answer whose tokens are clearly the likeliest: give others")
    return kept, error


def _parity(
    llama: Llama, model: Model, precision: Precision, cases: Sequence[_Case], progress: Progress | None
) -> tuple[model_pb2.ParityRecord, float]:
    """The graph against NumPy on the source's weights, and the share of tokens that are the same."""
    limits = _SOURCE_LIMITS[precision]
    expected = np.concatenate(_logits(llama, Rounded(model.weights, "fp32"), cases, progress))
    got = np.concatenate([np.stack(case.text.logits) for case in cases]).astype(np.float64)
    worst = float(limits.excess(expected, got).max())
    error = float(np.abs(got - expected).max())
    if not worst <= 1:
        raise ParityError(f"the graph's logits differ from those of the source's weights by up to {error:.3g}")
    record = model_pb2.ParityRecord(
        rows=len(got),
        max_absolute_error=error,
        max_ulp_error=int(ulp_distance(expected, got).max()),
        absolute_limit=limits.absolute,
        relative_limit=limits.relative,
    )
    return record, float((expected.argmax(axis=-1) == got.argmax(axis=-1)).mean())


def _golden(case: _Case) -> golden_pb2.GoldenCase:
    golden = golden_pb2.GoldenCase(features=case.request)
    answer = golden.predictions
    answer.outputs["token_ids"].int64_array.values.extend(case.text.tokens)
    answer.outputs["text"].string_value = case.text.text
    finish = inference_service_pb2.FINISH_REASON_STOP if case.text.ended else inference_service_pb2.FINISH_REASON_LENGTH
    answer.finish_reason = finish
    return golden
