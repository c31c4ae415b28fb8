# SPDX-License-Identifier: Apache-2.0
"""Texts against their truth: each fault of a stream is told."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import timing_pb2
from concord_soak.connection import Outcome
from concord_soak.texts import TextCase, beginning_problem, table_request, text_cases

CASE = TextCase("two", service.PredictRequest(model_id="m"), "ab", (10, 11), service.FINISH_REASON_STOP, 4, 7)
Change = Callable[[list[service.PredictToken]], object]


def messages() -> list[service.PredictToken]:
    made = [
        service.PredictToken(token=word, token_id=index + 10, token_index=index, request_id="r")
        for index, word in enumerate("ab")
    ]
    final = service.PredictToken(
        is_final=True,
        token_index=2,
        request_id="r",
        finish_reason=service.FINISH_REASON_STOP,
        seed=7,
        usage=service.Usage(prompt_tokens=4, completion_tokens=2),
        timing=timing_pb2.Timing(batch_rows=1),
    )
    return [*made, final]


def problem(made: list[service.PredictToken], code: str = "OK") -> str:
    outcome = Outcome(code, 0.0, 1.0, messages=[message.SerializeToString() for message in made])
    return CASE.stream_problem("r", outcome)


def test_a_right_stream() -> None:
    assert problem(messages()) == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.pop(),
        lambda made: made.pop(0),
        lambda made: made.reverse(),
        lambda made: setattr(made[0], "token", "x"),
        lambda made: setattr(made[0], "token_id", 9),
        lambda made: setattr(made[1], "request_id", "s"),
        lambda made: setattr(made[2], "seed", 8),
        lambda made: setattr(made[2], "finish_reason", service.FINISH_REASON_LENGTH),
        lambda made: setattr(made[2].usage, "prompt_tokens", 5),
        lambda made: setattr(made[2].usage, "completion_tokens", 1),
        lambda made: made[2].ClearField("timing"),
    ],
)
def test_what_is_wrong_with_a_stream_is_told(change: Change) -> None:
    made = messages()
    change(made)
    assert problem(made)


def test_an_error_in_place_of_a_stream_is_told() -> None:
    assert "expected a stream" in problem(messages(), "INTERNAL")
    assert "none" in CASE.stream_problem("r", Outcome("OK", 0.0, 1.0, messages=[b"\xff"]))


def test_answers_of_predict() -> None:
    answer = service.PredictResponse(
        request_id="r",
        finish_reason=service.FINISH_REASON_STOP,
        seed=7,
        usage=service.Usage(prompt_tokens=4, completion_tokens=2),
    )
    answer.outputs["text"].string_value = "ab"
    answer.outputs["token_ids"].int64_array.values.extend([10, 11])
    assert CASE.answer_problem("r", Outcome("OK", 0.0, 1.0, answer.SerializeToString())) == ""
    answer.outputs["text"].string_value = "a"
    assert CASE.answer_problem("r", Outcome("OK", 0.0, 1.0, answer.SerializeToString()))
    assert CASE.answer_problem("s", Outcome("OK", 0.0, 1.0, answer.SerializeToString()))
    assert CASE.answer_problem("r", Outcome("OK", 0.0, 1.0, b"\xff"))
    assert CASE.answer_problem("r", Outcome("INTERNAL", 0.0, 1.0))


def test_beginnings() -> None:
    cut = [message.SerializeToString() for message in messages()[:1]]
    assert beginning_problem("cut", "ab", "r", cut) == ""
    assert beginning_problem("cut", "", "r", []) == ""
    assert beginning_problem("cut", "b", "r", cut)
    assert beginning_problem("cut", "ab", "s", cut)


def test_the_cases_are_those_of_the_suite() -> None:
    cases = text_cases(random.Random(1))
    assert len(cases) > 40
    assert {case.finish for case in cases} == {1, 2, 3}
    assert any(case.seed for case in cases)
    assert all(case.text and case.token_ids for case in cases if case.finish == service.FINISH_REASON_LENGTH)
    request = service.PredictRequest.FromString(table_request("Z", 5, "r"))
    assert (request.features["prompt"].string_value, request.config.max_tokens) == ("Z", 5)
