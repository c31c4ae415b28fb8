# SPDX-License-Identifier: Apache-2.0
"""Runs rows together where that changes no answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from concord_server.fault import Fault, Reason
from concord_server.model import Call, Model
from concord_server.tensor import Tensor, join

__all__ = ["Result", "one", "plan", "run"]


@dataclass(frozen=True, slots=True)
class Result:
    """What one row got."""

    outputs: list[Tensor]
    """The row alone: where an output has a batch axis, its length is 1."""
    compute_seconds: float
    """Time of the whole execution that held the row."""
    rows: int
    """In that execution."""


def plan(rows: Sequence[Sequence[Tensor]], max_rows: int) -> list[list[int]]:
    """Cuts rows into executions, each the indices of its rows.

    Rows of one execution have equal shapes and are at most max_rows; both rows and executions keep their order.
    """
    executions: list[list[int]] = []
    open_executions: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for i, row in enumerate(rows):
        shapes = tuple(tensor.array.shape for tensor in row)
        execution = open_executions.get(shapes)
        if execution is None or len(execution) == max_rows:
            execution = open_executions[shapes] = []
            executions.append(execution)
        execution.append(i)
    return executions


def run(model: Model, rows: Sequence[Sequence[Tensor]], wanted: Sequence[int], call: Call) -> list[Result | Fault]:
    """Answers rows of one model, each with a result of the same index.

    Each row holds the model's inputs with length 1 on the batch axis. Rows run together only where the model is
    batchable; where a joint run fails, each of its rows runs alone, so that only the bad one fails. Once the call has
    ended, the rows that are left get its fault.
    """
    results: list[Result | Fault | None] = [None] * len(rows)
    for execution in plan(rows, model.max_rows):
        together = _together(model, [rows[i] for i in execution], wanted, call) if len(execution) > 1 else None
        if together is None:
            together = [_one_or_fault(model, rows[i], wanted, call) for i in execution]
        for i, result in zip(execution, together, strict=True):
            results[i] = result
    return [result for result in results if result is not None]


def one(model: Model, row: Sequence[Tensor], wanted: Sequence[int], call: Call) -> Result:
    """Answers one row. Raises Fault."""
    begin = time.perf_counter()
    outputs = model.run(row, wanted, call)
    return Result(outputs, time.perf_counter() - begin, 1)


def _one_or_fault(model: Model, row: Sequence[Tensor], wanted: Sequence[int], call: Call) -> Result | Fault:
    try:
        return one(model, row, wanted, call)
    except Fault as fault:
        return fault


def _together(
    model: Model, rows: Sequence[Sequence[Tensor]], wanted: Sequence[int], call: Call
) -> Sequence[Result | Fault] | None:
    """One execution of several rows; None is that it failed and that each row must run alone."""
    if not rows[0]:
        return None  # without inputs there is nothing to say how many rows there are
    begin = time.perf_counter()
    try:
        outputs = model.run(join(rows), wanted, call)
    except Fault as fault:
        if fault.reason is Reason.MODEL_EXECUTION_FAILED:
            return None
        return [fault] * len(rows)
    seconds = time.perf_counter() - begin
    count = len(rows)
    if any(tensor.array.shape[:1] != (count,) for tensor in outputs):
        return None
    return [
        Result([Tensor(tensor.dtype, tensor.array[i : i + 1]) for tensor in outputs], seconds, count)
        for i in range(count)
    ]
