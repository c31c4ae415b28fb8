# SPDX-License-Identifier: Apache-2.0
"""Reports of a run: report.json is canonical, junit.xml and report.md are made from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from concord_proto.conformance.v1 import report_pb2, suite_pb2
from google.protobuf import json_format

__all__ = ["build_report", "level_name", "outcome_name", "to_json", "to_junit", "to_markdown", "write_reports"]

_FAILURES = (report_pb2.OUTCOME_FAILED, report_pb2.OUTCOME_UNEXPECTED_PASS)


def outcome_name(outcome: int) -> str:
    """Such as "known failure"."""
    return report_pb2.Outcome.Name(outcome).removeprefix("OUTCOME_").replace("_", " ").lower()


def level_name(level: int) -> str:
    """MUST, SHOULD or MAY."""
    return suite_pb2.Level.Name(level).removeprefix("LEVEL_")


def build_report(
    report: report_pb2.Report, results: Iterable[report_pb2.CaseResult], problems: Sequence[str]
) -> report_pb2.Report:
    """Completes `report`, which says who, when and how, by the results and the verdict."""
    done = report_pb2.Report()
    done.CopyFrom(report)
    done.results.extend(sorted(results, key=lambda result: result.id))
    done.problems.extend(problems)
    counts = Counter(result.outcome for result in done.results)
    done.summary.passed_count = counts[report_pb2.OUTCOME_PASSED]
    done.summary.failed_count = counts[report_pb2.OUTCOME_FAILED]
    done.summary.skipped_count = counts[report_pb2.OUTCOME_SKIPPED]
    done.summary.known_failure_count = counts[report_pb2.OUTCOME_KNOWN_FAILURE]
    done.summary.unexpected_pass_count = counts[report_pb2.OUTCOME_UNEXPECTED_PASS]
    enforced = [
        result
        for result in done.results
        if result.outcome == report_pb2.OUTCOME_FAILED and result.level <= done.enforced_level
    ]
    ran = len(done.results) - done.summary.skipped_count
    # A run in which nothing ran proves nothing.
    done.passed = not enforced and not done.problems and not done.summary.unexpected_pass_count and ran > 0
    return done


def write_reports(directory: Path, report: report_pb2.Report) -> None:
    """Writes report.json, junit.xml and report.md."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(to_json(report), encoding="utf-8")
    (directory / "junit.xml").write_text(to_junit(report), encoding="utf-8")
    (directory / "report.md").write_text(to_markdown(report), encoding="utf-8")


