# SPDX-License-Identifier: Apache-2.0
"""The loader: strict about YAML, the schema, and what the schema cannot say."""

from __future__ import annotations

from pathlib import Path

import pytest
from concord_conformance.suite import PROFILES, SuiteError, load_suites, parse_suite
from concord_proto.conformance.v1 import suite_pb2

CASES = Path(__file__).resolve().parent.parent / "cases"

GOOD = """
profile: core
level: LEVEL_MUST
cases:
  - id: core.one
    description: It answers.
    steps:
      - call: {predict: {model_id: identity, features: {x: {float_value: 1}}}}
        expect: {predict: {predictions: {y: 1}}}
"""


def with_case(lines: str) -> str:
    """A suite whose one step is `lines`."""
    return (
        f"profile: core\nlevel: LEVEL_MUST\ncases:\n  - id: core.one\n    description: d\n    steps:\n      - {lines}\n"
    )


def test_a_good_file_is_read() -> None:
    suite = parse_suite(GOOD, "good.yaml")
    (case,) = suite.cases
    assert (case.id, case.profile, case.level) == ("core.one", "core", suite_pb2.LEVEL_MUST)
    assert case.steps[0].call.predict.features["x"].float_value == 1
    assert suite.probe is None


def test_a_case_may_override_the_level() -> None:
    suite = parse_suite(GOOD.replace("description: It", "level: LEVEL_MAY\n    description: It"), "good.yaml")
    assert suite.cases[0].level == suite_pb2.LEVEL_MAY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("profile: [", "while parsing"),
        ("- a", "expected a mapping"),
        ("profile: core\nprofile: core\n", "key 'profile' is there twice"),
        (GOOD.replace("profile: core", "profile: nonsense"), "profile: expected one of core"),
        (GOOD.replace("level: LEVEL_MUST\n", ""), "level: is not set"),
        (GOOD.replace("LEVEL_MUST", "must"), "LEVEL|level"),
        (GOOD.replace("profile: core", "profile: core\nsurprise: 1"), 'no field named "surprise"'),
        (GOOD.replace("model_id", "modelid"), 'case core.one.*no field named "modelid"'),
        (GOOD.replace("description: It answers.", "descripton: It answers."), "descripton"),
        (GOOD.replace("description: It answers.", "description: ''"), "description: is not set"),
        (GOOD.replace("id: core.one", "id: batch.one"), "id: expected core"),
        (GOOD.replace("id: core.one", "id: core"), "id: expected core"),
        (GOOD.replace("id: core.one", "id: core.One"), "id: expected core"),
        (GOOD.replace("float_value: 1", "float_value: ~"), "has no value"),
        (GOOD.replace("float_value: 1", "float_value:"), "has no value"),
        (GOOD.replace("float_value: 1", "float_value: 1.0e39"), "too large"),
        (GOOD.replace("float_value: 1", "float_value: yes"), "core.one"),
        (GOOD.replace("model_id: identity", "model_id: 01x").replace("float_value: 1", "float_value: 01x"), "core.one"),
        (GOOD.split("cases:")[0] + "cases: []", "cases: expected a list"),
        (GOOD + GOOD.split("cases:")[1], "the id is there twice"),
        (with_case("expect: {}"), "call: names no method"),
        (with_case("call: {predict: {}}"), "expect: is not set"),
        (with_case("{call: {predict: {}}, expect: {code: NOT_THERE}}"), "is no status code"),
        (with_case("{call: {predict: {}}, expect: {code: OK, other_allowed_codes: [x]}}"), "is no status code"),
        (with_case("{call: {predict: {}}, expect: {code: NOT_FOUND, reason: NOBODY}}"), "is no reason"),
        (with_case("{call: {predict: {}}, expect: {reason: MODEL_NOT_FOUND}}"), "expects none"),
        (with_case("{call: {predict: {}}, expect: {code: NOT_FOUND, message_pattern: '('}}"), "unterminated"),
        (with_case("{call: {predict: {}}, expect: {forbidden: ['[']}}"), "unterminated"),
        (with_case("{call: {predict: {}, append_hex: 0g}, expect: {}}"), "hexadecimal"),
        (with_case("{call: {raw: {method: /a/b, hex: abc}}, expect: {}}"), "hexadecimal"),
        (with_case("{call: {predict: {}, append_pieces: [{hex: q}]}, expect: {}}"), "hexadecimal"),
        (with_case("{call: {predict: {}, fills: [{path: '', hex: aa}]}, expect: {}}"), "path: is empty"),
        (with_case("{call: {predict: {}, fills: [{path: 'a b', hex: aa}]}, expect: {}}"), "cannot be read"),
        (with_case("{call: {predict: {}, repeat: -1}, expect: {}}"), "expected at least 0"),
        (with_case("{call: {predict: {}, batch_size: 3}, expect: {}}"), "is for batches only"),
        (with_case("{call: {predict: {}}, expect: {relative_tolerance: -1}}"), "a tolerance is negative"),
        (with_case("{call: {check: {}}, expect: {health: {statuses: [FINE]}}}"), "is no health status"),
        (
            with_case("{call: {batch_predict: {}}, expect: {batch: {results: [{code: WHAT}]}}}"),
            r"batch.results\[0\].*is no status code",
        ),
    ],
)
def test_bad_files_are_refused(text: str, says: str) -> None:
    with pytest.raises(SuiteError, match=f"(?s)bad.yaml.*({says})"):
        parse_suite(text, "bad.yaml")


def test_plain_scalars_are_those_of_json() -> None:
    text = GOOD.replace("model_id: identity", "model_id: identity, model_version: on, request_id: 2026-01-01")
    request = parse_suite(text, "good.yaml").cases[0].steps[0].call.predict
    assert (request.model_version, request.request_id) == ("on", "2026-01-01")


def test_an_id_may_be_in_one_file_only(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "b.yaml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(SuiteError, match=r"b.yaml: case core.one: the id is in a.yaml already"):
        load_suites(tmp_path)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="holds no"):
        load_suites(tmp_path)


def test_the_committed_cases_are_read() -> None:
    suites = load_suites(CASES)
    cases = [case for suite in suites for case in suite.cases]
    assert len(cases) >= 200
    assert {suite.profile for suite in suites} <= set(PROFILES)
    assert {"core", "batch", "health", "version", "ops", "security"} <= {suite.profile for suite in suites}


def test_committed_messages_name_no_place_of_a_machine() -> None:
    for file in CASES.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert "/home/" not in text
        assert "/tmp/" not in text
