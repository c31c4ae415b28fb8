# SPDX-License-Identifier: Apache-2.0
"""Texts, token by token: whole ones, callers who leave, callers who do not read."""

from __future__ import annotations

from concord_soak.connection import Outcome
from concord_soak.texts import beginning_problem, table_request
from concord_soak.truth import PREDICT, STREAM
from concord_soak.world import Turn, actor

# So many that nobody sees the end.
_ENDLESS = 90_000
_KANA = 600


@actor(copies=4, pause=0.05, needs=["texts checked", "texts of Predict checked"])
async def texts(turn: Turn) -> None:
    """A text of tiny-chat, greedy or sampled, as a stream or whole."""
    case, request_id = turn.rng.choice(turn.world.text_cases), turn.request_id()
    if turn.rng.random() < 0.7:
        outcome = await turn.connection().stream(STREAM, case.data(request_id))
        problem, note = case.stream_problem(request_id, outcome), "texts checked"
    else:
        outcome = await turn.connection().unary(PREDICT, case.data(request_id))
        problem, note = case.answer_problem(request_id, outcome), "texts of Predict checked"
    if problem:
        turn.wrong(problem)
    else:
        turn.saw(note)


@actor(copies=2, pause=0.1, needs=["texts that were left", "texts that ran out of time"])
async def leavers(turn: Turn) -> None:
    """A text without an end: the caller goes, or its time does, before the first token or long after."""
    request_id = turn.request_id()
    data, after = table_request("Z", _ENDLESS, request_id), turn.rng.choice([0.0005, 0.005, 0.05, 0.3])
    if turn.rng.random() < 0.6:
        outcome = await turn.connection().stream(STREAM, data, cancel_after=after)
        allowed: tuple[str, ...] = ("CANCELLED",)
        note = "texts that were left"
    else:
        outcome = await turn.connection().stream(STREAM, data, deadline=after)
        # grpc-go ends a stream at its deadline by RST_STREAM; a client that is not there yet takes it for a cancel.
        allowed, note = ("DEADLINE_EXCEEDED", "CANCELLED"), "texts that ran out of time"
    _judge(turn, outcome, allowed, note, "Z" * len(outcome.messages), request_id)


@actor(copies=2, pause=0.2, needs=["texts read late"])
async def late_readers(turn: Turn) -> None:
    """A caller who does not read for a while, and then finds all of it; or leaves without having read."""
    request_id = turn.request_id()
    data = table_request("J", _KANA, request_id)
    if turn.rng.random() < 0.2:
        outcome = await turn.connection().stream(STREAM, data, read_after=5.0, cancel_after=turn.rng.random())
        _judge(turn, outcome, ("CANCELLED",), "texts never read", "こ" * _KANA, request_id)
        return
    outcome = await turn.connection().stream(STREAM, data, read_after=turn.rng.random() * 2)
    problem = beginning_problem("late", "こ" * _KANA, request_id, outcome.messages)
    if outcome.code != "OK" or len(outcome.messages) != _KANA + 1 or problem:
        turn.wrong(problem or f"late: expected {_KANA} tokens, got {len(outcome.messages) - 1} and {outcome}")
    else:
        turn.saw("texts read late")


@actor(pause=0.3, needs=["prompts too long", "texts that failed midway"])
async def bad_texts(turn: Turn) -> None:
    """Prompts that do not fit, and a text on which ONNX Runtime fails, beside all the others."""
    request_id = turn.request_id()
    if turn.rng.random() < 0.5:
        outcome = await turn.connection().stream(STREAM, table_request(" x" * 100_000, 1, request_id))
        if turn.expect(outcome, "INVALID_ARGUMENT", "PROMPT_TOO_LONG", "a prompt of 200000 tokens"):
            turn.saw("prompts too long")
        return
    outcome = await turn.connection().stream(STREAM, table_request("5", 0, request_id))
    if turn.expect(outcome, "INTERNAL", "MODEL_EXECUTION_FAILED", "a token that fails"):
        problem = beginning_problem("a token that fails", "6789~", request_id, outcome.messages)
        if problem or len(outcome.messages) != 5:
            turn.wrong(problem or f"a token that fails: expected 5 tokens before, got {len(outcome.messages)}")
        else:
            turn.saw("texts that failed midway")


def _judge(turn: Turn, outcome: Outcome, allowed: tuple[str, ...], note: str, text: str, request_id: str) -> None:
    """A text that ends by its caller, with nothing wrong in what came before."""
    if outcome.code not in allowed or outcome.reason not in ("", *allowed):
        turn.wrong(f"{note}: expected {' or '.join(allowed)}, got {outcome}")
    elif problem := beginning_problem(note, text, request_id, outcome.messages):
        turn.wrong(problem)
    else:
        turn.saw(note)
