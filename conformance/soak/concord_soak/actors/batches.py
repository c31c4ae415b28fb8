# SPDX-License-Identifier: Apache-2.0
"""Batches: many good requests of several models, with bad ones in between that must fail alone."""

from __future__ import annotations

from typing import Any

from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import model_inference_pb2 as tensor_service
from google.protobuf.message import DecodeError

from concord_soak.connection import reason_of
from concord_soak.truth import PREDICT_BATCH, TENSOR_BATCH, Case, response_problem
from concord_soak.world import Turn, actor

# What stands in a batch that is no case: a request that fails, and its reason.
_UNKNOWN = service.PredictRequest(model_id="nobody")
_FAILS = service.PredictRequest(model_id="fail", features={"index": service.FeatureValue(int64_value=7)})
_BAD = ((_UNKNOWN, "MODEL_NOT_FOUND"), (_FAILS, "MODEL_EXECUTION_FAILED"))


@actor(copies=2, pause=0.1, needs=["bad rows that failed alone"])
async def batches(turn: Turn) -> None:
    """Up to 60 rows in a call."""
    rows: list[tuple[Case | None, str, str]] = []
    batch = service.BatchPredictRequest()
    for _ in range(turn.rng.randint(1, 60)):
        request_id = turn.request_id()
        if turn.rng.random() < 0.05:
            bad, reason = turn.rng.choice(_BAD)
            batch.requests.add().CopyFrom(bad)
            rows.append((None, reason, request_id))
            continue
        case = turn.rng.choice(turn.world.feature_cases)
        batch.requests.add().MergeFromString(case.with_id(request_id))
        rows.append((case, "", request_id))
    outcome = await turn.connection().unary(PREDICT_BATCH, batch.SerializeToString())
    if outcome.code != "OK":
        turn.wrong(f"a batch of {len(rows)}: expected answers, got {outcome}")
        return
    _judge(turn, service.BatchPredictResponse, outcome.data, rows)


@actor(pause=0.15)
async def tensor_batches(turn: Turn) -> None:
    """Up to 20 sets of tensors in a call."""
    rows: list[tuple[Case | None, str, str]] = []
    batch = tensor_service.BatchPredictionRequest()
    for _ in range(turn.rng.randint(1, 20)):
        request_id = turn.request_id()
        case = turn.rng.choice(turn.world.tensor_cases)
        batch.requests.add().MergeFromString(case.with_id(request_id))
        rows.append((case, "", request_id))
    outcome = await turn.connection().unary(TENSOR_BATCH, batch.SerializeToString())
    if outcome.code != "OK":
        turn.wrong(f"a batch of {len(rows)} sets of tensors: expected answers, got {outcome}")
        return
    _judge(turn, tensor_service.BatchPredictionResponse, outcome.data, rows)


def _judge(turn: Turn, kind: Any, data: bytes, rows: list[tuple[Case | None, str, str]]) -> None:
    try:
        results = kind.FromString(data).results
    except DecodeError:
        turn.wrong(f"expected a {kind.DESCRIPTOR.name}, got {len(data)} bytes that are none")
        return
    if len(results) != len(rows):
        turn.wrong(f"expected {len(rows)} results, got {len(results)}")
        return
    for index, (result, (case, reason, request_id)) in enumerate(zip(results, rows, strict=True)):
        which = result.WhichOneof("result")
        if case is None:
            got = reason_of(result.error)[0] if which == "error" else which
            if got != reason:
                turn.wrong(f"row {index} of {len(rows)}: expected {reason}, got {got}")
            else:
                turn.saw("bad rows that failed alone")
        elif which != "response":
            turn.wrong(f"row {index} of {len(rows)}, {case.name}: expected an answer, got {result.error}")
        elif problem := response_problem(result.response, request_id, case.answer, case.name):
            turn.wrong(f"row {index} of {len(rows)}: {problem}")
        else:
            turn.saw("answers checked")
