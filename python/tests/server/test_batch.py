# SPDX-License-Identifier: Apache-2.0
"""The policy by the scripts of conformance/batch, and rows that run together."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from concord_server import batch
from concord_server.batch import Executor, Limits, Result, plan
from concord_server.fault import Fault, Reason
from concord_server.model import Call, Model
from concord_server.tensor import DType, Tensor
from hypothesis import given
from hypothesis import strategies as st

SCRIPTS = sorted((Path(__file__).parents[3] / "conformance/batch").glob("*.txt"))


@dataclass(eq=False)
class Request:
    name: str
    at: float
    rows: int = 1
    shape: str = "a"
    deadline: float = math.inf
    cancelled: bool = False


class Play:
    """A script's queue."""

    def __init__(self) -> None:
        self.queue: list[Request] = []
        self.limits = Limits(1)

    def do(self, line: str) -> list[str]:
        command, *words = line.split()
        names = [word for word in words if "=" not in word]
        numbers = dict(word.split("=") for word in words if "=" in word)
        if command == "limits":
            self.limits = Limits(int(numbers["max_rows"]), int(numbers["max_delay_ms"]))
        elif command == "add":
            made = Request(names[0], int(numbers["at"]), int(numbers.get("rows", 1)), numbers.get("shape", "a"))
            made.deadline = float(numbers.get("deadline", math.inf))
            self.queue.append(made)
        elif command == "cancel":
            next(request for request in self.queue if request.name == names[0]).cancelled = True
        else:
            assert command == "plan", line
            return self.plan(int(numbers["at"]))
        return []

    def plan(self, now: int) -> list[str]:
        dropped, run, wait = plan(self.queue, now, self.limits)
        gone = [*(request for request, _ in dropped), *run]
        self.queue = [request for request in self.queue if request not in gone]
        lines = [f"drop {request.name} {why.value}" for request, why in dropped]
        if run:
            return [*lines, " ".join(["run", *(request.name for request in run)])]
        return [*lines, "idle" if wait is None else f"wait {wait:g}"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.stem))
def test_the_policy_keeps_to_its_scripts(path: Path) -> None:
    played, blocks = Play(), 0
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for block in "\n".join(lines).strip().split("\n\n"):
        commands, _, expected = block.strip().partition("\n----\n")
        got = [line for command in commands.splitlines() for line in played.do(command)]
        assert got == expected.splitlines(), block
        blocks += 1
    assert blocks > 1


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 5


requests = st.builds(
    Request,
    name=st.just("r"),
    at=st.integers(0, 9),
    rows=st.integers(1, 6),
    shape=st.sampled_from("ab"),
    deadline=st.one_of(st.just(math.inf), st.integers(0, 20)),
    cancelled=st.booleans(),
)


@given(st.lists(requests, max_size=20), st.integers(0, 20), st.integers(1, 8), st.integers(0, 5))
def test_whatever_waits_is_dropped_run_or_left(queue: list[Request], now: int, rows: int, delay: int) -> None:
    dropped, run, wait = plan(queue, now, Limits(rows, delay))
    gone = [request for request in queue if request.cancelled or request.deadline <= now]
    assert [request for request, _ in dropped] == gone
    left = [request for request in queue if request not in gone]
    assert (wait is None) == (bool(run) or not left)
    assert wait is None or wait > now
    assert len({request.shape for request in run}) <= 1
    assert len(run) <= 1 or sum(request.rows for request in run) <= rows
    if run:  # the oldest of their shape, in order
        alike = [request for request in left if request.shape == run[0].shape]
        assert alike[: len(run)] == run
    if delay == 0 and all(request.at <= now for request in left):
        assert run[:1] == left[:1]


def model(kit: SimpleNamespace, session: Any, batchable: bool = True, max_rows: int = 0) -> Model:
    return Model("m", "1", kit.tabular, session, features="", batchable=batchable, max_rows=max_rows)


def numbers(results: Sequence[Result | Fault]) -> list[Any]:
    return [r.outputs[0].array.tolist() if isinstance(r, Result) else r.reason for r in results]


