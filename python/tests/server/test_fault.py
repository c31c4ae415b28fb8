# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import pytest
from concord_proto.inference.v1 import errors_pb2
from concord_server import fault
from concord_server.fault import Fault, Reason, Violation, quote, scrub, shown
from concord_server.server.status import TABLE, code_of, status_of
from google.rpc import error_details_pb2

PROTO = Path(__file__).parents[3] / "proto/inference/v1/errors.proto"


def test_reasons_are_those_of_the_contract() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    assert {str(reason) for reason in Reason} == names - {"UNSPECIFIED"}


def test_every_reason_has_the_code_that_the_contract_says() -> None:
    by_reason = {
        reason: code
        for code, reason in re.findall(r"// \[([A-Z_]+)\][^=]*?ERROR_REASON_([A-Z_]+) =", PROTO.read_text())
    }
    assert by_reason == {str(reason): row.code.name for reason, row in TABLE.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mean radius", '"mean radius"'),
        ('say "hi"\\\n\t\r\b\f\x01', '"say \\"hi\\"\\\\\\n\\t\\r\\b\\f\\u0001"'),
        ("größe ✓ </>&\u2028", '"größe ✓ </>&\u2028"'),
        ("n" * 64, '"' + "n" * 64 + '"'),
        ("é" * 65, '"' + "é" * 64 + '"...'),
        ("", '""'),
    ],
)
def test_quote(text: str, expected: str) -> None:
    assert quote(text) == expected


def test_shown_cuts_characters_not_bytes() -> None:
    assert shown("日" * 64) == "日" * 64
    assert shown("日" * 65) == "日" * 64 + "..."


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("plain text", "plain text"),
        ("cannot read /srv/models/x.onnx now", "cannot read <...> now"),
        ("C:\\models\\x at 0x7FFEab12", "<...> at <...>"),
        ("  two\nlines\tand  more ", "two lines and more"),
        ("a" * 400, "a" * 300),
        ("lone \udcff surrogate", "lone ? surrogate"),
    ],
)
def test_scrub(message: str, expected: str) -> None:
    assert scrub(message) == expected


def violations(count: int, name: str = "f") -> list[Violation]:
    return [Violation(Reason.FEATURE_MISSING, f"features[{i}]", f"{name}{i}: expected it") for i in range(count)]


def test_all_violations_are_counted_and_sixteen_reported() -> None:
    made = fault.from_violations(violations(20))
    assert made.message == "f0: expected it (and 19 more)"
    assert len(made.violations) == 16
    assert fault.from_violations(violations(1)).message == "f0: expected it"


def unpack(made: Fault) -> tuple[error_details_pb2.ErrorInfo, list[object]]:
    status = status_of(made)
    assert status.code == code_of(made).value[0]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info, list(status.details[1:])


def test_status_names_a_model_only_where_it_is_well_formed() -> None:
    info, rest = unpack(Fault(Reason.VERSION_NOT_FOUND, "no").at("m", "7"))
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "VERSION_NOT_FOUND",
        "concord",
        {"model_id": "m", "model_version": "7"},
    )
    assert not rest
    assert dict(unpack(Fault(Reason.MODEL_NOT_FOUND, "no").at("a/b", "7"))[0].metadata) == {}
    assert dict(unpack(Fault(Reason.MODEL_NOT_FOUND, "no").at("m", "9" * 200))[0].metadata) == {"model_id": "m"}


def test_a_model_once_named_stays() -> None:
    assert Fault(Reason.MODEL_FAILED, "no").at("m", "1").at("other", "2").model_version == "1"


def test_status_of_bad_input_has_a_violation_each() -> None:
    _, (packed,) = unpack(fault.from_violations(violations(2)))
    bad = error_details_pb2.BadRequest()
    assert packed.Unpack(bad)  # type: ignore[attr-defined]
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("features[0]", "f0: expected it"),
        ("features[1]", "f1: expected it"),
    ]


def test_status_fits_into_headers_whatever_the_names() -> None:
    made = fault.from_violations(violations(16, name="\x01" * 400))
    assert status_of(made).ByteSize() < 8 << 10
    bad = error_details_pb2.BadRequest()
    assert status_of(made).details[1].Unpack(bad)
    assert 1 <= len(bad.field_violations) < 16


def test_status_says_when_to_retry() -> None:
    retry = error_details_pb2.RetryInfo()
    for reason, seconds in ((Reason.SERVER_DRAINING, 1.0), (Reason.QUEUE_FULL, 0.1)):
        _, (packed,) = unpack(Fault(reason, "later"))
        assert packed.Unpack(retry)  # type: ignore[attr-defined]
        assert retry.retry_delay.ToTimedelta().total_seconds() == pytest.approx(seconds)


def test_a_defect_stays_hidden() -> None:
    made = fault.internal(ValueError("secret"))
    assert made.message == "internal error"
    assert "secret" not in str(status_of(made))