def to_json(report: report_pb2.Report) -> str:
    """The report as proto JSON with the proto's field names. Zeros are written, so that every count can be read."""
    document = json_format.MessageToDict(
        report, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def to_junit(report: report_pb2.Report) -> str:
    """JUnit's XML: a suite for each profile; a known failure counts as skipped, as JUnit has no better word."""
    root = ElementTree.Element("testsuites", name=f"conformance of {_xml(report.server)}")
    for profile in sorted({result.profile for result in report.results}):
        results = [result for result in report.results if result.profile == profile]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=profile,
            tests=str(len(results)),
            failures=str(sum(result.outcome in _FAILURES for result in results)),
            errors="0",
            skipped=str(
                sum(
                    result.outcome in (report_pb2.OUTCOME_SKIPPED, report_pb2.OUTCOME_KNOWN_FAILURE)
                    for result in results
                )
            ),
            time=f"{sum(result.duration_ms for result in results) / 1000:.3f}",
        )
        for result in results:
            _junit_case(suite, result)
    if report.problems:
        suite = ElementTree.SubElement(root, "testsuite", name="run", tests="1", failures="1", errors="0", skipped="0")
        case = ElementTree.SubElement(suite, "testcase", classname="conformance.run", name="run")
        failure = ElementTree.SubElement(case, "failure", message=_xml(report.problems[0]))
        failure.text = _xml("\n".join(report.problems))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _junit_case(suite: ElementTree.Element, result: report_pb2.CaseResult) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"conformance.{result.profile}",
        name=result.id,
        time=f"{result.duration_ms / 1000:.3f}",
    )
    text = _xml("\n".join(result.problems))
    match result.outcome:
        case report_pb2.OUTCOME_FAILED:
            failure = ElementTree.SubElement(
                case, "failure", type=level_name(result.level), message=_xml(result.problems[0])
            )
            failure.text = text
        case report_pb2.OUTCOME_UNEXPECTED_PASS:
            message = f"passes, but is listed as a known failure: {result.explanation}"
            ElementTree.SubElement(case, "failure", type="UNEXPECTED_PASS", message=_xml(message))
        case report_pb2.OUTCOME_KNOWN_FAILURE:
            ElementTree.SubElement(case, "skipped", message=_xml(f"known failure: {result.explanation}"))
            ElementTree.SubElement(case, "system-out").text = text
        case report_pb2.OUTCOME_SKIPPED:
            ElementTree.SubElement(case, "skipped", message=_xml(result.explanation))


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold at all."""
    return "".join(
        c if c in "\t\n\r" or "\x20" <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "\ufffd"
        for c in text
    )


def to_markdown(report: report_pb2.Report) -> str:
    """A page for people: the verdict, counts by profile, and every case that did not simply pass."""
    summary = report.summary
    transport = report_pb2.Transport.Name(report.transport).removeprefix("TRANSPORT_").lower()
    lines = [
        f"# Conformance of {report.server}",
        "",
        f"**{'Passed' if report.passed else 'Failed'}**: {summary.passed_count} passed, {summary.failed_count} failed, "
        f"{summary.known_failure_count} known failures, {summary.unexpected_pass_count} unexpected passes, "
        f"{summary.skipped_count} skipped.",
        "",
        f"Suite {report.suite_version}; {transport}; "
        f"{report.start_time.ToJsonString()}; {report.duration_ms / 1000:.1f} s.",
        "",
        "| profile | passed | failed | known failure | unexpected pass | skipped |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for profile in sorted({result.profile for result in report.results}):
        counts = Counter(result.outcome for result in report.results if result.profile == profile)
        lines.append(
            f"| {profile} | {counts[report_pb2.OUTCOME_PASSED]} | {counts[report_pb2.OUTCOME_FAILED]} "
            f"| {counts[report_pb2.OUTCOME_KNOWN_FAILURE]} | {counts[report_pb2.OUTCOME_UNEXPECTED_PASS]} "
            f"| {counts[report_pb2.OUTCOME_SKIPPED]} |"
        )
    if report.problems:
        lines += ["", "## The run", "", *(f"- {_markdown(problem)}" for problem in report.problems)]
    for outcome in (
        report_pb2.OUTCOME_FAILED,
        report_pb2.OUTCOME_UNEXPECTED_PASS,
        report_pb2.OUTCOME_KNOWN_FAILURE,
        report_pb2.OUTCOME_SKIPPED,
    ):
        results = [result for result in report.results if result.outcome == outcome]
        if not results:
            continue
        lines += ["", f"## {outcome_name(outcome).capitalize()}", ""]
        for result in results:
            lines.append(f"- `{result.id}` ({level_name(result.level)}) {_markdown(result.description)}")
            if result.explanation:
                lines.append(f"  - {_markdown(result.explanation)}")
            lines += [f"  - {_markdown(problem)}" for problem in result.problems]
    lines += ["", "## All cases", "", "| case | level | outcome | ms |", "|---|---|---|--:|"]
    lines += [
        f"| `{result.id}` | {level_name(result.level)} | {outcome_name(result.outcome)} | {result.duration_ms:.1f} |"
        for result in report.results
    ]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", " ").replace("\r", " ")
    for character in "|<>*_`[]":
        escaped = escaped.replace(character, "\\" + character)
    return escaped
