# SPDX-License-Identifier: Apache-2.0
"""Runs cases: one after the other against the server that they share, and side by side where each has its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

import grpc
from concord_proto.conformance.v1 import report_pb2, suite_pb2
from google.protobuf import json_format

from concord_conformance.client import Client, Target
from concord_conformance.judge import step_problems
from concord_conformance.known_failing import Entry, entry_for
from concord_conformance.play import Player, Stage, needs_metrics
from concord_conformance.process import ServerError
from concord_conformance.scratch import ScratchError
from concord_conformance.starter import OwnProcess, Starter
from concord_conformance.suite import LoadedCase, LoadedSuite

__all__ = ["Selection", "metrics_url", "run_cases"]

_ALIVE_WITHIN_MS = 20_000
_REACHABLE_SECONDS = 15.0
_DYING_SECONDS = 2.0
# Servers at once: they mostly wait.
_SIDE_BY_SIDE = 4
# Cases in turn on one server.
_TURNS = 4

# A request that any server with the fixtures answers: what comes back is what was sent.
_LIVENESS = json_format.ParseDict(
    {
        "call": {
            "predict": {
                "model_id": "identity",
                "request_id": "still there",
                "features": {"x": {"float_value": 0.5}},
            },
            "deadline_ms": _ALIVE_WITHIN_MS,
        },
        "expect": {"predict": {"predictions": {"y": 0.5}, "model_version": "1"}},
    },
    suite_pb2.Step(),
)


@dataclass(frozen=True)
class Selection:
    """Which cases run. `profiles` empty: all that the server has. `wanted`: whether a case's id is asked for."""

    profiles: Collection[str]
    wanted: Callable[[str], bool]


@dataclass(frozen=True)
class _OwnCase:
    """A case that wants a server of its own, and where its result goes."""

    case: LoadedCase
    server: suite_pb2.OwnServer
    result: report_pb2.CaseResult


def metrics_url(http: str) -> str:
    """The URL of the metrics, from a ready line's "http"; empty where the server has no HTTP listener."""
    return f"http://{http}/metrics" if ":" in http else ""


def run_cases(
    suites: Sequence[LoadedSuite],
    stage: Stage,
    selection: Selection,
    known: Sequence[Entry],
    alive: Callable[[], bool],
    starter: Starter | None,
) -> Iterator[report_pb2.CaseResult]:
    """Runs the selected cases and gives a result for every case, selected or not. `starter` is None where the server is
    somebody else's: cases that need their own are skipped then."""
    own: list[_OwnCase] = []
    for suite in suites:
        skipped = _why_not(suite, stage.client, selection)
        for case in suite.cases:
            result = report_pb2.CaseResult(
                id=case.id,
                profile=case.profile,
                level=case.level,  # type: ignore[arg-type]
                description=case.description,
            )
            why = skipped or ("" if selection.wanted(case.id) else "not selected")
            if not why and case.server is not None:
                why = _no_control(starter, case.server)
                if not why:
                    own.append(_OwnCase(case, case.server, result))
                    continue
            if not why and case.server is None and needs_metrics(case.steps) and not stage.metrics:
                why = "needs the server's metrics: its ready line names no http address, and --metrics is not given"
            if why:
                result.outcome = report_pb2.OUTCOME_SKIPPED
                result.explanation = why
            else:
                begin = time.perf_counter()
                problems = _case_problems(case, stage, alive)
                _settle(result, problems, time.perf_counter() - begin, known)
            yield result
    if own and starter is not None:
        yield from _run_own(own, starter, stage.client.target, known)


def _no_control(starter: Starter | None, server: suite_pb2.OwnServer) -> str:
    if starter is None:
        return "needs a server of its own: with --target the runner starts none"
    return starter.why_not(server)


def _why_not(suite: LoadedSuite, client: Client, selection: Selection) -> str:
    """Why no case of the suite runs; empty if they do."""
    if selection.profiles:
        return "" if suite.profile in selection.profiles else "profile not selected"
    if suite.probe is None:
        return ""
    problems = step_problems(suite.probe, client.perform(suite.probe), client.alone)
    return f"the server does not have this profile: {_clip(problems[0])}" if problems else ""


