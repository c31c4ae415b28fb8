# SPDX-License-Identifier: Apache-2.0
"""The command: both ways to reach a server, verdicts, exit codes, reports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from concord_proto.conformance.v1 import report_pb2, suite_pb2
from fake_server import PREDICT, FakeServer
from google.protobuf import json_format

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).resolve().parent / "fake_server.py"
SECONDS = 60

CASES = """
profile: core
level: LEVEL_MUST
cases:
  - id: core.good
    description: It answers | with a pipe.
    steps:
      - call: {predict: {model_id: identity, features: {x: {float_value: 2}}}}
        expect: {predict: {predictions: {y: 2}}}
  - id: core.unknown
    description: An unknown model.
    steps:
      - call: {predict: {model_id: nobody}}
        expect: {code: NOT_FOUND, reason: MODEL_NOT_FOUND}
  - id: core.wrong
    description: Expects what does not come.
    steps:
      - call: {predict: {model_id: identity, request_id: "\\x01<&>", features: {x: {float_value: 2}}}}
        expect: {predict: {predictions: {y: 3}, request_id: other}}
"""
MAY = """
profile: batch
level: LEVEL_MAY
cases:
  - id: batch.wrong
    description: Free.
    steps:
      - call: {batch_predict: {requests: [{model_id: identity}]}}
        expect: {batch: {results: [{predict: {predictions: {y: 9}}}]}}
"""
TENSOR = """
profile: tensor
level: LEVEL_MUST
probe:
  call: {tensor_predict: {}}
  expect: {code: INVALID_ARGUMENT}
cases:
  - id: tensor.one
    description: Tensors.
    steps:
      - call: {tensor_predict: {model_id: identity}}
        expect: {}
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    directory = tmp_path / "cases"
    directory.mkdir()
    for name, text in (("core", CASES), ("may", MAY), ("tensor", TENSOR)):
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
    return directory


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "concord_conformance", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def outcomes(directory: Path) -> dict[str, str]:
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return {result["id"]: result["outcome"].removeprefix("OUTCOME_") for result in report["results"]}


def report_of(directory: Path) -> Any:
    return json_format.Parse((directory / "report.json").read_text(encoding="utf-8"), report_pb2.Report())


def test_a_server_that_runs_already(server: FakeServer, cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = command("--target", server.address, "--cases", cases, "--report", out)
    assert done.returncode == 1, done.stderr
    assert outcomes(out) == {
        "core.good": "PASSED",
        "core.unknown": "PASSED",
        "core.wrong": "FAILED",
        "batch.wrong": "FAILED",
        "tensor.one": "SKIPPED",
    }
    report = report_of(out)
    assert (report.summary.passed_count, report.summary.failed_count, report.summary.skipped_count) == (2, 2, 1)
    assert not report.passed
    assert [result.id for result in report.results] == sorted(result.id for result in report.results)
    (skipped,) = [result for result in report.results if result.id == "tensor.one"]
    assert skipped.explanation.startswith("the server does not have this profile")
    assert "core.wrong" in done.stderr
    assert 'predictions["y"]: expected 3.0' in done.stderr


def test_every_case_is_followed_by_a_sign_of_life(server: FakeServer, cases: Path) -> None:
    command("--target", server.address, "--cases", cases, "--case", "core.unknown")
    asked = [data for path, data in server.requests if path == PREDICT]
    assert b"nobody" in asked[-2]
    assert b"still there" in asked[-1]


def test_a_profile_asked_for_by_name_is_demanded(server: FakeServer, cases: Path, tmp_path: Path) -> None:
    done = command("--target", server.address, "--cases", cases, "--profile", "tensor", "--report", tmp_path / "r")
    assert done.returncode == 1
    assert outcomes(tmp_path / "r")["tensor.one"] == "FAILED"
    assert outcomes(tmp_path / "r")["core.good"] == "SKIPPED"


def test_levels_below_the_enforced_one_do_not_fail_the_run(server: FakeServer, cases: Path) -> None:
    base = ("--target", server.address, "--cases", cases, "--profile", "batch")
    assert command(*base).returncode == 0
    assert command(*base, "--enforce", "may").returncode == 1


def test_selected_cases_that_hold_pass(server: FakeServer, cases: Path) -> None:
    done = command("--target", server.address, "--cases", cases, "--case", "core.[gu]*")
    assert done.returncode == 0, done.stderr
    assert "2 passed" in done.stdout
    assert "skipped 1: the server does not have this profile" in done.stdout or "not selected" in done.stdout


def known(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "known.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_known_failures(server: FakeServer, cases: Path, tmp_path: Path) -> None:
    base = ("--target", server.address, "--cases", cases, "--report", tmp_path / "r", "--known-failing")
    done = command(*base, known(tmp_path, "core.wrong the server adds one too few\n"))
    assert done.returncode == 0, done.stderr
    assert outcomes(tmp_path / "r")["core.wrong"] == "KNOWN_FAILURE"
    assert "the server adds one too few" in (tmp_path / "r" / "report.md").read_text(encoding="utf-8")


def test_a_known_failure_that_passes_fails_the_run(server: FakeServer, cases: Path, tmp_path: Path) -> None:
    listed = known(tmp_path, "core.wrong it is so\ncore.good it once failed\n")
    done = command("--target", server.address, "--cases", cases, "--report", tmp_path / "r", "--known-failing", listed)
    assert done.returncode == 1
    assert outcomes(tmp_path / "r")["core.good"] == "UNEXPECTED_PASS"
    junit = ElementTree.parse(tmp_path / "r" / "junit.xml")
    assert junit.find(".//testcase[@name='core.good']/failure[@type='UNEXPECTED_PASS']") is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("core.wrong a\ncore.nobody no such case\n", "core.nobody matches no case"),
        ("core.wrong a\ntensor.one not there yet\n", "a profile that the server lacks"),
    ],
)
def test_a_stale_list_fails_the_run(server: FakeServer, cases: Path, tmp_path: Path, text: str, says: str) -> None:
    done = command("--target", server.address, "--cases", cases, "--known-failing", known(tmp_path, text))
    assert done.returncode == 1
    assert says in done.stderr


