# SPDX-License-Identifier: Apache-2.0
"""Texts that are known before the server is asked: those of the conformance cases, which ONNX Runtime made when the
cases were written, and those that token-lm's table makes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from concord_proto.inference.v1 import inference_service_pb2 as service
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from concord_soak.connection import Outcome

__all__ = ["TABLE", "TEXT_MODELS", "TextCase", "beginning_problem", "table_request", "text_cases"]

TABLE = "token-lm"
TEXT_MODELS = ("tiny-chat", TABLE)
_CASES = Path(__file__).resolve().parents[2] / "cases" / "stream_tiny_chat.yaml"


@dataclass(frozen=True)
class TextCase:
    """A request without its id, and the text that it gets."""

    name: str
    request: service.PredictRequest
    text: str
    token_ids: tuple[int, ...]
    finish: int
    prompt_tokens: int
    seed: int

    def data(self, request_id: str) -> bytes:
        """The request's bytes."""
        request = service.PredictRequest()
        request.CopyFrom(self.request)
        request.request_id = request_id
        return request.SerializeToString()

    def stream_problem(self, request_id: str, outcome: Outcome) -> str:
        """What is wrong with a whole stream; empty where nothing is."""
        if outcome.code != "OK":
            return f"{self.name}: expected a stream, got {outcome}"
        tokens, problem = _tokens(self.name, request_id, outcome.messages)
        if problem:
            return problem
        if not tokens or not tokens[-1].is_final:
            return f"{self.name}: expected a final message behind {len(tokens)} tokens, got none"
        final = tokens.pop()
        return self._problem(
            "".join(token.token for token in tokens), [token.token_id for token in tokens], final
        ) or self._count_problem(final, len(tokens))

    def answer_problem(self, request_id: str, outcome: Outcome) -> str:
        """What is wrong with an answer of Predict; empty where nothing is."""
        if outcome.code != "OK":
            return f"{self.name}: expected an answer, got {outcome}"
        try:
            answer = service.PredictResponse.FromString(outcome.data)
        except DecodeError:
            return f"{self.name}: expected a PredictResponse, got {len(outcome.data)} bytes that are none"
        if answer.request_id != request_id:
            return f"{self.name}: expected request_id {request_id!r}, got {answer.request_id!r}"
        ids = list(answer.outputs["token_ids"].int64_array.values)
        return self._problem(answer.outputs["text"].string_value, ids, answer)

    def _problem(self, text: str, ids: Sequence[int], end: Any) -> str:
        wanted = (self.text, list(self.token_ids), self.finish, self.prompt_tokens, len(self.token_ids), self.seed)
        got = (text, list(ids), end.finish_reason, end.usage.prompt_tokens, end.usage.completion_tokens, end.seed)
        return "" if got == wanted else f"{self.name}: expected {wanted}, got {got}"

    def _count_problem(self, final: Any, count: int) -> str:
        if final.token_index != count or final.timing.batch_rows < 1:
            return f"{self.name}: expected a final message of index {count}, got {final.token_index}"
        return ""


def _tokens(name: str, request_id: str, messages: Sequence[bytes]) -> tuple[list[Any], str]:
    """The messages, and what is wrong with their order and ids."""
    try:
        tokens = [service.PredictToken.FromString(message) for message in messages]
    except DecodeError:
        return [], f"{name}: expected messages of tokens, got bytes that are none"
    for index, token in enumerate(tokens):
        if token.token_index != index:
            return tokens, f"{name}: expected index {index}, got {token.token_index}"
        if token.request_id != request_id:
            return tokens, f"{name}: expected request_id {request_id!r}, got {token.request_id!r}"
    return tokens, ""


def beginning_problem(name: str, text: str, request_id: str, messages: Sequence[bytes]) -> str:
    """What is wrong with the messages of a text that was cut short; empty where nothing is."""
    tokens, problem = _tokens(name, request_id, messages)
    if problem:
        return problem
    got = "".join(token.token for token in tokens)
    return "" if text.startswith(got) else f"{name}: expected a beginning of {text[:40]!r}..., got {got[:200]!r}"


def table_request(letter: str, max_tokens: int, request_id: str) -> bytes:
    """A request to token-lm (conformance/generator_fixtures.py has its table) that continues a letter."""
    request = service.PredictRequest(model_id=TABLE, request_id=request_id)
    request.features["prompt"].string_value = letter
    request.features["raw"].bool_value = True
    request.config.max_tokens = max_tokens
    return request.SerializeToString()


def text_cases(rng: random.Random) -> list[TextCase]:
    """Those of the conformance cases that are one text each, in a random order. Raises OSError."""
    found = []
    for case in yaml.safe_load(_CASES.read_text(encoding="utf-8"))["cases"]:
        for step in case["steps"]:
            call, stream = step.get("call", {}), step.get("expect", {}).get("stream", {})
            request = call.get("stream_predict")
            if request is None or call.get("fills") or not (stream.get("token_ids") or stream.get("messages")):
                continue
            # A seed that follows from the id would be another one here.
            if request.get("config", {}).get("temperature") and "seed" not in request["config"]:
                continue
            found.append(_case(case["id"], request, stream))
    rng.shuffle(found)
    return found


def _case(name: str, request: dict[str, Any], stream: dict[str, Any]) -> TextCase:
    messages = [json_format.ParseDict(message, service.PredictToken()) for message in stream.get("messages", [])]
    parsed = json_format.ParseDict({**request, "request_id": ""}, service.PredictRequest())
    if messages:
        *tokens, final = messages
        text, ids = "".join(token.token for token in tokens), tuple(token.token_id for token in tokens)
        return TextCase(name, parsed, text, ids, final.finish_reason, final.usage.prompt_tokens, final.seed)
    finish = service.FinishReason.Value(stream["finish_reason"])
    ids = tuple(int(token) for token in stream["token_ids"])
    return TextCase(
        name, parsed, stream["text"], ids, finish, stream["usage"]["prompt_tokens"], int(stream.get("seed", 0))
    )
