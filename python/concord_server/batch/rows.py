# SPDX-License-Identifier: Apache-2.0
"""Runs requests together where that changes no answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from concord_server.fault import Fault, Reason
from concord_server.model import Call, Model
from concord_server.tensor import DType, Tensor, join

__all__ = ["Part", "Result", "Run", "nbytes", "one", "rows_of", "run"]

_MAX_INT32 = (1 << 31) - 1

Part = Sequence[Tensor]
"""The model's inputs, of one row or more, that get an answer of their own."""


@dataclass(slots=True)
class Result:
    """What one part got."""

    outputs: list[Tensor]
    """The part's alone: where an output has a batch axis, its length is the part's rows."""
    compute_seconds: float
    """Time of the whole execution that held the part."""
    rows: int
    """In that execution."""
    ended: float
    """When the execution had ended, by time.perf_counter()."""
    queue_seconds: float = 0
    """How long the part waited for the execution."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution that has ended."""

    requests: int
    rows: int
    seconds: float


def one(model: Model, inputs: Part, wanted: Sequence[int], call: Call) -> Result:
    """Answers one part. Raises Fault."""
    begin = time.perf_counter()
    outputs = model.run(inputs, wanted, call)
    ended = time.perf_counter()
    return Result(outputs, ended - begin, rows_of(inputs), ended)


def run(
    model: Model,
    parts: Sequence[Part],
    wanted: Sequence[int],
    call: Call,
    ran: Callable[[Run], None] = lambda _run: None,
    ended: Callable[[int], Fault | None] = lambda _index: None,
) -> list[Result | Fault]:
    """Answers parts, each with a result of the same index; several run together.

    Where a joint run fails, each part runs alone, so that only the bad one fails; those of which `ended` gives a fault
    by then do not. Parts of several rows must have the same length on axis 0 of all inputs, outputs as well.
    """
    results: list[Result | Fault] | None = None
    if len(parts) > 1:
        results = _together(model, parts, wanted, call, ran)
    if results is None:
        results = []
        for i, part in enumerate(parts):
            try:
                fault = ended(i)
                if fault is not None:
                    raise fault
                result = one(model, part, wanted, call)
                ran(Run(1, result.rows, result.compute_seconds))
                results.append(result)
            except Fault as failure:
                results.append(failure.with_traceback(None))
    return results


def _together(
    model: Model, parts: Sequence[Part], wanted: Sequence[int], call: Call, ran: Callable[[Run], None]
) -> list[Result | Fault] | None:
    """One execution of several parts; None is that it failed and that each part must run alone."""
    if not parts[0]:
        return None  # without inputs there is nothing to say how many rows there are
    begin = time.perf_counter()
    try:
        outputs = model.run(join(parts), wanted, call, requests=len(parts))
    except Fault as fault:
        if fault.reason in (Reason.MODEL_EXECUTION_FAILED, Reason.OUTPUT_TOO_LARGE):
            return None
        return [fault.with_traceback(None)] * len(parts)
    ended = time.perf_counter()
    seconds = ended - begin
    lengths = [part[0].array.shape[0] for part in parts]
    count = sum(lengths)
    if any(tensor.array.shape[:1] != (count,) for tensor in outputs):
        return None
    ran(Run(len(parts), count, seconds))
    results: list[Result | Fault] = []
    at = 0
    for length in lengths:
        cut = [Tensor(tensor.dtype, tensor.array[at : at + length]) for tensor in outputs]
        at += length
        try:
            model.check_size(cut, call)
        except Fault as fault:
            results.append(fault.with_traceback(None))
        else:
            results.append(Result(cut, seconds, count, ended))
    return results


def rows_of(inputs: Part) -> int:
    """The length of the first input's axis 0, or 1 where there is none."""
    if not inputs or not inputs[0].array.shape:
        return 1
    return int(min(max(inputs[0].array.shape[0], 1), _MAX_INT32))


def nbytes(inputs: Part) -> int:
    """What the inputs hold, in bytes."""
    return sum(tensor.array.nbytes if tensor.dtype is not DType.STRING else tensor.nbytes for tensor in inputs)
