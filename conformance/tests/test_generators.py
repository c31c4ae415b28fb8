# SPDX-License-Identifier: Apache-2.0
"""Cases of profile stream against a small server that keeps them, and against it with one fault: each is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from concord_proto.conformance.v1 import report_pb2
from fake_generator import FAULTS
from google.protobuf import json_format

GENERATOR = Path(__file__).resolve().parent / "fake_generator.py"
CASES = Path(__file__).resolve().parent.parent / "cases"
SECONDS = 110
# Bounds that only a server at fault reaches, so short that a test can wait for them.
SHORT = """
import concord_conformance.client, concord_conformance.play
concord_conformance.client.LONGEST_CALL_SECONDS = 12
concord_conformance.play.BOUND_SECONDS = 4
"""
MAIN = "import concord_conformance.__main__; concord_conformance.__main__.main()"
NOTICED = {
    "says no end": ("stream.table.letters", "is_final: expected True"),
    "delivers the end": ("stream.table.letters", "expected 5 messages, got 6"),
    "keeps all back": ("stream.incremental", "expected 1 messages within"),
    "splits characters": ("stream.split_characters", "messages[0].token"),
    "loses slots": ("stream.slots.cancel_frees", "still under way|inference_generations|code: expected OK"),
    "forgets who left": ("stream.slots.cancel_while_waiting", "inference_generations"),
    "never refuses": ("stream.slots.cancel_while_waiting", "code: expected RESOURCE_EXHAUSTED"),
    "waits for readers": ("stream.slots.slow_reader", "inference_generations|code: expected OK"),
    "fails well": ("stream.error.midway", "code: expected INTERNAL, got OK"),
    "fails neighbours": ("stream.error.neighbours", "code: expected OK, got INTERNAL|text: expected"),
    "counts from one": ("stream.sample.exact", "text: expected"),
    "draws seeds": ("stream.sample.request_id", "seed: expected"),
    "tells no seed": ("stream.sample.exact", "seed: expected 3, got 0"),
    "one too many": ("stream.length.one", "expected 2 messages, got 3"),
    "delivers the stop": ("stream.stop.middle", "token: expected"),
    "drops held text": ("stream.stop.held_to_the_end", "expected 32 messages"),
    "cuts prompts": ("stream.prompt.too_long", "code: expected INVALID_ARGUMENT, got OK"),
    "predicts otherwise": ("stream.table.letters", "by Predict"),
}
# What the fake generator can do of the profile, with what each fault needs.
KEPT = (
    *sorted({case for case, _ in NOTICED.values()}),
    "stream.chat.japanese",
    "stream.prompt.system",
    "stream.sample.settings",
    "stream.together.many",
)


def run(tmp_path: Path, fault: str, *cases: str) -> tuple[int, dict[str, report_pb2.CaseResult], str]:
    """Runs committed cases; gives the exit code, results by id and what was printed."""
    directory = tmp_path / "cases"
    directory.mkdir()
    for file in CASES.glob("stream*.yaml"):
        (directory / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-c", MAIN if fault == "none" else SHORT + MAIN),
            *("--cases", str(directory), "--report", str(tmp_path / "report"), "--profile", "stream"),
            *(part for case in cases for part in ("--case", case)),
            *("--", sys.executable, str(GENERATOR), "--models", "{models}", "--config", "{config}", "--fault", fault),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    text = (tmp_path / "report" / "report.json").read_text(encoding="utf-8")
    report = json_format.Parse(text, report_pb2.Report())
    return done.returncode, {result.id: result for result in report.results}, done.stdout + done.stderr


def test_a_server_that_keeps_them_passes(tmp_path: Path) -> None:
    code, results, said = run(tmp_path, "none", *KEPT)
    assert code == 0, said
    assert {results[case].outcome for case in KEPT} == {report_pb2.OUTCOME_PASSED}


def test_every_fault_has_its_case() -> None:
    assert set(NOTICED) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_fault_is_noticed(tmp_path: Path, fault: str) -> None:
    case, says = NOTICED[fault]
    code, results, said = run(tmp_path, fault, case)
    assert code == 1, said
    assert results[case].outcome == report_pb2.OUTCOME_FAILED
    problems = list(results[case].problems)
    assert any(word in problem for word in says.split("|") for problem in problems), problems
