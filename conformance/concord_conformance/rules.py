# SPDX-License-Identifier: Apache-2.0
"""The rules that hold for every answer of a server, so that no case need say them (docs/contract.md, "Errors")."""

from __future__ import annotations

import math
import re
from typing import Any

import grpc
from concord_proto.inference.v1 import errors_pb2
from google.rpc import error_details_pb2, status_pb2

from concord_conformance.bits import float_value
from concord_conformance.compare import clip

__all__ = ["REASON_CODES", "echo_problems", "forbidden_text", "status_problems", "timing_problems", "version_problems"]

# The code that each reason comes with: the brackets in proto/inference/v1/errors.proto.
REASON_CODES = {
    "MODEL_NOT_FOUND": "NOT_FOUND",
    "VERSION_NOT_FOUND": "NOT_FOUND",
    "LABEL_NOT_FOUND": "NOT_FOUND",
    "MODEL_ID_INVALID": "INVALID_ARGUMENT",
    "MODEL_VERSION_INVALID": "INVALID_ARGUMENT",
    "FEATURE_MISSING": "INVALID_ARGUMENT",
    "FEATURE_UNKNOWN": "INVALID_ARGUMENT",
    "FEATURE_TYPE_MISMATCH": "INVALID_ARGUMENT",
    "FEATURE_SHAPE_MISMATCH": "INVALID_ARGUMENT",
    "FEATURE_OUT_OF_RANGE": "INVALID_ARGUMENT",
    "TENSOR_MISSING": "INVALID_ARGUMENT",
    "TENSOR_UNKNOWN": "INVALID_ARGUMENT",
    "TENSOR_DTYPE_MISMATCH": "INVALID_ARGUMENT",
    "TENSOR_SHAPE_MISMATCH": "INVALID_ARGUMENT",
    "TENSOR_DATA_INVALID": "INVALID_ARGUMENT",
    "OUTPUT_UNKNOWN": "INVALID_ARGUMENT",
    "CONFIG_INVALID": "INVALID_ARGUMENT",
    "BATCH_EMPTY": "INVALID_ARGUMENT",
    "BATCH_TOO_LARGE": "INVALID_ARGUMENT",
    "REQUEST_MALFORMED": "INVALID_ARGUMENT",
    "METHOD_NOT_SUPPORTED": "FAILED_PRECONDITION",
    "MODEL_FAILED": "FAILED_PRECONDITION",
    "MODEL_LOADING": "UNAVAILABLE",
    "SERVER_DRAINING": "UNAVAILABLE",
    "QUEUE_FULL": "RESOURCE_EXHAUSTED",
    "MESSAGE_TOO_LARGE": "RESOURCE_EXHAUSTED",
    "OUTPUT_TOO_LARGE": "RESOURCE_EXHAUSTED",
    "STREAM_LIMIT": "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED": "DEADLINE_EXCEEDED",
    "CANCELLED": "CANCELLED",
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "PERMISSION_DENIED": "PERMISSION_DENIED",
    "MODEL_EXECUTION_FAILED": "INTERNAL",
    "INTERNAL": "INTERNAL",
    "METHOD_UNIMPLEMENTED": "UNIMPLEMENTED",
    "SERVICE_NOT_FOUND": "NOT_FOUND",
    "LABEL_INVALID": "INVALID_ARGUMENT",
    "VERSION_EXISTS": "ALREADY_EXISTS",
    "STAGING_UNSET": "FAILED_PRECONDITION",
    "PROMPT_TOO_LONG": "INVALID_ARGUMENT",
    "PROMPT_INVALID": "INVALID_ARGUMENT",
}

_REASONS = frozenset(name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name)
_DOMAIN = "concord"
_RETRIED_REASONS = frozenset({"QUEUE_FULL"})
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_FORBIDDEN = {
    "a path": re.compile(r"(?<![\w./<])/(?:[\w.+@-]+/)*[\w.+@-]+|(?<!\w)[A-Za-z]:\\"),
    "an address": re.compile(r"0x[0-9a-fA-F]{6,}"),
    "a stack": re.compile(r"Traceback \(most recent|\bline \d+, in \b|goroutine \d+ \[|\.go:\d+ \+0x"),
}
_VERSION = re.compile(r"[1-9][0-9]*")
_SLACK_MS = 1.0


def forbidden_text(text: str) -> list[str]:
    """What a text holds that no answer may hold: a path, an address, a stack. Quoted parts are the caller's words."""
    bare = _QUOTED.sub('""', text)
    return [f"{what} in {text[:200]!r}" for what, pattern in _FORBIDDEN.items() if pattern.search(bare)]