def test_a_server_that_the_runner_starts(cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    done = command("--cases", cases, "--case", "core.[gu]*", "--report", out, "--", sys.executable, FAKE)
    assert done.returncode == 0, done.stderr
    assert (out / "server.log").exists()
    assert report_of(out).passed
    assert report_of(out).transport == report_pb2.TRANSPORT_PLAINTEXT


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("dies at once", "ended before it was ready, with exit code 3"),
        ("says nothing", "no ready line came within"),
        ("says nonsense", "expected a ready line"),
        ("ends badly", "expected exit code 0, got 4"),
        ("talks", "expected the ready line and nothing else"),
    ],
)
def test_servers_that_start_or_end_badly(cases: Path, tmp_path: Path, fault: str, says: str) -> None:
    done = command(
        *(
            "--cases",
            cases,
            "--case",
            "core.good",
            "--ready-seconds",
            "2" if fault == "says nothing" else "30",
            "--report",
            tmp_path / "r",
        ),
        *("--", sys.executable, FAKE, "--fault", fault),
    )
    assert done.returncode == 1
    assert says in done.stderr
    report = report_of(tmp_path / "r")
    assert not report.passed
    assert any(says in problem for problem in report.problems)


def test_a_server_that_dies_fails_the_case_that_killed_it(cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    done = command(
        *("--cases", cases, "--case", "core.[gu]*", "--report", out),
        *("--", sys.executable, FAKE, "--fault", "dies on a request"),
    )
    assert done.returncode == 1
    assert outcomes(out)["core.good"] == "PASSED"
    (result,) = [result for result in report_of(out).results if result.id == "core.unknown"]
    assert any("the server's process is gone" in problem for problem in result.problems)
    assert any("ended by itself, with exit code 9" in problem for problem in report_of(out).problems)


def test_a_program_that_is_not_there(cases: Path) -> None:
    done = command("--cases", cases, "--", "no-such-program-anywhere")
    assert done.returncode == 1
    assert "no-such-program-anywhere" in done.stderr


def test_nobody_listens(cases: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import concord_conformance.__main__ as m; m._REACHABLE_SECONDS = 0.5; m.main()",
            "--cases",
            str(cases),
            "--target",
            "127.0.0.1:1",
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert "no connection to 127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "either --target"),
        (("--target", "127.0.0.1:1", "--", "true"), "either --target"),
        (("--target", "127.0.0.1:1", "--profile", "nonsense"), "--profile"),
        (("--target", "127.0.0.1:1", "--profile", "oip"), "no cases of profile oip"),
        (("--target", "127.0.0.1:1", "--case", "nobody.*"), "no case matches"),
        (("--target", "127.0.0.1:1", "--cert", str(FAKE)), "--cert and --key"),
        (("--nonsense",), "No such option"),
    ],
)
def test_wrong_usage_is_exit_code_2(cases: Path, arguments: tuple[str, ...], says: str) -> None:
    done = command("--cases", cases, *arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_bad_list_is_wrong_usage(cases: Path, tmp_path: Path) -> None:
    done = command("--cases", cases, "--target", "127.0.0.1:1", "--known-failing", known(tmp_path, "* all\n"))
    assert done.returncode == 2
    assert "line 1" in done.stderr


def test_listing(cases: Path) -> None:
    done = command("--cases", cases, "--list", "--profile", "core")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "core.good  MUST  It answers | with a pipe."
    assert len(done.stdout.splitlines()) == 3


def test_reports_in_three_formats(server: FakeServer, cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    command("--target", server.address, "--cases", cases, "--report", out, "--name", "fake <server>")
    junit = ElementTree.parse(out / "junit.xml").getroot()
    assert [suite.get("name") for suite in junit] == ["batch", "core", "tensor"]
    core = junit.find("testsuite[@name='core']")
    assert core is not None
    assert (core.get("tests"), core.get("failures"), core.get("skipped")) == ("3", "1", "0")
    failure = core.find("testcase[@name='core.wrong']/failure")
    assert failure is not None
    assert failure.get("type") == "MUST"
    assert junit.find(".//testcase[@name='tensor.one']/skipped") is not None
    page = (out / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# Conformance of fake <server>\n\n**Failed**: 2 passed, 2 failed")
    assert "| core | 2 | 1 | 0 | 0 | 0 |" in page
    assert "`core.wrong` (MUST)" in page
    document = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert document["summary"]["unexpected_pass_count"] == 0
    assert document["server"] == "fake <server>"
    assert document["enforced_level"] == suite_pb2.Level.Name(suite_pb2.LEVEL_SHOULD)


def test_the_runner_imports_no_room_of_a_server_and_no_client_of_ours() -> None:
    package = ROOT / "conformance" / "concord_conformance"
    imported: set[str] = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file.name}: imports are absolute here"
                imported.add(node.module or "")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "__import__", f"{file.name}: imports by name"
            elif isinstance(node, ast.Attribute):
                assert node.attr != "import_module", f"{file.name}: imports by name"
    roots = {name.partition(".")[0] for name in imported}
    assert roots <= set(sys.stdlib_module_names) | {
        "click",
        "concord_conformance",
        "concord_proto",
        "google",
        "grpc",
        "grpc_reflection",
        "prometheus_client",
        "yaml",
    }