def test_rows_run_together_and_results_keep_their_order(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    results = batch.run(model(kit, session), [[kit.floats(i, i)] for i in range(5)], [0], Call())
    assert numbers(results) == [[[2 * i, 2 * i]] for i in range(5)]
    assert [len(given[0].array) for given in session.runs] == [5]
    assert [r.rows for r in results if isinstance(r, Result)] == [5] * 5


def test_parts_of_several_rows_get_their_own(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    parts = [[kit.floats(1, 1, 2, 2, rows=2)], [kit.floats(3, 3)]]
    results = batch.run(model(kit, session), parts, [0], Call())
    assert numbers(results) == [[[2, 2], [4, 4]], [[6, 6]]]
    assert [r.rows for r in results if isinstance(r, Result)] == [3, 3]


def test_the_bad_row_fails_alone(kit: SimpleNamespace) -> None:
    rows = [[kit.floats(i, i)] for i in (1, -1, 3)]
    results = batch.run(model(kit, kit.doubling()), rows, [0], Call())
    assert numbers(results) == [[[2, 2]], Reason.MODEL_EXECUTION_FAILED, [[6, 6]]]
    assert [r.rows for r in results if isinstance(r, Result)] == [1, 1]


def test_who_has_gone_is_not_tried_alone(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    rows = [[kit.floats(i, i)] for i in (1, -1, 3)]
    gone = Fault(Reason.CANCELLED, "gone")
    results = batch.run(model(kit, session), rows, [0], Call(), ended=lambda i: gone if i == 2 else None)
    assert numbers(results) == [[[2, 2]], Reason.MODEL_EXECUTION_FAILED, Reason.CANCELLED]
    assert len(session.runs) == 3


def test_outputs_that_do_not_hold_the_rows_are_tried_alone(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    session.work = lambda given: [Tensor(DType.FLOAT, given[0].array.sum(axis=0, keepdims=True))]
    results = batch.run(model(kit, session), [[kit.floats(i, i)] for i in (1, 2)], [0], Call())
    assert numbers(results) == [[[1, 1]], [[2, 2]]]


def test_once_the_call_has_ended_nothing_runs(kit: SimpleNamespace) -> None:
    session, call = kit.doubling(), Call()
    call.cancel()
    results = batch.run(model(kit, session), [[kit.floats(1, 1)]] * 3, [0], call)
    assert numbers(results) == [Reason.CANCELLED] * 3
    assert session.runs == []


def test_each_part_has_its_own_limit_of_output(kit: SimpleNamespace) -> None:
    parts = [[kit.floats(1, 1, 2, 2, rows=2)], [kit.floats(3, 3)]]
    results = batch.run(model(kit, kit.doubling()), parts, [0], Call(max_output_bytes=8))
    assert numbers(results) == [Reason.OUTPUT_TOO_LARGE, [[6, 6]]]
    assert isinstance(results[0], Fault)
    assert results[0].message == "the answer of 16 bytes is larger than the limit of 8 bytes"


async def test_an_executor_works_off_the_event_loop() -> None:
    executor = Executor(1)
    waited, thread = await executor.run(Call(), lambda seconds: (seconds, threading.current_thread()))
    assert waited >= 0
    assert thread is not threading.current_thread()
    assert not executor.busy
    executor.close()


async def test_what_expired_in_the_queue_never_runs() -> None:
    executor = Executor(1)
    ran: list[int] = []
    with pytest.raises(Fault) as caught:
        await executor.run(Call(time.monotonic() - 1), lambda _: ran.append(1))
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert ran == []
    executor.close()


async def test_cancelling_the_caller_cancels_the_call(kit: SimpleNamespace) -> None:
    executor, call = Executor(1), Call()
    gate = kit.Gate(kit.doubling().inputs, kit.doubling().outputs)
    task = asyncio.ensure_future(executor.run(call, lambda _: gate.run([kit.floats(1, 1)], [0], call)))
    behind = asyncio.ensure_future(executor.run(Call(), lambda _: "never"))
    await asyncio.to_thread(gate.begun.wait, kit.LIMIT)
    assert executor.busy
    behind.cancel()
    task.cancel()
    for cancelled in (task, behind):
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    assert await asyncio.to_thread(gate.terminated.wait, kit.LIMIT)
    assert gate.runs == []
    executor.close()
