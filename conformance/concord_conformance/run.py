# SPDX-License-Identifier: Apache-2.0
"""Runs cases against one server."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import grpc
from concord_proto.conformance.v1 import report_pb2, suite_pb2
from google.protobuf import json_format

from concord_conformance.client import Client
from concord_conformance.fill import FillError
from concord_conformance.judge import step_problems
from concord_conformance.known_failing import Entry, entry_for
from concord_conformance.suite import LoadedCase, LoadedSuite

__all__ = ["Selection", "run_cases"]

_ALIVE_WITHIN_MS = 20_000

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


def run_cases(
    suites: Sequence[LoadedSuite],
    client: Client,
    selection: Selection,
    known: Sequence[Entry],
    alive: Callable[[], bool],
) -> Iterator[report_pb2.CaseResult]:
    """Runs the selected cases in order and gives a result for every case, selected or not."""
    for suite in suites:
        skipped = _why_not(suite, client, selection)
        for case in suite.cases:
            result = report_pb2.CaseResult(
                id=case.id,
                profile=case.profile,
                level=case.level,  # type: ignore[arg-type]
                description=case.description,
            )
            why = skipped or ("" if selection.wanted(case.id) else "not selected")
            if why:
                result.outcome = report_pb2.OUTCOME_SKIPPED
                result.explanation = why
            else:
                begin = time.perf_counter()
                result.problems.extend(_clip(problem) for problem in _case_problems(case, client, alive))
                result.duration_ms = (time.perf_counter() - begin) * 1000
                _settle(result, entry_for(known, case.id))
            yield result


def _why_not(suite: LoadedSuite, client: Client, selection: Selection) -> str:
    """Why no case of the suite runs; empty if they do."""
    if selection.profiles:
        return "" if suite.profile in selection.profiles else "profile not selected"
    if suite.probe is None:
        return ""
    problems = step_problems(suite.probe, client.perform(suite.probe), client.alone)
    return f"the server does not have this profile: {_clip(problems[0])}" if problems else ""


def _case_problems(case: LoadedCase, client: Client, alive: Callable[[], bool]) -> list[str]:
    problems: list[str] = []
    for number, step in enumerate(case.steps):
        try:
            found = step_problems(step, client.perform(step), client.alone)
        except FillError as error:
            found = [f"the case is wrong: {error}"]
        if found:
            where = f"step {number + 1}: " if len(case.steps) > 1 else ""
            problems += [where + problem for problem in found]
            break
    return problems + _liveness_problems(client, alive)


def _liveness_problems(client: Client, alive: Callable[[], bool]) -> list[str]:
    """Whether the same process still answers. It is asked after every case, the harmless ones too."""
    try:
        problems = step_problems(_LIVENESS, client.perform(_LIVENESS), client.alone)
    except grpc.RpcError as error:
        problems = [str(error)]
    if not alive():
        problems.append("the server's process is gone")
    return [f"afterwards: {problem}" for problem in problems]


def _settle(result: report_pb2.CaseResult, entry: Entry | None) -> None:
    if entry is not None:
        result.explanation = entry.reason
    if result.problems:
        result.outcome = report_pb2.OUTCOME_FAILED if entry is None else report_pb2.OUTCOME_KNOWN_FAILURE
    else:
        result.outcome = report_pb2.OUTCOME_PASSED if entry is None else report_pb2.OUTCOME_UNEXPECTED_PASS


def _clip(text: str) -> str:
    return text if len(text) <= 1000 else f"{text[:1000]}..."
