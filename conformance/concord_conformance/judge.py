# SPDX-License-Identifier: Apache-2.0
"""Holds what came back against what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from concord_proto.conformance.v1 import suite_pb2
from concord_proto.inference.v1 import (
    inference_service_pb2,
    model_inference_pb2,
)
from concord_proto.recommender.v1 import recommender_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from concord_conformance import rules
from concord_conformance.bits import bits_class, to_bits
from concord_conformance.catalog import list_models_problems, model_problems
from concord_conformance.client import Exchange
from concord_conformance.compare import (
    Closeness,
    clip,
    feature_map_problems,
    float_map_problems,
    float_problem,
    json_problems,
    plain,
    tensor_map_problems,
)
from concord_conformance.fill import apply_fill
from concord_conformance.reflection import reflection_problems
from concord_conformance.stream import difference_problems, stream_problems, text_problems

__all__ = ["Alone", "exchange_problems", "step_problems"]

# Sends one request of a batch by itself: rpc and message of `bits`.
Alone = Callable[[str, Message], Exchange]

_HEALTH = inference_service_pb2.HealthCheckResponse
# Calls whose answers carry a request id, which the server makes where the request has none.
_ANSWERS: dict[str, type[Message]] = {
    "predict": inference_service_pb2.PredictResponse,
    "batch_predict": inference_service_pb2.BatchPredictResponse,
    "tensor_predict": model_inference_pb2.PredictionResponse,
    "tensor_batch_predict": model_inference_pb2.BatchPredictionResponse,
    "stream_predict": inference_service_pb2.PredictToken,
}
_NOTHING = suite_pb2.Expectation()
# What a library on either side may answer by itself, before or without the server's handlers.
_LIBRARY_CODES = frozenset({"DEADLINE_EXCEEDED", "CANCELLED"})


def step_problems(step: suite_pb2.Step, exchanges: Sequence[Exchange], alone: Alone) -> list[str]:
    """What does not hold of a step; empty if all does."""
    problems: list[str] = []
    if step.shares:
        return _share_problems(step.shares, exchanges, alone) + _repeated_ids(exchanges)
    for exchange in exchanges:
        found = exchange_problems(step.expect, exchange, alone)
        many = len(exchanges) > 1
        problems += [f"call {exchange.index}: {problem}" if many else problem for problem in found]
        if len(problems) > 20:
            break
    return problems + _repeated_ids(exchanges) + difference_problems(step.expect, exchanges)


def _share_problems(shares: Sequence[suite_pb2.Share], exchanges: Sequence[Exchange], alone: Alone) -> list[str]:
    """Each call is counted for the first share that it meets; the counts are within their bounds."""
    counts = [0] * len(shares)
    problems: list[str] = []
    for exchange in exchanges:
        best: list[str] = []
        for number, share in enumerate(shares):
            found = exchange_problems(share.expect, exchange, alone)
            if not found:
                counts[number] += 1
                break
            # The share of the call's own code says best what is wrong with it.
            if not best or exchange.code == (share.expect.code or "OK"):
                best = found
        else:
            problems += [f"call {exchange.index}: {problem}" for problem in best]
            if len(problems) > 20:
                break
    for number, share in enumerate(shares):
        most = share.at_most if share.HasField("at_most") else len(exchanges)
        if not share.at_least <= counts[number] <= most:
            problems.append(
                f"shares[{number}] ({share.expect.code or 'OK'}): expected {share.at_least} to {most} "
                f"of {len(exchanges)} calls, got {counts[number]}"
            )
    return problems


def exchange_problems(expect: suite_pb2.Expectation, exchange: Exchange, alone: Alone) -> list[str]:
    """What does not hold of one call."""
    accepted = expect.code or "OK"
    if exchange.code != accepted and exchange.code not in expect.other_allowed_codes:
        said = f": {exchange.message}" if exchange.message else ""
        others = "".join(f" or {code}" for code in expect.other_allowed_codes)
        return [f"code: expected {accepted}{others}, got {exchange.code}{said}"]
    problems: list[str] = []
    if exchange.details_broken:
        problems.append("details: cannot be read as google.rpc.Status")
    if exchange.code != "OK":
        optional = expect.details_optional or exchange.code in _LIBRARY_CODES
        if not optional or exchange.details is not None:
            problems += rules.status_problems(exchange.code, exchange.message, exchange.details)
        if exchange.code == accepted:
            problems += _error_problems(expect, exchange.message, exchange.details, optional)
        if exchange.rpc == "stream_predict":
            problems += stream_problems(expect if exchange.code == accepted else _NOTHING, exchange, alone)
    elif accepted == "OK":
        problems += _answer_problems(expect, exchange, alone)
    problems += _limit_problems(expect, exchange)
    return problems


def _limit_problems(expect: suite_pb2.Expectation, exchange: Exchange) -> list[str]:
    problems = []
    if expect.max_elapsed_ms and exchange.elapsed_ms > expect.max_elapsed_ms:
        problems.append(f"took {exchange.elapsed_ms:.0f} ms, expected at most {expect.max_elapsed_ms}")
    received = exchange.received_wire_bytes
    if received is not None and received > expect.max_received_wire_bytes:
        problems.append(f"the server sent {received} bytes, expected at most {expect.max_received_wire_bytes}")
    for trailer in expect.trailers:
        values = [value for key, value in exchange.trailers if key == trailer.key]
        texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
        if len(texts) != 1 or not re.fullmatch(trailer.pattern, texts[0]):
            problems.append(f"trailer {trailer.key}: expected one that matches {trailer.pattern!r}, got {texts}")
    if expect.forbidden:
        text = exchange.message + "".join(data.decode("utf-8", "replace") for data in exchange.responses)
        if exchange.details is not None:
            text += exchange.details.SerializeToString().decode("utf-8", "replace")
        problems += [f"{pattern!r} is in the answer" for pattern in expect.forbidden if re.search(pattern, text)]
    return problems


def _error_problems(
    expect: suite_pb2.Expectation, message: str, details: status_pb2.Status | None, optional: bool
) -> list[str]:
    problems = []
    if details is not None or not optional:
        infos, requests, _ = rules.unpack_details(details or status_pb2.Status())
        reason = infos[0].reason if infos else ""
        if expect.reason and reason != expect.reason:
            problems.append(f"reason: expected {expect.reason}, got {reason or 'none'}")
        if expect.error_metadata:
            got = dict(infos[0].metadata) if infos else {}
            if got != dict(expect.error_metadata):
                problems.append(f"ErrorInfo.metadata: expected {dict(expect.error_metadata)}, got {got}")
        if expect.violations:
            given = list(requests[0].field_violations) if requests else []
            wanted = [violation.field for violation in expect.violations]
            fields = [violation.field for violation in given]
            if fields != wanted:
                problems.append(f"violations: expected {wanted}, got {fields}")
            else:
                for index, (a, b) in enumerate(zip(expect.violations, given, strict=True)):
                    if a.description and a.description != b.description:
                        problems.append(f"violations[{index}]: expected {a.description!r}, got {b.description!r}")
    if expect.message and message != expect.message:
        problems.append(f"message: expected {expect.message!r}, got {message!r}")
    if expect.message_pattern and not re.fullmatch(expect.message_pattern, message, re.DOTALL):
        problems.append(f"message: expected to match {expect.message_pattern!r}, got {message!r}")
    return problems


def _answer_problems(expect: suite_pb2.Expectation, exchange: Exchange, alone: Alone) -> list[str]:
    try:
        match expect.WhichOneof("response") or exchange.rpc:
            case "predict":
                return _one(exchange) or _predict_problems(
                    expect, _read(exchange, inference_service_pb2.PredictResponse), exchange, exchange.index
                )
            case "tensor_predict":
                return _one(exchange) or _tensor_problems(
                    expect, _read(exchange, model_inference_pb2.PredictionResponse), exchange, exchange.index
                )
            case "batch" | "batch_predict" | "tensor_batch_predict":
                return _one(exchange) or _batch_problems(expect, exchange, alone)
            case "stream" | "stream_predict":
                return stream_problems(expect, exchange, alone)
            case "health" | "check" | "health_check" | "health_watch":
                return _health_problems(expect, exchange)
            case "model" | "get_model":
                return _one(exchange) or model_problems(expect, exchange)
            case "models" | "list_models":
                return list_models_problems(expect, exchange)
            case "recommend":
                return _one(exchange) or _recommend_problems(expect, exchange)
            case "reflection":
                return reflection_problems(expect, exchange)
            case _:
                return []
    except DecodeError:
        return ["the answer cannot be read as a message of its type"]


def _one(exchange: Exchange) -> list[str]:
    if len(exchange.responses) != 1:
        return [f"expected one message, got {len(exchange.responses)}"]
    return []


def _read(exchange: Exchange, message_class: type[Message]) -> Any:
    return bits_class(message_class).FromString(exchange.responses[0])


def _expected(expect: suite_pb2.Expectation, index: int) -> Any:
    message = to_bits(getattr(expect, expect.WhichOneof("response") or ""))
    for fill in expect.fills:
        apply_fill(message, fill, index)
    return message


def _closeness(expect: suite_pb2.Expectation) -> Closeness:
    return Closeness(expect.absolute_tolerance, expect.relative_tolerance, expect.any_nan)


def _predict_problems(expect: suite_pb2.Expectation, got: Any, exchange: Exchange, index: int) -> list[str]:
    """`got` is a PredictResponse of `bits`; `index` is that of the call or of the result in its batch."""
    problems = _common_problems(got, exchange)
    if expect.WhichOneof("response") != "predict":
        return problems
    wanted, closeness = _expected(expect, index), _closeness(expect)
    problems += float_map_problems("predictions", wanted.predictions, got.predictions, closeness)
    problems += feature_map_problems("outputs", wanted.outputs, got.outputs, closeness)
    return problems + text_problems(wanted, got) + _given_problems(wanted, got)


def _tensor_problems(expect: suite_pb2.Expectation, got: Any, exchange: Exchange, index: int) -> list[str]:
    problems = _common_problems(got, exchange)
    if expect.WhichOneof("response") != "tensor_predict":
        return problems
    wanted = _expected(expect, index)
    problems += tensor_map_problems("outputs", wanted.outputs, got.outputs, _closeness(expect))
    return problems + _given_problems(wanted, got)


def _common_problems(got: Any, exchange: Exchange) -> list[str]:
    return (
        rules.version_problems(got.model_version)
        + rules.timing_problems(got, exchange.elapsed_ms)
        + rules.echo_problems(got.request_id, exchange.request)
    )


def _given_problems(wanted: Any, got: Any) -> list[str]:
    """Fields that are compared where the case gives them."""
    problems = []
    for name in ("model_version", "request_id"):
        if getattr(wanted, name) and getattr(wanted, name) != getattr(got, name):
            problems.append(f"{name}: expected {clip(getattr(wanted, name))}, got {clip(getattr(got, name))}")
    if wanted.timing.batch_rows and wanted.timing.batch_rows != got.timing.batch_rows:
        problems.append(f"timing.batch_rows: expected {wanted.timing.batch_rows}, got {got.timing.batch_rows}")
    return problems


def _batch_problems(expect: suite_pb2.Expectation, exchange: Exchange, alone: Alone) -> list[str]:
    tensors = exchange.rpc == "tensor_batch_predict"
    kind: type[Message] = inference_service_pb2.BatchPredictResponse
    if tensors:
        kind = model_inference_pb2.BatchPredictionResponse
    results = list(_read(exchange, kind).results)
    requests: list[Message] = list(getattr(exchange.request, "requests", ())) if exchange.request is not None else []
    problems = []
    if requests and len(results) != len(requests):
        return [f"results: expected {len(requests)}, as many as requests, got {len(results)}"]
    given = list(expect.batch.results)
    for index, result in enumerate(results):
        item = given[index % len(given)] if given else suite_pb2.Expectation()
        request = requests[index] if requests else None
        found = _result_problems(item, bool(given), result, exchange, request, index, tensors)
        if expect.batch.equals_singles and request is not None:
            single = alone("tensor_predict" if tensors else "predict", request)
            found += _single_problems(result, single, tensors)
        problems += [f"results[{index}]: {problem}" for problem in found]
        if len(problems) > 10:
            break
    return problems


def _result_problems(
    expect: suite_pb2.Expectation,
    compared: bool,
    result: Any,
    batch: Exchange,
    request: Message | None,
    index: int,
    tensors: bool,
) -> list[str]:
    kind = result.WhichOneof("result")
    if kind is None:
        return ["holds neither a response nor an error"]
    item = Exchange(batch.rpc, index, request, elapsed_ms=batch.elapsed_ms)
    if kind == "response":
        if expect.code not in ("", "OK") and "OK" not in expect.other_allowed_codes:
            return [f"code: expected {expect.code}, got an answer"]
        judge = _tensor_problems if tensors else _predict_problems
        return judge(expect, result.response, item, index)
    status = status_pb2.Status.FromString(result.error.SerializeToString())
    code = next((code.name for code in grpc.StatusCode if code.value[0] == status.code), str(status.code))
    problems = []
    if code in rules.REASON_CODES.values():
        problems = rules.status_problems(code, status.message, status)
    else:
        problems.append(f"error: {code} is no code of an error here")
    if not compared:
        return problems
    accepted = expect.code or "OK"
    if code != accepted and code not in expect.other_allowed_codes:
        return [f"code: expected {accepted}, got {code}: {status.message}", *problems]
    if code == accepted:
        problems += _error_problems(expect, status.message, status, False)
    return problems


def _single_problems(result: Any, single: Exchange, tensors: bool) -> list[str]:
    """A result of a batch against the answer to the same request by itself."""
    kind = result.WhichOneof("result")
    if kind == "error":
        if single.code == "OK":
            return ["is an error, and by itself an answer"]
        error = status_pb2.Status.FromString(result.error.SerializeToString())
        wanted, given = _plain_status(single.details or status_pb2.Status()), _plain_status(error)
        return [f"{problem} (expected is the error by itself)" for problem in json_problems("error", wanted, given)]
    if single.code != "OK":
        return [f"is an answer, and by itself {single.code}: {single.message}"]
    response, exact = result.response, Closeness()
    if tensors:
        answer = _read(single, model_inference_pb2.PredictionResponse)
        problems = tensor_map_problems("outputs", answer.outputs, response.outputs, exact)
    else:
        answer = _read(single, inference_service_pb2.PredictResponse)
        problems = float_map_problems("predictions", answer.predictions, response.predictions, exact)
        problems += feature_map_problems("outputs", answer.outputs, response.outputs, exact)
        problems += text_problems(answer, response)
    if answer.model_version != response.model_version:
        problems.append(f"model_version: {response.model_version!r}, by itself {answer.model_version!r}")
    return [f"{problem} (expected is the answer by itself)" for problem in problems]


def _plain_status(status: status_pb2.Status) -> Any:
    """A status by what it says: the bytes of its details may hold a map in any order."""
    infos, requests, retries = rules.unpack_details(status)
    return {
        "code": status.code,
        "message": status.message,
        "info": [plain(info) for info in infos],
        "request": [plain(request) for request in requests],
        "retry": [bool(retry) for retry in retries],
        "details": len(status.details),
    }


def _health_problems(expect: suite_pb2.Expectation, exchange: Exchange) -> list[str]:
    names = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
    got = [names.get(s := _HEALTH.FromString(data).status, str(s)) for data in exchange.responses]
    if expect.WhichOneof("response") != "health":
        return []
    problems = []
    if got != list(expect.health.statuses):
        problems.append(f"health: expected {list(expect.health.statuses)}, got {got}")
    if expect.health.stays_open and not exchange.stayed_open:
        problems.append("health: the stream ended, expected it to stay open")
    return problems


def _recommend_problems(expect: suite_pb2.Expectation, exchange: Exchange) -> list[str]:
    got = _read(exchange, recommender_pb2.RecommendationResponse)
    if len(got.item_ids) != len(got.scores):
        return [f"{len(got.item_ids)} items, but {len(got.scores)} scores"]
    problems = rules.version_problems(got.model_version)
    if expect.WhichOneof("response") != "recommend":
        return problems
    wanted = _expected(expect, exchange.index)
    if list(wanted.item_ids) != list(got.item_ids):
        return [*problems, f"item_ids: expected {list(wanted.item_ids)}, got {list(got.item_ids)}"]
    for index, (a, b) in enumerate(zip(wanted.scores, got.scores, strict=False)):
        problems += float_problem(f"scores[{index}]", a, b, _closeness(expect))
    return problems


def _repeated_ids(exchanges: Sequence[Exchange]) -> list[str]:
    """Generated request ids never come twice, over calls and within a batch."""
    made: list[str] = []
    for exchange in exchanges:
        kind = _ANSWERS.get(exchange.rpc)
        if kind is None or exchange.code != "OK" or not exchange.responses or exchange.request is None:
            continue
        try:
            answer = _read(exchange, kind)
        except DecodeError:
            continue
        request: Any = exchange.request
        if hasattr(request, "requests"):
            pairs = [
                (one, result.response)
                for one, result in zip(request.requests, answer.results, strict=False)
                if result.WhichOneof("result") == "response"
            ]
        else:
            pairs = [(request, answer)]
        made += [response.request_id for one, response in pairs if not one.request_id]
    return [] if len(set(made)) == len(made) else ["request_id: a generated id came twice"]
