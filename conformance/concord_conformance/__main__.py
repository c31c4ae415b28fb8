# SPDX-License-Identifier: Apache-2.0
"""python -m concord_conformance: runs the conformance suite against a server."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
import grpc
from concord_proto.conformance.v1 import report_pb2, suite_pb2
from google.protobuf import timestamp_pb2

from concord_conformance import __version__
from concord_conformance.client import Client, Target
from concord_conformance.known_failing import Entry, KnownFailingError, parse_known_failing, stale_entries
from concord_conformance.play import Stage
from concord_conformance.process import ServerError, ServerProcess
from concord_conformance.report import build_report, level_name, outcome_name, write_reports
from concord_conformance.run import Selection, metrics_url, run_cases
from concord_conformance.starter import Starter
from concord_conformance.suite import PROFILES, LoadedSuite, SuiteError, load_suites

__all__ = ["main"]

_CASES = Path(__file__).resolve().parent.parent / "cases"
_FIXTURES = _CASES.parent / "fixtures"
_LEVELS = {
    "must": suite_pb2.LEVEL_MUST,
    "should": suite_pb2.LEVEL_SHOULD,
    "may": suite_pb2.LEVEL_MAY,
}
_REACHABLE_SECONDS = 15.0


@dataclass(frozen=True)
class _Plan:
    """What is run, as the command line says."""

    suites: Sequence[LoadedSuite]
    selection: Selection
    known: Sequence[Entry]
    case_ids: Sequence[str]
    enforced: int
    name: str
    transport: int


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--target", metavar="HOST:PORT", help="A server that runs already.")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TLS: authorities (PEM).")
@click.option(
    "--cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TLS: the client's certificate (PEM)."
)
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TLS: its private key (PEM).")
@click.option("--metrics", metavar="URL", help="With --target: where its metrics are, http://HOST:PORT/metrics.")
@click.option("--profile", "profiles", metavar="NAMES", help="Only these profiles, by comma; they are then demanded.")
@click.option("--case", "globs", multiple=True, metavar="GLOB", help="Only cases whose id matches; may be repeated.")
@click.option(
    "--known-failing",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="List of cases that are known to fail, with reasons.",
)
@click.option(
    "--report", "report_dir", type=click.Path(file_okay=False, path_type=Path), help="Where the reports are written."
)
@click.option(
    "--enforce",
    type=click.Choice(list(_LEVELS)),
    default="should",
    show_default=True,
    help="The level from which on a failure fails the run.",
)
@click.option("--name", help="What the server is called in reports.")
@click.option(
    "--cases",
    "cases_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=_CASES,
    help="Directory of the cases.  [default: the suite's own]",
)
@click.option(
    "--fixtures",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=_FIXTURES,
    help="Directory of the fixtures, for {models}.  [default: the suite's own]",
)
@click.option(
    "--ready-seconds", type=click.FloatRange(min=0.1), default=120.0, show_default=True, help="Wait for the ready line."
)
@click.option("--list", "listing", is_flag=True, help="List the selected cases and end.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def main(
    target: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    metrics: str | None,
    profiles: str | None,
    globs: tuple[str, ...],
    known_failing: Path | None,
    report_dir: Path | None,
    enforce: str,
    name: str | None,
    cases_dir: Path,
    fixtures: Path,
    ready_seconds: float,
    listing: bool,
    command: tuple[str, ...],
) -> None:
    """Runs the conformance suite against a server that runs already (--target), or against one that COMMAND starts:

    \b
        python -m concord_conformance --target 127.0.0.1:50051
        python -m concord_conformance -- bin/inference-server --models {models} --config {config} --listen 127.0.0.1:0

    The server must serve the models of conformance/fixtures. In COMMAND {models} stands for their directory and
    {config} for a configuration file: cases that need a server of their own start it with others.

    Exit codes: 0 passed, 1 failed, 2 wrong usage.
    """
    try:
        suites = load_suites(cases_dir)
    except SuiteError as error:
        _usage(str(error))
    case_ids = [case.id for suite in suites for case in suite.cases]
    selection = _selection(suites, profiles, globs)
    if listing:
        for suite in suites:
            for case in suite.cases:
                if (not selection.profiles or suite.profile in selection.profiles) and selection.wanted(case.id):
                    click.echo(f"{case.id}  {level_name(case.level)}  {case.description}")
        return
    if (target is None) == (not command):
        _usage("expected either --target HOST:PORT or -- and the command that starts a server")
    if (cert is None) != (key is None) or (cert is not None and ca is None):
        _usage("--cert and --key go together, and with --ca")
    if metrics is not None and (target is None or not metrics.startswith(("http://", "https://"))):
        _usage("--metrics goes with --target, and is a URL: http://HOST:PORT/metrics")
    known: list[Entry] = []
    if known_failing is not None:
        try:
            known = parse_known_failing(known_failing.read_text(encoding="utf-8"), case_ids)
        except KnownFailingError as error:
            _usage(f"{known_failing.name}: {error}")
    transport = report_pb2.TRANSPORT_PLAINTEXT
    if ca is not None:
        transport = report_pb2.TRANSPORT_TLS if cert is None else report_pb2.TRANSPORT_MTLS
    server_name = name or target or Path(command[0]).name
    plan = _Plan(suites, selection, known, case_ids, _LEVELS[enforce], server_name, transport)

    with contextlib.ExitStack() as stack:
        if report_dir is not None:
            report_dir.mkdir(parents=True, exist_ok=True)
            log_dir = report_dir
        else:
            log_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="concord-conformance-")))
        process: ServerProcess | None = None
        starter: Starter | None = None
        if command:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="concord-conformance-")))
            starter = Starter(command, fixtures.resolve(), scratch, log_dir, ready_seconds)
            try:
                process = starter.start_shared()
            except ServerError as error:
                click.echo(f"server: {error}", err=True)
                if report_dir is None:
                    click.echo((log_dir / "server.log").read_text(encoding="utf-8", errors="replace"), err=True)
                _fail_start(plan, report_dir, str(error))
        pem = [None if file is None else file.read_bytes() for file in (ca, cert, key)]
        address = process.address if process is not None else target or ""
        url = metrics_url(process.http) if process is not None else metrics or ""
        report = _run(plan, Target(address, *pem), url, process, starter)
    if report_dir is not None:
        write_reports(report_dir, report)
    _summary(report, report_dir)
    sys.exit(0 if report.passed else 1)


def _run(
    plan: _Plan, target: Target, metrics: str, process: ServerProcess | None, starter: Starter | None
) -> report_pb2.Report:
    begin = time.time()
    results: list[report_pb2.CaseResult] = []
    problems = [
        f"known failures: line {entry.line}: {entry.pattern} matches no case"
        for entry in stale_entries(plan.known, plan.case_ids)
    ]
    client = Client(target)
    try:
        client.wait_until_reachable(_REACHABLE_SECONDS)
        alive = process.alive if process is not None else (lambda: True)
        stage = Stage(client, metrics)
        for result in run_cases(plan.suites, stage, plan.selection, plan.known, alive, starter):
            _show(result)
            results.append(result)
    except grpc.FutureTimeoutError:
        problems.append(f"no connection to {target.address} within {_REACHABLE_SECONDS:g} s")
    finally:
        client.close()
        if process is not None:
            problems += process.stop()
    problems += _listed_but_skipped(plan.known, results)
    return build_report(_header(plan, begin), results, problems)


def _header(plan: _Plan, begin: float) -> report_pb2.Report:
    start = timestamp_pb2.Timestamp()
    start.FromMilliseconds(int(begin * 1000))
    return report_pb2.Report(
        suite_version=__version__,
        server=plan.name,
        transport=plan.transport,  # type: ignore[arg-type]
        start_time=start,
        duration_ms=int((time.time() - begin) * 1000),
        enforced_level=plan.enforced,  # type: ignore[arg-type]
    )


def _fail_start(plan: _Plan, report_dir: Path | None, error: str) -> NoReturn:
    report = build_report(_header(plan, time.time()), [], [f"the server did not start: {error}"])
    if report_dir is not None:
        write_reports(report_dir, report)
    sys.exit(1)


def _selection(suites: Sequence[LoadedSuite], profiles: str | None, globs: tuple[str, ...]) -> Selection:
    chosen = [] if profiles is None else [profile.strip() for profile in profiles.split(",")]
    present = {suite.profile for suite in suites}
    for profile in chosen:
        if profile not in PROFILES:
            _usage(f"--profile: expected some of {', '.join(PROFILES)}, got {profile!r}")
        if profile not in present:
            _usage(f"--profile: there are no cases of profile {profile} yet")
    ids = [case.id for suite in suites for case in suite.cases]
    for glob in globs:
        if not fnmatch.filter(ids, glob):
            _usage(f"--case: no case matches {glob!r}")
    return Selection(frozenset(chosen), lambda case_id: not globs or any(fnmatch.fnmatch(case_id, g) for g in globs))


def _listed_but_skipped(known: Sequence[Entry], results: Sequence[report_pb2.CaseResult]) -> list[str]:
    """An entry whose cases the server cannot even run, since it lacks the profile, excuses nothing."""
    problems = []
    for entry in known:
        matched = [result for result in results if entry.matches(result.id)]
        lacking = [
            result
            for result in matched
            if result.outcome == report_pb2.OUTCOME_SKIPPED and result.explanation.startswith("the server")
        ]
        if matched and len(lacking) == len(matched):
            problems.append(
                f"known failures: line {entry.line}: {entry.pattern} is about cases of a profile that the server lacks"
            )
    return problems


_COLOURS = {
    report_pb2.OUTCOME_FAILED: "red",
    report_pb2.OUTCOME_UNEXPECTED_PASS: "red",
    report_pb2.OUTCOME_KNOWN_FAILURE: "yellow",
}


def _show(result: report_pb2.CaseResult) -> None:
    if result.outcome in (report_pb2.OUTCOME_PASSED, report_pb2.OUTCOME_SKIPPED):
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{outcome_name(result.outcome)} {result.id}", err=True, nl=False)
        return
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    click.secho(
        f"{outcome_name(result.outcome)} {result.id} ({level_name(result.level)})",
        fg=_COLOURS[result.outcome],
        err=True,
    )
    for problem in result.problems:
        click.echo(f"    {problem}", err=True)
    if result.explanation:
        click.echo(f"    listed: {result.explanation}", err=True)


def _summary(report: report_pb2.Report, report_dir: Path | None) -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    for problem in report.problems:
        click.secho(f"run: {problem}", fg="red", err=True)
    summary = report.summary
    skipped: dict[str, list[str]] = {}
    for result in report.results:
        if result.outcome == report_pb2.OUTCOME_SKIPPED:
            skipped.setdefault(result.explanation, []).append(result.id)
    for explanation, ids in skipped.items():
        # Cases that were wanted and could not run are named; those that nobody asked for are only counted.
        names = f": {' '.join(ids)}" if explanation.startswith("needs ") else ""
        click.echo(f"skipped {len(ids)}: {explanation}{names}")
    click.echo(
        f"{report.server}: {'passed' if report.passed else 'FAILED'}: {summary.passed_count} passed, "
        f"{summary.failed_count} failed, {summary.known_failure_count} known failures, "
        f"{summary.unexpected_pass_count} unexpected passes, {summary.skipped_count} skipped "
        f"in {report.duration_ms / 1000:.1f} s"
    )
    if report_dir is not None:
        click.echo(f"reports: {os.fspath(report_dir)}")


def _usage(message: str) -> NoReturn:
    click.echo(f"concord_conformance: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
