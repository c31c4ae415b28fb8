# SPDX-License-Identifier: Apache-2.0
"""The rules that hold for every answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from concord_conformance import rules
from concord_conformance.bits import float_bits, to_bits
from concord_proto.inference.v1 import errors_pb2
from concord_proto.inference.v1 import inference_service_pb2 as service
from fake_server import details
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

PROTO = Path(__file__).resolve().parents[2] / "proto" / "inference" / "v1" / "errors.proto"
NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT


def test_reasons_and_codes_are_those_of_the_contract() -> None:
    text = PROTO.read_text(encoding="utf-8")
    stated = {
        reason: code
        for code, reason in re.findall(
            r"// \[([A-Z_]+)\][^\n]*\n(?:\s*//[^\n]*\n)*\s*ERROR_REASON_([A-Z0-9_]+) = \d+;", text
        )
    }
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    assert stated == rules.REASON_CODES
    assert names - {"UNSPECIFIED"} == set(rules.REASON_CODES)


GOOD = details(NOT_FOUND, 'model "x" not found', "MODEL_NOT_FOUND")
BAD_INPUT = details(INVALID, "x: bad", "FEATURE_MISSING", fields=[("x", "x: bad")])


def test_good_statuses_have_no_problems() -> None:
    assert rules.status_problems("NOT_FOUND", 'model "x" not found', GOOD) == []
    assert rules.status_problems("INVALID_ARGUMENT", "x: bad", BAD_INPUT) == []
    two = details(INVALID, "a (and 1 more)", "FEATURE_MISSING", fields=[("x", "a"), ("y", "b")])
    assert rules.status_problems("INVALID_ARGUMENT", "a (and 1 more)", two) == []
    retried = details(grpc.StatusCode.UNAVAILABLE, "m", "MODEL_LOADING", retry=True)
    assert rules.status_problems("UNAVAILABLE", "m", retried) == []
    malformed = details(INVALID, "m", "REQUEST_MALFORMED", fields=[("", "m")])
    assert rules.status_problems("INVALID_ARGUMENT", "m", malformed) == []


def with_two_infos() -> status_pb2.Status:
    status = status_pb2.Status()
    status.CopyFrom(GOOD)
    extra = any_pb2.Any()
    extra.Pack(error_details_pb2.ErrorInfo(reason="MODEL_NOT_FOUND", domain="concord"))
    status.details.append(extra)
    return status


@pytest.mark.parametrize(
    ("code", "message", "status", "says"),
    [
        ("NOT_FOUND", "m", None, "has no details"),
        ("INTERNAL", 'model "x" not found', GOOD, "details: code"),
        ("NOT_FOUND", "other", GOOD, "details: message"),
        ("NOT_FOUND", 'model "x" not found', with_two_infos(), "exactly one ErrorInfo"),
        ("NOT_FOUND", "m", status_pb2.Status(code=5, message="m"), "exactly one ErrorInfo"),
        ("NOT_FOUND", "m", details(NOT_FOUND, "m", "MODEL_NOT_FOUND", domain="other"), "domain"),
        ("NOT_FOUND", "m", details(NOT_FOUND, "m", "NO_SUCH_REASON"), "is none of the contract"),
        ("NOT_FOUND", "m", details(NOT_FOUND, "m", "UNSPECIFIED"), "is none of the contract"),
        ("NOT_FOUND", "m", details(NOT_FOUND, "m", "INTERNAL"), "belongs to INTERNAL"),
        ("NOT_FOUND", "m", details(NOT_FOUND, "m", "MODEL_NOT_FOUND", fields=[]), "input is not at fault"),
        ("NOT_FOUND", "m", details(NOT_FOUND, "m", "MODEL_NOT_FOUND", retry=True), "a retry does not help"),
        ("INVALID_ARGUMENT", "m", details(INVALID, "m", "FEATURE_MISSING"), "one BadRequest"),
        ("INVALID_ARGUMENT", "m", details(INVALID, "m", "FEATURE_MISSING", fields=[]), "holds no violation"),
        ("INVALID_ARGUMENT", "m", details(INVALID, "m", "FEATURE_MISSING", fields=[("", "m")]), "names no field"),
        ("INVALID_ARGUMENT", "m", details(INVALID, "m", "FEATURE_MISSING", fields=[("x", "")]), "no description"),
        (
            "INVALID_ARGUMENT",
            "m",
            details(INVALID, "m", "FEATURE_MISSING", fields=[("x", "n")]),
            "that of the violation",
        ),
        (
            "INVALID_ARGUMENT",
            "m",
            details(INVALID, "m", "FEATURE_MISSING", fields=[("x", "m"), ("y", "n")]),
            "how many follow",
        ),
        (
            "INVALID_ARGUMENT",
            "m (and 1 more)",
            details(INVALID, "m (and 1 more)", "FEATURE_MISSING", fields=[("x", "m"), ("y", "n"), ("z", "o")]),
            "how many follow",
        ),
        (
            "INVALID_ARGUMENT",
            "m (and 16 more)",
            details(INVALID, "m (and 16 more)", "FEATURE_MISSING", fields=[(f"f{i}", "m") for i in range(17)]),
            "at most 16",
        ),
        ("UNAVAILABLE", "m", details(grpc.StatusCode.UNAVAILABLE, "m", "MODEL_LOADING"), "one RetryInfo"),
        ("RESOURCE_EXHAUSTED", "m", details(grpc.StatusCode.RESOURCE_EXHAUSTED, "m", "QUEUE_FULL"), "one RetryInfo"),
        (
            "NOT_FOUND",
            "m",
            details(NOT_FOUND, "m", "MODEL_NOT_FOUND", metadata={"model_id": "in /srv/models/x"}),
            "a path",
        ),
    ],
)
def test_bad_statuses_are_found(code: str, message: str, status: status_pb2.Status | None, says: str) -> None:
    problems = rules.status_problems(code, message, status)
    assert any(says in problem for problem in problems), problems


def test_details_may_be_missing_where_a_case_says_so() -> None:
    assert rules.status_problems("RESOURCE_EXHAUSTED", "m", None, details_optional=True) == []


@pytest.mark.parametrize(
    "text",
    [
        "cannot open /srv/models/x/1/model.onnx",
        "at C:\\models\\x",
        "freed 0x7f00deadbeef twice",
        "Traceback (most recent call last):",
        "goroutine 12 [running]:",
        "line 12, in run",
    ],
)
def test_paths_addresses_and_stacks_are_found(text: str) -> None:
    assert rules.forbidden_text(text) != []


@pytest.mark.parametrize(
    "text",
    [
        "inference.v1.ModelInference/Predict is not served here",
        'model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got "/etc/passwd"',
        'no service or model "models/../x" here',
        "idx=9 must be within the inclusive range [-4,3]",
        "Status Message: <...> failed",
        "read 3/4 of it, and/or more",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert rules.forbidden_text(text) == []


def response(**changes: Any) -> Any:
    made = service.PredictResponse(latency_ms=2)
    made.timing.batch_rows = 1
    bits: Any = to_bits(made)
    for name, value in changes.items():
        if name == "latency_ms":
            bits.latency_ms = value
        else:
            setattr(bits.timing, name, value)
    return bits


def test_sane_times() -> None:
    assert rules.timing_problems(response(queue_ms=float_bits(1), compute_ms=float_bits(0.5)), 3) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"latency_ms": float_bits(-1)}, "latency_ms"),
        ({"latency_ms": 0x7FC00000}, "latency_ms"),
        ({"latency_ms": 0x7F800000}, "latency_ms"),
        ({"latency_ms": float_bits(2000)}, "the client waited only"),
        ({"queue_ms": float_bits(-0.5)}, "queue_ms"),
        ({"compute_ms": float_bits(2000)}, "compute_ms"),
        ({"batch_rows": 0}, "batch_rows"),
    ],
)
def test_times_that_cannot_be(changes: dict[str, int], says: str) -> None:
    problems = rules.timing_problems(response(**changes), 3)
    assert any(says in problem for problem in problems), problems


def test_missing_timing_is_found() -> None:
    assert rules.timing_problems(to_bits(service.PredictResponse(latency_ms=1)), 3) == ["timing: is not set"]


@pytest.mark.parametrize(
    ("version", "good"), [("1", True), ("10", True), ("", False), ("01", False), ("stable", False)]
)
def test_answers_name_a_number(version: str, good: bool) -> None:
    assert (rules.version_problems(version) == []) is good
