# SPDX-License-Identifier: Apache-2.0
"""The vectors of conformance/generate/prompts.json, and what must hold for all prompts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from concord_proto.inference.v1 import inference_service_pb2
from concord_server.fault import Fault, Reason
from concord_server.generate.prompt import Prompt, read_prompt
from concord_server.generate.tokenizer import TokenizerError
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

VECTORS = Path(__file__).parents[3] / "conformance" / "generate" / "prompts.json"


def features_of(data: Any) -> Any:
    return json_format.ParseDict({"features": data}, inference_service_pb2.PredictRequest()).features


def test_prompts() -> None:
    cases = json.loads(VECTORS.read_text("utf-8"))
    assert len(cases) > 100
    for case in cases:
        features = features_of(case["features"])
        before = dict(features)
        if "violations" not in case:
            want = Prompt(case.get("messages", ""), case.get("raw", ""))
            assert read_prompt(features)._replace(said="") == want, case
            assert dict(features) == before
            continue
        with pytest.raises(Fault) as raised:
            read_prompt(features)
        violations = [violation._asdict() for violation in raised.value.violations]
        assert violations == case["violations"], case
        more = len(violations) - 1 + case.get("more", 0)
        assert raised.value.message == violations[0]["message"] + (f" (and {more} more)" if more else "")
        assert raised.value.reason == violations[0]["reason"]


class Refusing:
    """A token for each character; refuses what it is told to."""

    def __init__(self, template: str = "", encode: str = "") -> None:
        self._template, self._encode = template, encode

    def template(self, messages: str) -> str:
        if self._template:
            raise TokenizerError(self._template)
        return messages

    def encode(self, text: str) -> list[int]:
        if self._encode:
            raise TokenizerError(self._encode)
        return [0] * len(text)

    def stream(self) -> Any: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("prompt", "tokenizer", "reason", "message"),
    [
        (
            Prompt(raw="abcd"),
            Refusing(),
            Reason.PROMPT_TOO_LONG,
            'feature "prompt": expected at most 3 tokens, the chat template\'s included, got 4',
        ),
        (
            Prompt(messages="abcde"),
            Refusing(),
            Reason.PROMPT_TOO_LONG,
            'feature "prompt": expected at most 3 tokens, the chat template\'s included, got 5',
        ),
        (Prompt(), Refusing(), Reason.PROMPT_INVALID, 'feature "prompt": expected at least one token, got none'),
        (
            Prompt(messages="a"),
            Refusing(template="no\nsuch role in /tmp/x"),
            Reason.PROMPT_INVALID,
            'feature "messages": the model\'s chat template refuses it: no such role in <...>',
        ),
        (
            Prompt(raw="a"),
            Refusing(encode="bad"),
            Reason.PROMPT_INVALID,
            'feature "prompt": the model\'s tokenizer refuses it: bad',
        ),
    ],
)
def test_tokens_refused(prompt: Prompt, tokenizer: Refusing, reason: Reason, message: str) -> None:
    with pytest.raises(Fault) as raised:
        prompt.tokens(tokenizer, 4)
    assert (raised.value.reason, raised.value.message) == (reason, message)


def test_tokens() -> None:
    assert Prompt(raw="abc").tokens(Refusing(), 4) == [0, 0, 0]
    assert Prompt(messages="abc").tokens(Refusing(), 4) == [0, 0, 0]


TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))


@given(st.lists(st.tuples(TEXTS.filter(bool), TEXTS), min_size=1), st.booleans())
def test_any_conversation(said: list[tuple[str, str]], escaped: bool) -> None:
    conversation = [{"role": role, "content": content} for role, content in said]
    features = {"messages": inference_service_pb2.FeatureValue()}
    features["messages"].string_value = json.dumps(conversation, ensure_ascii=escaped)
    assert json.loads(read_prompt(features).messages) == conversation


@given(st.text(st.sampled_from('[]{}":,\\ \n1ue0rolcntd-.')))
def test_any_text(text: str) -> None:
    """Whatever it is, it is a prompt or a fault."""
    features = {"messages": inference_service_pb2.FeatureValue(string_value=text)}
    try:
        assert read_prompt(features).messages
    except Fault as fault:
        refused = fault
    else:
        return
    assert refused.reason is Reason.PROMPT_INVALID


@pytest.mark.parametrize(
    "text", ['"\\' * 300_000, '["' + "\\\\" * 300_000 + "\\", '[{"' * 300_000, "[" + '"",' * 300_000]
)
def test_hostile_texts_take_the_time_of_reading_them(text: str) -> None:
    features = {"messages": inference_service_pb2.FeatureValue(string_value=text)}
    begin = time.process_time()
    with pytest.raises(Fault):
        read_prompt(features)
    assert time.process_time() - begin < 20  # what looks back would take hours


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" x" * 16384, None),
        (" x" * 16384 + "x", "PROMPT_TOO_LONG"),
        ("é" * 4096, None),
        ("é" * 4097, "PROMPT_INVALID"),
        ("7" * 4097, "PROMPT_INVALID"),
        ("_" * 4097, "PROMPT_INVALID"),
        (" " * 30000, None),
        ("x" * 4096 + "1" + "y" * 4096, None),
    ],
    ids=range(8),
)
def test_texts_that_are_not_worth_reading(text: str, reason: str | None) -> None:
    class Tokenizer:
        def template(self, messages: str) -> str:
            return text

        def encode(self, text: str) -> list[int]:
            return [1]

    for prompt in (Prompt(raw=text), Prompt(messages="[]", said=text)):
        if reason is None:
            assert prompt.tokens(Tokenizer(), 512) == [1]  # type: ignore[arg-type]
            continue
        with pytest.raises(Fault) as raised:
            prompt.tokens(Tokenizer(), 512)  # type: ignore[arg-type]
        assert raised.value.reason == reason
