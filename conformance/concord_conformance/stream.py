# SPDX-License-Identifier: Apache-2.0
"""Holds token streams, and texts that come whole, against what was expected and against the rules of every stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from concord_proto.conformance.v1 import suite_pb2
from concord_proto.inference.v1 import inference_service_pb2
from google.protobuf.message import DecodeError, Message

from concord_conformance import rules
from concord_conformance.bits import bits_class, to_bits
from concord_conformance.client import Exchange
from concord_conformance.compare import clip
from concord_conformance.fill import apply_fill

__all__ = ["difference_problems", "stream_problems", "text_problems"]

_MOST_PROBLEMS = 10
_REASONS = inference_service_pb2.FinishReason.Name


def stream_problems(
    expect: suite_pb2.Expectation, exchange: Exchange, alone: Callable[[str, Message], Exchange]
) -> list[str]:
    """What does not hold of one stream: of all of it where it ended well, else of what came before its error."""
    tokens = _tokens(exchange)
    ended_well = exchange.code == "OK"
    problems = _rule_problems(tokens, exchange, ended_well)
    if expect.WhichOneof("response") != "stream" or len(problems) > _MOST_PROBLEMS:
        return problems
    wanted: Any = to_bits(expect.stream)
    for fill in expect.fills:
        apply_fill(wanted, fill, exchange.index)
    if wanted.messages:
        problems += _message_problems(list(wanted.messages), tokens)
    generated = [token for token in tokens if not token.is_final]
    problems += _content_problems(wanted, generated)
    if ended_well and tokens:
        problems += _final_problems(wanted, tokens[-1])
        if wanted.equals_predict and exchange.request is not None:
            problems += _predict_problems(generated, tokens[-1], alone("predict", exchange.request))
    return problems


def _tokens(exchange: Exchange) -> list[Any]:
    kind = bits_class(inference_service_pb2.PredictToken)
    return [kind.FromString(data) for data in exchange.responses]


def _rule_problems(tokens: Sequence[Any], exchange: Exchange, ended_well: bool) -> list[str]:
    if not tokens:
        return ["the stream ended without a final message"] if ended_well else []
    problems: list[str] = []
    for index, token in enumerate(tokens):
        last = ended_well and index == len(tokens) - 1
        here = f"messages[{index}]"
        if token.is_final != last:
            problems.append(f"{here}.is_final: expected {last}, got {token.is_final}")
        if token.token_index != index:
            problems.append(f"{here}.token_index: expected {index}, got {token.token_index}")
        if not last:
            for name in ("finish_reason", "seed"):
                if getattr(token, name):
                    problems.append(f"{here}.{name}: is set before the final message")
            for name in ("usage", "timing"):
                if token.HasField(name):
                    problems.append(f"{here}.{name}: is set before the final message")
        if token.request_id != tokens[0].request_id:
            problems.append(
                f"{here}.request_id: expected {clip(tokens[0].request_id)} as before, got {clip(token.request_id)}"
            )
        problems += rules.version_problems(token.model_version) + rules.echo_problems(
            token.request_id, exchange.request
        )
        if len(problems) > _MOST_PROBLEMS:
            return problems
    if not ended_well:
        return problems
    final = tokens[-1]
    if final.token or final.token_id:
        problems.append(f"final message: expected no token, got {clip(final.token)} and id {final.token_id}")
    if not final.finish_reason:
        problems.append("final message: finish_reason is not set")
    if final.usage.completion_tokens != len(tokens) - 1:
        problems.append(
            f"final message: usage.completion_tokens is {final.usage.completion_tokens}, "
            f"but {len(tokens) - 1} tokens came"
        )
    return problems + [f"final message: {problem}" for problem in rules.timing_problems(final, exchange.elapsed_ms)]


def _message_problems(wanted: Sequence[Any], tokens: Sequence[Any]) -> list[str]:
    problems = []
    if len(wanted) != len(tokens):
        problems.append(f"expected {len(wanted)} messages, got {len(tokens)}")
    for index, (a, b) in enumerate(zip(wanted, tokens, strict=False)):
        for name in ("token", "is_final", "token_index", "token_id", "finish_reason", "seed"):
            if getattr(a, name) != getattr(b, name):
                problems.append(f"messages[{index}].{name}: expected {getattr(a, name)!r}, got {getattr(b, name)!r}")
        if a.HasField("usage"):
            problems += _usage_problems(f"messages[{index}].usage", a.usage, b.usage)
        if len(problems) > _MOST_PROBLEMS:
            break
    return problems


def _content_problems(wanted: Any, generated: Sequence[Any]) -> list[str]:
    """Texts, ids, and how many."""
    problems = []
    text, ids = "".join(token.token for token in generated), [token.token_id for token in generated]
    if wanted.HasField("text") and not (wanted.text.startswith(text) if wanted.beginning else wanted.text == text):
        beginning = "a beginning of " if wanted.beginning else ""
        problems.append(f"text: expected {beginning}{clip(wanted.text)}, got {clip(text)}")
    wanted_ids = list(wanted.token_ids)
    if wanted_ids and ids != (wanted_ids[: len(ids)] if wanted.beginning else wanted_ids):
        problems.append(f"token_ids: expected {clip(wanted_ids)}, got {clip(ids)}")
    if wanted.HasField("token_count") and wanted.token_count != len(generated):
        problems.append(f"expected {wanted.token_count} tokens, got {len(generated)}")
    return problems


def _final_problems(wanted: Any, final: Any) -> list[str]:
    problems = []
    if wanted.finish_reason and wanted.finish_reason != final.finish_reason:
        problems.append(_reason_problem(wanted, final))
    if wanted.HasField("usage"):
        problems += _usage_problems("usage", wanted.usage, final.usage)
    if wanted.HasField("seed") and wanted.seed != final.seed:
        problems.append(f"seed: expected {wanted.seed}, got {final.seed}")
    return problems


def _predict_problems(generated: Sequence[Any], final: Any, single: Exchange) -> list[str]:
    """A stream against what Predict gives for the same request."""
    if single.code != "OK":
        return [f"is a stream, and by Predict {single.code}: {single.message}"]
    try:
        answer: Any = bits_class(inference_service_pb2.PredictResponse).FromString(single.responses[0])
    except DecodeError:
        return ["Predict's answer cannot be read as a message of its type"]
    text, ids = "".join(token.token for token in generated), [token.token_id for token in generated]
    problems = text_problems(answer, final)
    if set(answer.outputs) != {"text", "token_ids"}:
        problems.append(f'outputs: expected "text" and "token_ids", got {sorted(answer.outputs)}')
    if answer.outputs["text"].string_value != text:
        problems.append(f"text: {clip(text)}, by Predict {clip(answer.outputs['text'].string_value)}")
    if list(answer.outputs["token_ids"].int64_array.values) != ids:
        problems.append("token_ids: are not those by Predict")
    if answer.predictions:
        problems.append(f"predictions: expected none of a generator, got {sorted(answer.predictions)}")
    return [f"{problem} (expected is Predict's)" for problem in problems]


def text_problems(wanted: Any, got: Any) -> list[str]:
    """What a text ends with, of two answers of Predict or final messages."""
    problems = []
    if wanted.seed != got.seed:
        problems.append(f"seed: expected {wanted.seed}, got {got.seed}")
    if wanted.finish_reason != got.finish_reason:
        problems.append(_reason_problem(wanted, got))
    if wanted.HasField("usage"):
        problems += _usage_problems("usage", wanted.usage, got.usage)
    return problems


def _reason_problem(wanted: Any, got: Any) -> str:
    return f"finish_reason: expected {_reason(wanted.finish_reason)}, got {_reason(got.finish_reason)}"


def _reason(number: int) -> str:
    values = inference_service_pb2.FinishReason.values()
    return _REASONS(number) if number in values else str(number)


def _usage_problems(path: str, wanted: Any, got: Any) -> list[str]:
    return [
        f"{path}.{name}: expected {getattr(wanted, name)}, got {getattr(got, name)}"
        for name in ("prompt_tokens", "completion_tokens")
        if getattr(wanted, name) != getattr(got, name)
    ]


def difference_problems(expect: suite_pb2.Expectation, exchanges: Sequence[Exchange]) -> list[str]:
    """How many of the streams of a step differ in their tokens."""
    if expect.WhichOneof("response") != "stream":
        return []
    least, most = expect.stream.least_different, expect.stream.most_different
    if not least and not most:
        return []
    try:
        different = len({tuple(token.token_id for token in _tokens(exchange)) for exchange in exchanges})
    except DecodeError:
        return []
    if least and different < least:
        return [f"expected at least {least} different streams of {len(exchanges)}, got {different}"]
    if most and different > most:
        return [f"expected at most {most} different streams of {len(exchanges)}, got {different}"]
    return []
