# SPDX-License-Identifier: Apache-2.0
"""Golden cases of a text generator: prompts, and the greedy texts that its graph makes of them here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from concord_proto.inference.v1 import inference_service_pb2
from concord_proto.modelpackage.v1 import golden_pb2

from concord_export.errors import SourceError
from concord_export.llama.architecture import Model
from concord_export.llama.generation import Generator, Text

__all__ = ["Case", "golden_case", "golden_cases"]

# Of the same prompt put otherwise.
_FEW_TOKENS = 8


@dataclass(frozen=True)
class Case:
    """A request and what came of it."""

    request: inference_service_pb2.PredictRequest
    text: Text


def golden_cases(model: Model, generator: Generator, prompts: Sequence[str], most: int) -> list[Case]:
    """Each prompt with its greedy text of at most `most` tokens. Raises SourceError where one is too long."""
    return [Case(request, _answer(generator, request)) for request in _requests(model, generator, prompts, most)]


def golden_case(case: Case) -> golden_pb2.GoldenCase:
    """A case as a package holds it."""
    golden = golden_pb2.GoldenCase(features=case.request)
    answer = golden.predictions
    answer.outputs["token_ids"].int64_array.values.extend(case.text.tokens)
    answer.outputs["text"].string_value = case.text.text
    ended = case.text.ended
    answer.finish_reason = (
        inference_service_pb2.FINISH_REASON_STOP if ended else inference_service_pb2.FINISH_REASON_LENGTH
    )
    return golden


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
