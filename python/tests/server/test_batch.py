# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_server import batch
from concord_server.batch import Executor, Result
from concord_server.fault import Fault, Reason
from concord_server.model import Call, Model
from concord_server.tensor import DType, Tensor
from hypothesis import given
from hypothesis import strategies as st


def row(width: int) -> list[Tensor]:
    return [Tensor(DType.FLOAT, np.zeros((1, width), np.float32))]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_a_plan_holds_every_row_once_and_mixes_no_shapes(widths: list[int], most: int) -> None:
    executions = batch.plan([row(width) for width in widths], most)
    assert sorted(i for execution in executions for i in execution) == list(range(len(widths)))
    for execution in executions:
        assert 1 <= len(execution) <= most
        assert execution == sorted(execution)
        assert len({widths[i] for i in execution}) == 1
    assert [execution[0] for execution in executions] == sorted(execution[0] for execution in executions)


def test_a_plan_fills_executions() -> None:
    assert batch.plan([row(1)] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert batch.plan([row(1), row(2), row(1)], 8) == [[0, 2], [1]]


def model(kit: SimpleNamespace, session: Any, batchable: bool = True, max_rows: int = 0) -> Model:
    return Model("m", "1", kit.tabular, session, features="", batchable=batchable, max_rows=max_rows)


def numbers(results: Sequence[Result | Fault]) -> list[Any]:
    return [r.outputs[0].array.tolist() if isinstance(r, Result) else r.reason for r in results]


def test_rows_run_together_and_results_keep_their_order(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    results = batch.run(model(kit, session, max_rows=2), [[kit.floats(i, i)] for i in range(5)], [0], Call())
    assert numbers(results) == [[[2 * i, 2 * i]] for i in range(5)]
    assert [len(given[0].array) for given in session.runs] == [2, 2, 1]
    assert [r.rows for r in results if isinstance(r, Result)] == [2, 2, 2, 2, 1]


def test_the_bad_row_fails_alone(kit: SimpleNamespace) -> None:
    rows = [[kit.floats(i, i)] for i in (1, -1, 3)]
    results = batch.run(model(kit, kit.doubling()), rows, [0], Call())
    assert numbers(results) == [[[2, 2]], Reason.MODEL_EXECUTION_FAILED, [[6, 6]]]
    assert [r.rows for r in results if isinstance(r, Result)] == [1, 1]


def test_rows_of_a_model_that_is_not_batchable_run_alone(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    batch.run(model(kit, session, batchable=False), [[kit.floats(i, i)] for i in range(3)], [0], Call())
    assert [len(given[0].array) for given in session.runs] == [1, 1, 1]


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
