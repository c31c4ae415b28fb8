# SPDX-License-Identifier: Apache-2.0
"""A model of the Llama family as a package, proved: the graph against NumPy, the golden answers against both."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import math
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2

from concord_export.admission import check_admission
from concord_export.errors import PackageExistsError, SourceError
from concord_export.llama.architecture import Model, check_weights, shapes
from concord_export.llama.genai_config import GENAI_CONFIG_FILE, genai_config
from concord_export.llama.generation import Generator, Text
from concord_export.llama.golden import golden_case, golden_cases
from concord_export.llama.graph import write_graph
from concord_export.llama.proof import prove
from concord_export.llama.quantisation import Precision
from concord_export.llama.safetensors_folder import read_folder
from concord_export.llama.storage import DATA_FILE, Constants
from concord_export.package import MODEL_FILE, write_package
from concord_export.progress import Progress

__all__ = ["MOST_TOKENS", "PROMPTS", "Generated", "export_llama", "read_model"]

PROMPTS = ("What is the capital of France?", "Name three colors.", "Count to ten.", "Who are you?")
MOST_TOKENS = 24
# Beyond this the constants lie beside the graph, which every server reads whole.
_INLINE_BYTES = 16 << 20


@dataclass(frozen=True)
class Generated:
    """What was written."""

    directory: Path
    manifest: manifest_pb2.Manifest
    own_error: float
    """Largest difference of a logit from NumPy's on the weights that the package holds."""
    texts: list[Text]
    notes: list[str]


def read_model(path: Path) -> Model:
    """What a GGUF file, a safetensors file or a folder of them holds. Raises SourceError, OSError."""
    if path.suffix.lower() == ".gguf":
        # An extra: who has safetensors needs no gguf.
        from concord_export.llama.gguf_file import read_gguf

        model: Model = read_gguf(path)
        return model
    if path.is_dir() or path.suffix == ".safetensors":
        return read_folder(path)
    raise SourceError(f"{path.name}: expected a .gguf file, a .safetensors file or a folder of such")


def export_llama(
    source: Path,
    directory: Path,
    *,
    precision: Precision = "fp32",
    integers: bool | None = None,
    context: int | None = None,
    prompts: Sequence[str] = PROMPTS,
    most_tokens: int = MOST_TOKENS,
    description: str = "",
    replace_existing: bool = False,
    progress: Progress | None = None,
) -> Generated:
    """Writes the package `<repository>/<model id>/<version>`.

    `integers` multiplies in 8-bit integers, which is much faster than in floats and less exact; unset it is what int4
    does and int8 does not. `context` is most tokens of a text with its prompt, at most what the model was made for.
    `prompts` become golden cases, with answers of `most_tokens` at most. Raises ExportError, OSError.
    """
    if integers is None:
        integers = precision == "int4"
    elif integers and precision == "fp32":
        raise SourceError("weights in 32-bit floats cannot be multiplied in integers: expected int8 or int4")
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
            graph = write_graph(llama, model.weights, precision, Constants(None), integers=integers)
        else:
            with (staging / DATA_FILE).open("xb") as stream:
                graph = write_graph(llama, model.weights, precision, Constants(stream), integers=integers)
        serialized = graph.SerializeToString(deterministic=True)
        (staging / MODEL_FILE).write_bytes(serialized)
        config = genai_config(llama)
        check_admission(serialized, frozenset() if inline else frozenset({DATA_FILE}), generator=True)
        generator = Generator(staging / MODEL_FILE, config, model.tokenizer)
        cases = golden_cases(model, generator, prompts, most_tokens)
        proof = prove(llama, model.weights, precision, generator, cases, integers=integers, progress=progress)
        manifest = manifest_pb2.Manifest(
            kind=model_pb2.MODEL_KIND_GENERATOR, description=description or model.description, parity=proof.parity
        )
        for name in ("numpy", "onnxruntime", "onnxruntime-genai"):
            manifest.library_versions[name] = importlib.metadata.version(name)
        if precision != "fp32":
            measure = "tokens that the source's own weights give, too"
            manifest.quality.add(name=measure, value=proof.same_tokens, rows=proof.parity.rows)
        write_package(
            directory,
            model=serialized,
            manifest=manifest,
            golden=golden_pb2.GoldenSet(cases=[golden_case(case) for case in proof.cases]),
            extra_files={GENAI_CONFIG_FILE: config, **model.tokenizer},
            moved_files={} if inline else {DATA_FILE: staging / DATA_FILE},
            replace=replace_existing,
        )
    return Generated(directory, manifest, proof.own_error, [case.text for case in proof.cases], model.notes)


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
