# SPDX-License-Identifier: Apache-2.0
"""What every text generator takes and gives, as the catalog shows it."""

from __future__ import annotations

from collections.abc import Sequence

from concord_proto.inference.v1 import inference_service_pb2, model_pb2

from concord_server.generate.generation import Ending, Token

__all__ = ["FEATURES", "OUTPUTS", "TEXT", "TOKEN_IDS", "put_answer", "put_ending"]

TEXT, TOKEN_IDS = "text", "token_ids"
"""The names of the outputs."""


def _text(name: str, description: str) -> model_pb2.Feature:
    feature = model_pb2.Feature(name=name, type=model_pb2.FEATURE_TYPE_STRING, description=description)
    feature.default_value.string_value = ""
    return feature


def _raw() -> model_pb2.Feature:
    text = "Whether prompt is the very text that is continued, without the model's chat template."
    feature = model_pb2.Feature(name="raw", type=model_pb2.FEATURE_TYPE_BOOL, description=text)
    feature.default_value.bool_value = False
    return feature


FEATURES = (
    _text("prompt", "What the user says. Either this or messages is given."),
    _text("messages", 'A conversation: a JSON list of {"role": ..., "content": ...}, both texts.'),
    _raw(),
    _text("system", "A system message to begin the conversation with."),
)

OUTPUTS = (
    model_pb2.Output(name=TEXT, type=model_pb2.FEATURE_TYPE_STRING, description="The text that was generated."),
    model_pb2.Output(
        name=TOKEN_IDS, type=model_pb2.FEATURE_TYPE_INT64, shape=[-1], description="The ids of its tokens."
    ),
)


def put_answer(tokens: Sequence[Token], ending: Ending, response: inference_service_pb2.PredictResponse) -> None:
    """Puts a whole text, and how it ended, into an answer."""
    response.outputs[TEXT].string_value = "".join([token.text for token in tokens])
    ids = response.outputs[TOKEN_IDS].int64_array
    ids.SetInParent()
    ids.values.extend([token.id for token in tokens])
    put_ending(ending, response)


def put_ending(
    ending: Ending, message: inference_service_pb2.PredictResponse | inference_service_pb2.PredictToken
) -> None:
    """Puts how a generation ended into an answer, or a stream's final message."""
    message.finish_reason = ending.reason
    message.seed = ending.seed
    message.usage.prompt_tokens = ending.prompt_tokens
    message.usage.completion_tokens = ending.tokens
    timing = message.timing
    timing.queue_ms = ending.queue_seconds * 1e3
    timing.compute_ms = ending.compute_seconds * 1e3
    timing.batch_rows = ending.rows
    timing.time_to_first_token_ms = ending.first_seconds * 1e3
    timing.tokens_per_second = ending.rate
