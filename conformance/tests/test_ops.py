# SPDX-License-Identifier: Apache-2.0
"""The cases of profile ops against a small server that keeps them, and against it with one fault: each is noticed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from concord_conformance.metrics import MetricsError, metrics_problems, parse_metrics
from concord_conformance.scratch import Scratch, ScratchError
from concord_conformance.suite import SuiteError, parse_suite
from concord_proto.conformance.v1 import report_pb2, suite_pb2
from fake_engine import FAULTS
from fake_server import FakeServer
from google.protobuf import json_format

ENGINE = Path(__file__).resolve().parent / "fake_engine.py"
CASES = Path(__file__).resolve().parent.parent / "cases"
FIXTURES = CASES.parent / "fixtures"
SECONDS = 110
# What the fake engine can do of the profile.
KEPT = (
    "ops.deadline.on_arrival",
    "ops.deadline.in_queue",
    "ops.deadline.server_maximum",
    "ops.cancel.queued_never_runs",
    "ops.cancel.queued_frees_place",
    "ops.cancel.running_frees_executor",
    "ops.overload.queue_full",
    "ops.overload.burst",
    "ops.reload.no_gap",
    "ops.reload.bad_new_keeps_old",
    "ops.reload.half_written",
    "ops.drain.in_flight",
    "ops.drain.grace_over",
)


# Bounds that only a server at fault reaches, so short that a test can wait for them.
SHORT = """
import concord_conformance.client, concord_conformance.play
concord_conformance.client.LONGEST_CALL_SECONDS = 12
concord_conformance.play.BOUND_SECONDS = 4
"""
MAIN = "import concord_conformance.__main__; concord_conformance.__main__.main()"


def run(
    tmp_path: Path, fault: str, cases: tuple[str, ...], *target: str
) -> tuple[int, dict[str, report_pb2.CaseResult], str]:
    """Runs committed cases; gives the exit code, results by id and what was printed."""
    directory = tmp_path / "cases"
    directory.mkdir()
    for file in CASES.glob("ops_*.yaml"):
        text = file.read_text(encoding="utf-8")
        if fault != "none":
            text = text.replace("repeat: 20, deadline_ms: 20000", "deadline_ms: 1000")
        (directory / file.name).write_text(text, encoding="utf-8")
    engine = ("--", sys.executable, str(ENGINE), "--models", "{models}", "--config", "{config}", "--fault", fault)
    done = subprocess.run(
        [
            *(sys.executable, "-c", MAIN if fault == "none" else SHORT + MAIN),
            *("--cases", str(directory), "--report", str(tmp_path / "report")),
            *(part for case in cases for part in ("--case", case)),
            *(target or engine),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    text = (tmp_path / "report" / "report.json").read_text(encoding="utf-8")
    report = json_format.Parse(text, report_pb2.Report())
    return done.returncode, {result.id: result for result in report.results}, done.stdout + done.stderr


def test_a_server_that_keeps_them_passes(tmp_path: Path) -> None:
    code, results, said = run(tmp_path, "none", KEPT)
    assert code == 0, said
    assert {results[case].outcome for case in KEPT} == {report_pb2.OUTCOME_PASSED}


NOTICED = {
    "runs expired": ("ops.deadline.in_queue", "inference_batch_rows_count"),
    "runs cancelled": ("ops.cancel.queued_never_runs", "inference_batch_rows_count"),
    "loses places": ("ops.cancel.queued_frees_place", "inference_queue_rows"),
    "says no pushback": ("ops.overload.queue_full", "trailer grpc-retry-pushback-ms"),
    "never refuses": ("ops.overload.burst", "expected 1 to 40 of 40 calls, got 0"),
    "health waits": ("ops.overload.health", "code: expected OK, got DEADLINE_EXCEEDED"),
    "swaps answers": ("ops.batching.no_crosstalk", 'predictions["y"]'),
    "metrics lie": ("ops.deadline.in_queue", "expected at least 1 more than before, got 0"),
    "loads halves": ("ops.reload.half_written", 'predictions["y"]'),
    "bad replaces old": ("ops.reload.bad_new_keeps_old", "code: expected OK, got FAILED_PRECONDITION"),
    "fails in a swap": ("ops.reload.no_gap", "code: expected OK, got UNAVAILABLE"),
    "no maximum": ("ops.deadline.server_maximum", "longest time for a request passed: 500 ms"),
    "drops work": ("ops.drain.in_flight", "expected OK"),
    "no word before the end": ("ops.drain.in_flight", "step "),
    "ends badly": ("ops.drain.in_flight", "exit code: expected 0, got 4"),
}


def test_every_fault_has_its_case() -> None:
    assert set(NOTICED) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_fault_is_noticed(tmp_path: Path, fault: str) -> None:
    case, says = NOTICED[fault]
    code, results, said = run(tmp_path, fault, (case,))
    assert code == 1, said
    assert results[case].outcome == report_pb2.OUTCOME_FAILED
    assert any(says in problem for problem in results[case].problems), list(results[case].problems)


def test_somebody_elses_server(server: FakeServer, tmp_path: Path) -> None:
    """Without the process, cases that need one are skipped, counted and named; so are those about metrics."""
    wanted = ("ops.batching.no_crosstalk", "ops.drain.in_flight", "ops.drain.delay", "ops.metrics.requests")
    code, results, said = run(tmp_path, "none", wanted, "--target", server.address)
    assert code == 0, said
    assert "skipped 2: needs a server of its own: with --target the runner starts none: " in said
    assert "ops.drain.delay ops.drain.in_flight" in said
    assert "skipped 1: needs the server's metrics" in said
    assert "--metrics is not given: ops.metrics.requests" in said
    assert results["ops.batching.no_crosstalk"].outcome == report_pb2.OUTCOME_PASSED
    assert results["ops.drain.delay"].outcome == report_pb2.OUTCOME_SKIPPED


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--models", str(FIXTURES), "--config", "{config}"), "the command has no {models}"),
        (("--models", "{models}", "--config", os.devnull), "the command has no {config}"),
    ],
)
def test_a_command_without_places(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    engine = ("--", sys.executable, str(ENGINE), *arguments)
    if os.devnull in arguments:
        empty = tmp_path / "empty.json"
        empty.write_text("{}", encoding="utf-8")
        engine = tuple(str(empty) if part == os.devnull else part for part in engine)
    code, results, said = run(tmp_path, "none", ("ops.drain.in_flight", "ops.batching.no_crosstalk"), *engine)
    assert code == 0, said
    assert says in said
    assert results["ops.drain.in_flight"].outcome == report_pb2.OUTCOME_SKIPPED


# --- metrics

TEXT = """# HELP calls_total calls
# TYPE calls_total counter
calls_total{code="OK",model="a"} 3.0
calls_total{code="OK",model="b"} 4.0
# HELP took took
# TYPE took histogram
took_bucket{le="0.5",model="a"} 1.0
took_bucket{le="1.0",model="a"} 2.0
took_bucket{le="+Inf",model="a"} 2.0
took_count{model="a"} 2.0
took_sum{model="a"} 0.9
# HELP waits waits
# TYPE waits gauge
waits{model="a"} 0.0
"""


def problems(expect: dict[str, Any], before: str = "") -> list[str]:
    message = json_format.ParseDict(expect, suite_pb2.MetricsExpectation())
    return metrics_problems(message, parse_metrics(TEXT), parse_metrics(before) if before else None)


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ({"samples": [{"name": "calls_total", "equals": 7}]}, ""),
        ({"samples": [{"name": "calls_total", "labels": {"model": "a"}, "equals": 3}]}, ""),
        ({"samples": [{"name": "calls_total", "labels": {"model": "a"}, "equals": 4}]}, "expected 4, got 3"),
        ({"samples": [{"name": "calls_total", "at_least": 8}]}, "expected at least 8, got 7"),
        ({"samples": [{"name": "calls_total", "at_most": 6}]}, "expected at most 6, got 7"),
        ({"samples": [{"name": "calls_total", "labels": {"model": "c"}, "equals": 0}]}, ""),
        ({"samples": [{"name": "calls_total", "labels": {"model": "c"}, "absent": True}]}, ""),
        ({"samples": [{"name": "waits", "labels": {"model": "a"}, "absent": True}]}, "expected no such series"),
        ({"samples": [{"name": "took_bucket", "labels": {"le": "1"}, "equals": 2}]}, ""),
        ({"families": [{"name": "calls_total", "type": "counter", "labels": ["model", "code"]}]}, ""),
        ({"families": [{"name": "calls_total", "type": "gauge", "labels": ["model", "code"]}]}, "expected a gauge"),
        ({"families": [{"name": "calls_total", "type": "counter", "labels": ["model"]}]}, "expected the labels"),
        ({"families": [{"name": "took", "type": "histogram", "labels": ["model"], "buckets": [0.5, 1]}]}, ""),
        (
            {"families": [{"name": "took", "type": "histogram", "labels": ["model"], "buckets": [1]}]},
            "expected buckets",
        ),
        ({"families": [{"name": "gone", "type": "gauge"}]}, "gone: is missing"),
        ({"families": [{"name": "gone", "type": "gauge", "optional": True}]}, ""),
        (
            {"only_prefix": "wai", "families": [{"name": "took", "type": "histogram", "labels": ["model"]}]},
            "waits: is no",
        ),
        ({"forbidden_labels": ["^b$"]}, "'^b$' is in a label"),
        ({"forbidden_labels": ["stranger"]}, ""),
    ],
)
def test_metrics_against_an_expectation(expect: dict[str, Any], says: str) -> None:
    found = problems(expect)
    assert found == [] if not says else any(says in problem for problem in found), found


def test_metrics_as_differences() -> None:
    before = TEXT.replace("3.0", "1.0")
    assert problems({"samples": [{"name": "calls_total", "labels": {"model": "a"}, "equals": 2}]}, before) == []
    (found,) = problems({"samples": [{"name": "calls_total", "equals": 3}]}, before)
    assert found == "calls_total{}: expected 3 more than before, got 2"


@pytest.mark.parametrize(
    ("text", "says"),
    [("what is this?", "a Prometheus server reads"), (TEXT + TEXT.splitlines()[2] + "\n", "is there twice")],
)
def test_metrics_that_nobody_reads(text: str, says: str) -> None:
    with pytest.raises(MetricsError, match=says):
        parse_metrics(text)


# --- what a case may say

CASE = """
profile: ops
level: LEVEL_MUST
cases:
  - id: ops.one
    description: d
    SERVER
    steps:
      STEPS