def _run_own(
    cases: Sequence[_OwnCase], starter: Starter, shared: Target, known: Sequence[Entry]
) -> Iterator[report_pb2.CaseResult]:
    """Cases with a server of their own, side by side: what they share is the machine."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        for done in as_completed([pool.submit(_run_group, group, starter, shared, known) for group in _groups(cases)]):
            yield from done.result()


def _groups(cases: Sequence[_OwnCase]) -> list[list[_OwnCase]]:
    """Cases that want the very same server and leave it as it was take turns on one; every other is alone."""
    groups: list[list[_OwnCase]] = []
    open_groups: dict[bytes, list[_OwnCase]] = {}
    for one in cases:
        key = one.server.SerializeToString(deterministic=True)
        changes = any(step.WhichOneof("action") in ("repository", "signal", "exit") for step in one.case.steps)
        group = None if changes else open_groups.get(key)
        if group is None or len(group) >= _TURNS:
            group = []
            groups.append(group)
            if not changes:
                open_groups[key] = group
        group.append(one)
    return groups


def _run_group(
    group: Sequence[_OwnCase], starter: Starter, shared: Target, known: Sequence[Entry]
) -> list[report_pb2.CaseResult]:
    """Runs cases in turn on one server; after a failure the next gets a new one. What is wrong with a server's end is a
    problem of the case that ran last on it."""
    waiting = list(group)
    results = []
    while waiting:
        turns: list[tuple[_OwnCase, float, list[str]]] = []
        begin = time.perf_counter()
        try:
            process = starter.start(waiting[0].case.id, waiting[0].server)
        except (ServerError, ScratchError) as error:
            turns.append((waiting.pop(0), time.perf_counter() - begin, [f"its own server: {error}"]))
        else:
            try:
                while waiting and not any(problems for _, _, problems in turns):
                    one = waiting.pop(0)
                    problems = _on_own_server(one.case, process, shared)
                    turns.append((one, time.perf_counter() - begin, problems))
                    begin = time.perf_counter()
            finally:
                ending = [f"its own server: {problem}" for problem in process.stop()]
            turns[-1][2].extend(ending)
        for one, seconds, problems in turns:
            _settle(one.result, problems, seconds, known)
            results.append(one.result)
    return results


def _on_own_server(case: LoadedCase, process: OwnProcess, shared: Target) -> list[str]:
    client = Client(replace(shared, address=process.process.address))
    try:
        client.wait_until_reachable(_REACHABLE_SECONDS)
        stage = Stage(client, metrics_url(process.process.http), process)
        if needs_metrics(case.steps) and not stage.metrics:
            return ["its own server: the ready line names no http address"]
        return _case_problems(case, stage, process.process.alive)
    except grpc.FutureTimeoutError:
        return [f"its own server: no connection within {_REACHABLE_SECONDS:g} s"]
    finally:
        client.close()


def _case_problems(case: LoadedCase, stage: Stage, alive: Callable[[], bool]) -> list[str]:
    player = Player(stage)
    problems = player.play(case.steps)
    return problems if player.exited else problems + _liveness_problems(stage.client, alive)


def _liveness_problems(client: Client, alive: Callable[[], bool]) -> list[str]:
    """Whether the same process still answers. It is asked after every case, the harmless ones too."""
    try:
        problems = step_problems(_LIVENESS, client.perform(_LIVENESS), client.alone)
    except grpc.RpcError as error:
        problems = [str(error)]
    # A process that dies closes its connections a moment before it is gone.
    end = time.monotonic() + (_DYING_SECONDS if problems else 0)
    while (lives := alive()) and time.monotonic() < end:
        time.sleep(0.02)
    if not lives:
        problems.append("the server's process is gone")
    return [f"afterwards: {problem}" for problem in problems]


def _settle(result: report_pb2.CaseResult, problems: Sequence[str], seconds: float, known: Sequence[Entry]) -> None:
    result.problems.extend(_clip(problem) for problem in problems)
    result.duration_ms = seconds * 1000
    entry = entry_for(known, result.id)
    if entry is not None:
        result.explanation = entry.reason
    if result.problems:
        result.outcome = report_pb2.OUTCOME_FAILED if entry is None else report_pb2.OUTCOME_KNOWN_FAILURE
    else:
        result.outcome = report_pb2.OUTCOME_PASSED if entry is None else report_pb2.OUTCOME_UNEXPECTED_PASS


def _clip(text: str) -> str:
    return text if len(text) <= 1000 else f"{text[:1000]}..."
