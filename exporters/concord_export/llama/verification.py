# SPDX-License-Identifier: Apache-2.0
"""Checks a package that generates text as a server does: admission, and the golden answers in this process."""

from __future__ import annotations

from concord_proto.inference.v1 import inference_service_pb2
from concord_proto.modelpackage.v1 import golden_pb2

from concord_export.admission import check_admission
from concord_export.errors import ConversionError, PackageInvalidError
from concord_export.llama.genai_config import GENAI_CONFIG_FILE
from concord_export.llama.generation import Generator, Text
from concord_export.package import MODEL_FILE, Package

__all__ = ["verify_generator"]

# What every server takes without being asked for a number.
_MOST_TOKENS = 256
_SMALL_FILES = (".json", ".jinja", ".txt", ".model")


def verify_generator(package: Package) -> None:
    """Raises PackageInvalidError where the graph does not load or an answer is not the expected one."""
    names = {file.name for file in package.manifest.files}
    for name in (GENAI_CONFIG_FILE, "tokenizer.json"):
        if name not in names:
            raise PackageInvalidError(f"{name}: is not listed")
    small = {name: (package.directory / name).read_bytes() for name in names if name.endswith(_SMALL_FILES)}
    try:
        check_admission(
            package.model_path.read_bytes(), frozenset(names - small.keys()), integer_division=True, generator=True
        )
        generator = Generator(package.model_path, small[GENAI_CONFIG_FILE], small)
    except ConversionError as error:
        raise PackageInvalidError(f"{MODEL_FILE}: {error}") from None
    for index, case in enumerate(package.golden.cases):
        where = f"golden case {index}"
        if case.WhichOneof("request") != "features" or case.WhichOneof("answer") != "predictions":
            raise PackageInvalidError(f"{where}: expected features and predictions")
        if case.features.config.temperature or case.features.config.stop:
            raise PackageInvalidError(f"{where}: sampled answers and stop texts are checked by the servers only")
        try:
            prompt = generator.prompt(case.features.features)
            most = min(case.features.config.max_tokens or _MOST_TOKENS, generator.context - len(prompt))
            _compare(where, case, generator.greedy(prompt, most))
        except ConversionError as error:
            raise PackageInvalidError(f"{where}: {error}") from None


def _compare(where: str, case: golden_pb2.GoldenCase, text: Text) -> None:
    expected = case.predictions
    for name, value in expected.outputs.items():
        wanted: object
        got: object
        if name == "token_ids":
            wanted, got = list(value.int64_array.values), text.tokens
        elif name == "text":
            wanted, got = value.string_value, text.text
        else:
            raise PackageInvalidError(f"{where}: a text generator has no output {name!r}")
        if wanted != got:
            raise PackageInvalidError(f"{where}: output {name!r}: expected {wanted!r}, got {got!r}")
    finish = inference_service_pb2.FINISH_REASON_STOP if text.ended else inference_service_pb2.FINISH_REASON_LENGTH
    if expected.finish_reason not in (inference_service_pb2.FINISH_REASON_UNSPECIFIED, finish):
        names = [inference_service_pb2.FinishReason.Name(reason) for reason in (expected.finish_reason, finish)]
        raise PackageInvalidError(f"{where}: finish_reason: expected {names[0]}, got {names[1]}")