"""
CALL = "- {call: {predict: {}}, expect: {}, background: a}"


@pytest.mark.parametrize(
    ("server", "steps", "says"),
    [
        ("", ["- {}"], "names no method"),
        ("", ["- {await: a}"], "no background call 'a' before it"),
        ("", ["- {call: {predict: {}}, expect: {}, while_running: [a]}"], "no background call 'a'"),
        ("", [CALL, CALL], "the name 'a' is there twice"),
        ("", [CALL, "- {await: a, expect: {}}"], "has what belongs to a call"),
        ("", [CALL, "- {arrived: {call: a}}"], "messages or more, at least 1"),
        ("", ["- {call: {predict: {}}, expect: {}, shares: [{expect: {}}]}"], "not both"),
        ("", ["- {call: {predict: {}}, shares: [{expect: {}, at_least: 2, at_most: 1}]}"], "0 <= at_least <= at_most"),
        ("", ["- {call: {predict: {}}, shares: [{expect: {code: WHAT}}]}"], "is no status code"),
        ("", ["- {call: {predict: {}}, expect: {}, background: a, until: true}"], "no until"),
        ("", ["- {metrics: {since: a, forbidden_labels: [x]}}"], "no scrape 'a' before it"),
        ("", ["- {metrics: {}}"], "expects nothing"),
        ("", ["- {metrics: {samples: [{name: x}]}}"], "expected a name, and absent or a bound"),
        ("", ["- {metrics: {families: [{name: x, type: summary}]}}"], "expected a type"),
        ("", ["- {metrics: {forbidden_labels: ['(']}}"], "unterminated"),
        ("", ["- {http: {path: readyz}}"], "begin with /"),
        ("", ["- {signal: SIGTERM}"], "needs a server of the case's own"),
        ("server: {models: [version]}", ["- {signal: SIGKILL}"], "expected one of SIGTERM"),
        ("server: {models: [version]}", ["- {repository: {remove: ../version}}"], "expected paths below its root"),
        ("server: {models: [version]}", ["- {repository: {}}"], "expected paths below its root"),
        (
            "server: {models: [version]}",
            ["- {repository: {copy: {from: version/2, to: version/3, bytes: 10}}}"],
            "expected the files of which",
        ),
        ("server: {models: [/version]}", [CALL], "expected a fixture"),
        ("server: {config: {max_requests_ms: 1}}", [CALL], "no field named"),
        ("", ["- {call: {predict: {}}, expect: {trailers: [{key: a, pattern: '('}]}}"], "unterminated"),
    ],
)
def test_cases_that_are_refused(server: str, steps: list[str], says: str) -> None:
    text = CASE.replace("SERVER", server).replace("STEPS", "\n      ".join(steps))
    with pytest.raises(SuiteError, match=f"(?s)bad.yaml.*{re.escape(says)}"):
        parse_suite(text, "bad.yaml")


def test_a_fixture_that_is_not_there_is_the_case_s_fault(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ScratchError, match="there is no fixture 'nobody'"):
        Scratch(root, FIXTURES, ["nobody"])


def test_a_scratch_repository(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, FIXTURES, ["version/1"])
    models = scratch.path

    def change(**fields: Any) -> None:
        scratch.change(json_format.ParseDict(fields, suite_pb2.RepositoryChange()))

    assert sorted(path.name for path in models.iterdir()) == ["identity", "version"]
    change(copy={"from": "version/2", "to": "version/3"})
    copied, whole = models / "version" / "3", FIXTURES / "version" / "2"
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == {
        file.name: file.read_bytes() for file in whole.iterdir()
    }
    change(copy={"from": "version/10", "to": "version/3"})
    assert (copied / "model.onnx").read_bytes() == (FIXTURES / "version" / "10" / "model.onnx").read_bytes()
    change(copy={"from": "version/2", "to": "version/4", "files": ["model.onnx"], "bytes": 10})
    (half,) = (models / "version" / "4").iterdir()
    assert (half.name, half.stat().st_size) == ("model.onnx", 10)
    change(write={"path": "version/labels.json", "text": "{}"})
    assert (models / "version" / "labels.json").read_text(encoding="utf-8") == "{}"
    change(copy={"from": "small-batch", "to": "version"})  # a whole fixture, in one moment
    assert [path.name for path in (models / "version").iterdir()] == ["1"]
    change(copy={"from": "version", "to": "version"})
    assert sorted(path.name for path in (models / "version").iterdir()) == ["1", "10", "2", "labels.json"]
    change(remove="version/10")
    change(copy={"from": "version/2", "to": "version/4", "files": ["model.onnx"], "bytes": 10})
    change(remove="version/labels.json")
    change(remove="version/2")
    assert sorted(path.name for path in (models / "version").iterdir()) == ["1", "4"]
    with pytest.raises(ScratchError, match="the repository has no version/3"):
        change(remove="version/3")
    with pytest.raises(ScratchError, match="has no file 'nothing'"):
        change(copy={"from": "version/2", "to": "version/5", "files": ["nothing"]})
