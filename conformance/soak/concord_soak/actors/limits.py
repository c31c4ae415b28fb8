# SPDX-License-Identifier: Apache-2.0
"""What is cut short: cancels at random moments, deadlines that pass, bursts of more than the queue holds."""

from __future__ import annotations

import asyncio
import math

from concord_proto.inference.v1 import inference_service_pb2 as service

from concord_soak.connection import Outcome
from concord_soak.truth import PREDICT, PREDICT_BATCH, answer_problem
from concord_soak.world import Turn, actor

# The model of the bursts has a queue of its own; other models' queues never fill.
FLOOD, FLOOD_ROWS = "flood", 8
_BURST = 48
_ONE = service.PredictResponse(model_version="1", predictions={"y": 1.0}).SerializeToString(deterministic=True)


def slow_request(model_id: str, turns: int, request_id: str) -> service.PredictRequest:
    """A request to the fixture that loops `turns` times, about a microsecond each, and answers 1."""
    return service.PredictRequest(
        model_id=model_id, request_id=request_id, features={"n": service.FeatureValue(int64_value=turns)}
    )


def _judge(turn: Turn, outcome: Outcome, request_id: str, instead: str, deadline: float = math.inf) -> None:
    """An answer is right whenever it comes; else it is `instead`."""
    if outcome.code == "OK":
        if problem := answer_problem(service.PredictResponse, request_id, _ONE, outcome.data, "slow"):
            turn.wrong(problem)
    elif outcome.code == "CANCELLED" and not outcome.reason and outcome.seconds >= deadline:
        # grpc-go ends a stream at its deadline by RST_STREAM; a client that is not there yet takes it for a cancel.
        turn.saw("deadlines that looked like cancels")
    elif outcome.code != instead or outcome.reason not in ("", instead):
        turn.wrong(f"slow: expected an answer or {instead}, got {outcome}")
    else:
        turn.saw(instead)


@actor(copies=2, pause=0.05, needs=["CANCELLED"])
async def cancels(turn: Turn) -> None:
    """The caller goes away: before it is sent, in the queue, while it runs, or too late."""
    request_id = turn.request_id()
    request = slow_request("slow", turn.rng.choice([10, 1000, 100_000]), request_id)
    path, data = PREDICT, request.SerializeToString()
    batch = turn.rng.random() < 0.3
    if batch:
        path, data = PREDICT_BATCH, service.BatchPredictRequest(requests=[request] * 5).SerializeToString()
    after = turn.rng.choice([0.0, 0.0005, 0.002, 0.01, 0.05])
    outcome = await turn.connection().unary(path, data, cancel_after=after)
    if not batch:
        _judge(turn, outcome, request_id, "CANCELLED")
    elif outcome.code not in ("OK", "CANCELLED"):
        turn.wrong(f"a batch: expected an answer or CANCELLED, got {outcome}")


@actor(copies=2, pause=0.05, needs=["DEADLINE_EXCEEDED"])
async def deadlines(turn: Turn) -> None:
    """The time runs out, or nearly."""
    request_id = turn.request_id()
    request = slow_request("slow", turn.rng.choice([10, 1000, 100_000]), request_id)
    deadline = turn.rng.choice([0.0005, 0.002, 0.01, 0.05])
    outcome = await turn.connection().unary(PREDICT, request.SerializeToString(), deadline=deadline)
    # grpc rounds a deadline up or down on its way.
    _judge(turn, outcome, request_id, "DEADLINE_EXCEEDED", deadline * 0.9)


@actor(pause=1.0, needs=["QUEUE_FULL", "answers within a burst"])
async def bursts(turn: Turn) -> None:
    """Many more at once than the queue of `flood` holds: some are answered, the others told when to come back."""
    ids = [turn.request_id() for _ in range(_BURST)]
    connections = [turn.connection() for _ in ids]
    outcomes = await asyncio.gather(
        *(
            connection.unary(PREDICT, slow_request(FLOOD, 5000, request_id).SerializeToString())
            for connection, request_id in zip(connections, ids, strict=True)
        )
    )
    answered = 0
    for outcome, request_id in zip(outcomes, ids, strict=True):
        if outcome.code == "OK":
            answered += 1
            if problem := answer_problem(service.PredictResponse, request_id, _ONE, outcome.data, FLOOD):
                turn.wrong(problem)
            turn.saw("answers within a burst")
        elif turn.expect(outcome, "RESOURCE_EXHAUSTED", "QUEUE_FULL", "a burst"):
            turn.saw("QUEUE_FULL")
            if not outcome.retry or not outcome.pushback_ms.isdecimal():
                turn.wrong(
                    "QUEUE_FULL: expected RetryInfo and grpc-retry-pushback-ms, "
                    f"got retry {outcome.retry} and {outcome.pushback_ms!r}"
                )
    if answered < min(FLOOD_ROWS, _BURST):
        turn.wrong(
            f"a burst of {_BURST}: the queue holds {FLOOD_ROWS} rows, so at least as many answers, got {answered}"
        )
