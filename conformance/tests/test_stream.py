# SPDX-License-Identifier: Apache-2.0
"""Streams of a fake server that does one thing wrong at a time: the judge sees each, and nothing else."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from concord_conformance.client import Client
from concord_conformance.judge import step_problems
from concord_conformance.play import Player, Stage
from concord_conformance.suite import SuiteError, parse_suite
from concord_proto.conformance.v1 import suite_pb2
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import timing_pb2
from fake_server import PREDICT, STREAM, FakeServer, abort, details
from google.protobuf import json_format


def problems(client: Client, call: dict[str, Any], expect: dict[str, Any]) -> list[str]:
    step = json_format.ParseDict({"call": call, "expect": expect}, suite_pb2.Step())
    return step_problems(step, client.perform(step), client.alone)


STREAM_CALL = {"stream_predict": {"model_id": "chat", "request_id": "r"}}


def tokens(count: int = 2) -> list[Any]:
    made = [
        service.PredictToken(token=f"t{i}", token_index=i, token_id=i + 10, request_id="r", model_version="1")
        for i in range(count)
    ]
    final = service.PredictToken(
        is_final=True,
        token_index=count,
        request_id="r",
        model_version="1",
        finish_reason=service.FINISH_REASON_STOP,
        usage=service.Usage(prompt_tokens=4, completion_tokens=count),
        timing=timing_pb2.Timing(batch_rows=1),
    )
    return [*made, final]


USAGE = {"prompt_tokens": 4, "completion_tokens": 2}
STREAM_EXPECT = {
    "stream": {
        "messages": [
            {"token": "t0", "token_id": "10"},
            {"token": "t1", "token_id": "11", "token_index": 1},
            {"is_final": True, "token_index": 2, "finish_reason": "FINISH_REASON_STOP", "usage": USAGE},
        ]
    }
}


def test_streams(server: FakeServer, client: Client) -> None:
    given = tokens()
    server.handlers[STREAM] = lambda data, context: [token.SerializeToString() for token in given]
    assert problems(client, STREAM_CALL, STREAM_EXPECT) == []
    assert problems(client, STREAM_CALL, {}) == []
    for change, says in (
        (lambda made: made[:-1], "is_final: expected True"),
        (lambda made: [*made, made[-1]], "is_final: expected False"),
        (lambda made: [made[1], made[0], made[2]], "token_index: expected 0"),
        (lambda made: made[1:], "token_index"),
        (lambda made: [], "without a final message"),
    ):
        given = change(tokens())
        found = problems(client, STREAM_CALL, {})
        assert any(says in problem for problem in found), (says, found)
    given = tokens()
    given[0].token, given[1].token_id, given[2].usage.completion_tokens = "x", 5, 9
    given[2].usage.prompt_tokens, given[2].finish_reason, given[2].token = 3, 2, "z"
    found = problems(client, STREAM_CALL, STREAM_EXPECT)
    for says in ("messages[0].token:", "token_id", "completion_tokens", "prompt_tokens", "finish_reason", "no token"):
        assert any(says in problem for problem in found), (says, found)


def sent(server: FakeServer, given: list[Any], error: Any = None) -> None:
    """Makes StreamPredict send these, and end with an error if one is given."""

    def stream(data: bytes, context: Any) -> Iterator[bytes]:
        yield from (token.SerializeToString() for token in given)
        if error is not None:
            abort(context, error)

    server.handlers[STREAM] = stream


def test_what_a_stream_says_too_early_or_not_at_all(server: FakeServer, client: Client) -> None:
    def timing(made: list[Any]) -> None:
        made[0].timing.batch_rows = 1

    def usage(made: list[Any]) -> None:
        made[0].usage.prompt_tokens = 4

    def reason(made: list[Any]) -> None:
        made[1].finish_reason = service.FINISH_REASON_STOP

    def seed(made: list[Any]) -> None:
        made[1].seed = 5

    def no_timing(made: list[Any]) -> None:
        made[2].ClearField("timing")

    def late(made: list[Any]) -> None:
        made[2].timing.time_to_first_token_ms = 1e7

    def rate(made: list[Any]) -> None:
        made[2].timing.tokens_per_second = float("inf")

    def identity(made: list[Any]) -> None:
        made[2].token_id = 3

    def other(made: list[Any]) -> None:
        made[1].request_id = "s"

    for change, says in (
        (timing, "timing: is set before"),
        (usage, "usage: is set before"),
        (reason, "finish_reason: is set before"),
        (seed, "seed: is set before"),
        (no_timing, "timing: is not set"),
        (late, "time_to_first_token_ms"),
        (rate, "tokens_per_second"),
        (identity, "expected no token"),
        (other, "request_id"),
    ):
        given = tokens()
        change(given)
        sent(server, given)
        found = problems(client, STREAM_CALL, {})
        assert any(says in problem for problem in found), (says, found)


def test_contents(server: FakeServer, client: Client) -> None:
    sent(server, tokens())
    good = {
        "text": "t0t1",
        "token_ids": [10, 11],
        "token_count": 2,
        "finish_reason": "FINISH_REASON_STOP",
        "usage": USAGE,
        "seed": 0,
    }
    assert problems(client, STREAM_CALL, {"stream": good}) == []
    for name, wrong, says in (
        ("text", "t0", "text: expected"),
        ("token_ids", [10], "token_ids: expected"),
        ("token_count", 3, "expected 3 tokens, got 2"),
        ("finish_reason", "FINISH_REASON_LENGTH", "expected FINISH_REASON_LENGTH, got FINISH_REASON_STOP"),
        ("usage", {"prompt_tokens": 4}, "usage.completion_tokens"),
        ("seed", 1, "seed: expected 1, got 0"),
    ):
        found = problems(client, STREAM_CALL, {"stream": {**good, name: wrong}})
        assert [says in problem for problem in found] == [True], (name, found)
    begins = {"text": "t0t1t2", "token_ids": [10, 11, 12], "beginning": True}
    assert problems(client, STREAM_CALL, {"stream": begins}) == []
    assert problems(client, STREAM_CALL, {"stream": {**begins, "text": "t0x"}})


FAILED = details(grpc.StatusCode.INTERNAL, "the model failed", "MODEL_EXECUTION_FAILED")


def test_what_came_before_an_error(server: FakeServer, client: Client) -> None:
    expect = {"code": "INTERNAL", "stream": {"text": "t0t1", "token_count": 2}}
    sent(server, tokens()[:2], FAILED)
    assert problems(client, STREAM_CALL, expect) == []
    sent(server, tokens()[:1], FAILED)
    assert any("expected 2 tokens, got 1" in problem for problem in problems(client, STREAM_CALL, expect))
    sent(server, tokens(), FAILED)
    assert any("is_final: expected False" in problem for problem in problems(client, STREAM_CALL, expect))
    sent(server, [], FAILED)
    assert problems(client, STREAM_CALL, {"code": "INTERNAL"}) == []


def test_predict_says_the_same(server: FakeServer, client: Client) -> None:
    sent(server, tokens())
    response = service.PredictResponse(
        request_id="r",
        model_version="1",
        finish_reason=service.FINISH_REASON_STOP,
        usage=service.Usage(prompt_tokens=4, completion_tokens=2),
    )
    response.outputs["text"].string_value = "t0t1"
    response.outputs["token_ids"].int64_array.values.extend([10, 11])
    server.handlers[PREDICT] = lambda data, context: response.SerializeToString()
    expect = {"stream": {"equals_predict": True}}
    assert problems(client, STREAM_CALL, expect) == []
    response.seed = 3
    assert any("seed" in problem for problem in problems(client, STREAM_CALL, expect))
    response.seed = 0
    response.outputs["text"].string_value = "t0"
    assert any("by Predict" in problem for problem in problems(client, STREAM_CALL, expect))
    response.outputs["label"].string_value = "x"
    assert any("outputs: expected" in problem for problem in problems(client, STREAM_CALL, expect))


def test_how_many_differ(server: FakeServer, client: Client) -> None:
    number = itertools.count()
    lock = threading.Lock()

    def stream(data: bytes, context: Any) -> Iterator[bytes]:
        made = tokens()
        with lock:
            made[0].token_id = next(number) // 2
        yield from (token.SerializeToString() for token in made)

    server.handlers[STREAM] = stream
    call = {**STREAM_CALL, "repeat": 4}
    assert problems(client, call, {"stream": {"least_different": 2, "most_different": 2}}) == []
    assert "at least 3" in problems(client, call, {"stream": {"least_different": 3}})[0]
    assert "at most 1" in problems(client, call, {"stream": {"most_different": 1}})[0]


def test_unread_until_told(server: FakeServer, client: Client) -> None:
    """Nothing is read before the step says so; a stream that ends meanwhile, or is cancelled, holds up nothing."""
    sent(server, tokens())
    call = {**STREAM_CALL, "unread": True}
    steps = [
        {"call": call, "background": "late", "expect": {"stream": {"text": "t0t1"}}},
        {"call": STREAM_CALL, "expect": {}, "while_running": ["late"]},
        {"read": "late"},
        {"await": "late"},
        {"call": call, "background": "never", "expect": {"code": "CANCELLED"}},
        {"call": STREAM_CALL, "expect": {}, "while_running": ["never"]},
        {"cancel": "never"},
        {"await": "never"},
    ]
    given = [json_format.ParseDict(step, suite_pb2.Step()) for step in steps]
    assert Player(Stage(client, "")).play(given) == []
    sent(server, tokens()[:1], FAILED)
    expect = {"code": "INTERNAL", "stream": {"token_count": 1}}
    failing = [{"call": call, "background": "failing", "expect": expect}, {"read": "failing"}]
    assert Player(Stage(client, "")).play([json_format.ParseDict(step, suite_pb2.Step()) for step in failing]) == []


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("call: {predict: {model_id: x}, unread: true}, expect: {}", "unread: is for streams only"),
        ("read: nobody", "no background call 'nobody'"),
    ],
)
def test_cases_that_are_wrong(step: str, says: str) -> None:
    text = (
        f"profile: stream\nlevel: LEVEL_MUST\ncases:\n  - id: stream.x\n    description: x\n    steps: [{{{step}}}]\n"
    )
    with pytest.raises(SuiteError, match=says):
        parse_suite(text, "x.yaml")