def status_problems(
    code: str, message: str, details: status_pb2.Status | None, *, details_optional: bool = False
) -> list[str]:
    """What is wrong with an error status, by the rules alone. `details` is None where none came."""
    problems = forbidden_text(message)
    if details is None:
        if not details_optional:
            problems.append("the status has no details")
        return problems
    wanted = getattr(grpc.StatusCode, code).value[0]
    if details.code != wanted:
        problems.append(f"details: code is {details.code}, the status's is {wanted}")
    if details.message != message:
        problems.append(f"details: message is {details.message!r}, the status's is {message!r}")
    infos, requests, retries = unpack_details(details)
    if len(infos) != 1:
        problems.append(f"details: expected exactly one ErrorInfo, got {len(infos)}")
    reason = infos[0].reason if infos else ""
    for info in infos:
        if info.domain != _DOMAIN:
            problems.append(f"ErrorInfo.domain: expected {_DOMAIN!r}, got {info.domain!r}")
        if info.reason not in REASON_CODES or info.reason not in _REASONS:
            problems.append(f"ErrorInfo.reason: {info.reason!r} is none of the contract")
        elif REASON_CODES[info.reason] != code:
            problems.append(f"ErrorInfo.reason: {info.reason} belongs to {REASON_CODES[info.reason]}, not to {code}")
        for value in info.metadata.values():
            problems += forbidden_text(value)
    problems += _violation_problems(code, message, requests, reason)
    retry_wanted = code == "UNAVAILABLE" or reason in _RETRIED_REASONS
    if retry_wanted and len(retries) != 1:
        problems.append(f"details: expected one RetryInfo, got {len(retries)}")
    if not retry_wanted and retries:
        problems.append("details: RetryInfo, but a retry does not help")
    for retry in retries:
        if retry.retry_delay.ToNanoseconds() < 0:
            problems.append("RetryInfo.retry_delay: is negative")
    return problems


def unpack_details(
    details: status_pb2.Status,
) -> tuple[list[error_details_pb2.ErrorInfo], list[error_details_pb2.BadRequest], list[error_details_pb2.RetryInfo]]:
    """The details that the contract knows, by kind."""
    infos: list[error_details_pb2.ErrorInfo] = []
    requests: list[error_details_pb2.BadRequest] = []
    retries: list[error_details_pb2.RetryInfo] = []
    for detail in details.details:
        for kind, found in (
            (error_details_pb2.ErrorInfo, infos),
            (error_details_pb2.BadRequest, requests),
            (error_details_pb2.RetryInfo, retries),
        ):
            if detail.Is(kind.DESCRIPTOR):
                unpacked = kind()
                detail.Unpack(unpacked)
                found.append(unpacked)
    return infos, requests, retries


def _violation_problems(
    code: str, message: str, requests: list[error_details_pb2.BadRequest], reason: str
) -> list[str]:
    if code != "INVALID_ARGUMENT":
        return ["details: BadRequest, but the input is not at fault"] if requests else []
    if len(requests) != 1:
        return [f"details: expected one BadRequest, got {len(requests)}"]
    violations = requests[0].field_violations
    if not violations:
        return ["BadRequest: holds no violation"]
    problems = []
    for violation in violations:
        # Bytes that are no message have no fields.
        if not violation.field and reason != "REQUEST_MALFORMED":
            problems.append("BadRequest: a violation names no field")
        if not violation.description:
            problems.append(f"BadRequest: the violation of {violation.field!r} has no description")
        problems += forbidden_text(violation.description)
    if len(violations) > 16:
        problems.append(f"BadRequest: expected at most 16 violations, got {len(violations)}")
    first = violations[0].description
    if len(violations) == 1:
        if message != first:
            problems.append(f"message: expected that of the violation, {first!r}, got {message!r}")
    else:
        tail = re.fullmatch(r" \(and (\d+) more\)", message.removeprefix(first))
        if not message.startswith(first) or tail is None or int(tail[1]) < len(violations) - 1:
            problems.append(
                f"message: expected the first violation's and how many follow, "
                f"{first + f' (and {len(violations) - 1} more)'!r}, got {message!r}"
            )
    return problems


def timing_problems(response: Any, elapsed_ms: float) -> list[str]:
    """What is wrong with the times of a PredictResponse or PredictionResponse (a message of `bits`)."""
    problems = []
    if not response.HasField("timing"):
        return ["timing: is not set"]
    times = {
        "timing.queue_ms": response.timing.queue_ms,
        "timing.compute_ms": response.timing.compute_ms,
        "timing.time_to_first_token_ms": response.timing.time_to_first_token_ms,
    }
    if "latency_ms" in response.DESCRIPTOR.fields_by_name:
        times["latency_ms"] = response.latency_ms
    for name, bits in times.items():
        value = float_value(bits)
        if not math.isfinite(value) or value < 0:
            problems.append(f"{name}: expected a finite number of at least 0, got {value}")
        elif value > elapsed_ms * 1.01 + _SLACK_MS:
            problems.append(f"{name}: {value} ms, but the client waited only {elapsed_ms:.3f} ms")
    rate = float_value(response.timing.tokens_per_second)
    if not math.isfinite(rate) or rate < 0:
        problems.append(f"timing.tokens_per_second: expected a finite number of at least 0, got {rate}")
    if response.timing.batch_rows < 1:
        problems.append(f"timing.batch_rows: expected at least 1, got {response.timing.batch_rows}")
    return problems


def echo_problems(request_id: str, request: Any) -> list[str]:
    """An answer has its request's id, or one that the server made. `request` is None where it is not known."""
    asked = getattr(request, "request_id", "") if request is not None else ""
    if asked and request_id != asked:
        return [f"request_id: expected {clip(asked)} as sent, got {clip(request_id)}"]
    return [] if request_id else ["request_id: none was sent, and none was made"]


def version_problems(version: str) -> list[str]:
    """An answer names the number of the version that gave it."""
    return [] if _VERSION.fullmatch(version) else [f"model_version: expected a version's number, got {version!r}"]
