# SPDX-License-Identifier: Apache-2.0
"""What a version's executions take, and the proof that its rows may share one: both at load."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from concord_server.batch.rows import nbytes
from concord_server.fault import Fault, quote
from concord_server.model import Call, Measured, Model
from concord_server.tensor import DType, Spec, Tensor, elements, join

__all__ = ["measure", "neutral_row", "steady"]

BUDGET_SECONDS = 0.25
"""For all measurements and proofs of one version, but for the run that is under way then."""

# How many times the budget may pass on the wall where the processor does other work.
_PATIENCE = 8
_MOST_ROWS = 32
_MOST_BYTES = 16 << 20  # of all rows of one execution
_LEAST_RUNS, _MOST_RUNS = 3, 15

# Operators whose work follows from values, not from lengths alone: a small request may then run for ever.
_UNSTEADY = (
    b"Loop", b"Scan", b"SequenceMap", b"Expand", b"Range", b"Tile", b"ConstantOfShape", b"OneHot", b"Resize",
    b"Upsample", b"Pad", b"RandomNormal", b"RandomUniform", b"EyeLike", b"HannWindow", b"HammingWindow",
    b"BlackmanWindow", b"MelWeightMatrix", b"NonMaxSuppression", b"Col2Im", b"CenterCropPad", b"AffineGrid",
    b"MaxUnpool", b"Multinomial", b"STFT", b"DFT",
)  # fmt: skip
# A node's op_type in the serialized graph. The bytes may occur elsewhere; then a steady graph is taken for another.
_MARKS = tuple(b"\x22" + bytes([len(name)]) + name for name in _UNSTEADY)

# Versions load side by side; measured side by side, each would measure the others.
_alone = threading.Lock()

Row = tuple[Sequence[Tensor], Sequence[int]]
"""The model's inputs with one row, and the outputs wanted."""


def steady(graph: bytes) -> bool:
    """Whether what a run takes follows from the lengths of its inputs alone, as far as the operators tell."""
    return not any(mark in graph for mark in _MARKS)


def neutral_row(specs: Sequence[Spec]) -> list[Tensor] | None:
    """Inputs of ones and empty strings, with open lengths of 1; None where they would be large.

    Not zeros: an integer division would trap.
    """
    row = []
    for spec in specs:
        shape = [1 if length < 0 else length for length in spec.shape]
        count = elements(shape)
        if count is None or count * 8 > _MOST_BYTES:
            return None
        if spec.dtype is DType.STRING:
            array = np.empty(shape, dtype=object)
            array.reshape(-1)[:] = [b""] * count
        else:
            array = np.ones(shape, spec.dtype.storage)
        row.append(Tensor(spec.dtype, array))
    return row


def measure(
    model: Model,
    rows: Sequence[Row],
    *,
    steady: bool,
    budget_seconds: float = BUDGET_SECONDS,
    clock: Callable[[], float] | None = None,
) -> Measured:
    """Measures a model on rows that it answers, and tries whether they may run together. Raises nothing.

    Rows that fail are not measured. Only a batchable model is given several at once. `clock` is the processor's time of
    this thread, which is what a run takes whatever else the machine does; on a GPU it is the wall's.
    """
    if clock is None:
        clock = time.thread_time if model.device == "cpu" else time.perf_counter
    call = Call()
    # A row that runs for ever ends with the patience, where the runtime can end it.
    timer = threading.Timer(_PATIENCE * budget_seconds, call.cancel)
    timer.daemon = True
    try:
        with _alone:
            timer.start()
            return _measure(model, rows, steady, budget_seconds, clock, call)
    except Fault:
        return Measured(steady=steady)
    finally:
        timer.cancel()


def _measure(
    model: Model, rows: Sequence[Row], steady: bool, budget: float, clock: Callable[[], float], call: Call
) -> Measured:
    if not rows:
        return Measured(steady=steady)
    begin = clock()
    inputs, wanted = rows[0]
    row_bytes = nbytes(inputs)

    times: list[tuple[int, float]] = []
    least: list[tuple[int, float]] = []

    def take(count: int, share: float) -> float:
        """Measures a few runs of so many rows, within a share of the budget from here, and gives the least."""
        given = inputs if count == 1 else join([inputs] * count)
        end = clock() + share * budget
        taken: list[float] = []
        while len(taken) < _MOST_RUNS:
            before = clock()
            if taken and (before >= end if len(taken) >= _LEAST_RUNS else before >= begin + budget):
                break
            model.run(given, wanted, call)
            taken.append(clock() - before)
        times.append((count, statistics.median(taken)))
        least.append((count, min(taken)))
        return min(taken)

    def measured(reason: str = "") -> Measured:
        return Measured(tuple(times), tuple(least), row_bytes, steady=steady, unbatchable_reason=reason)

    alone = take(1, 0.2)
    if not model.batchable or not inputs:
        return measured()
    most = min(_MOST_ROWS, model.most_rows, max(2, _MOST_BYTES // max(row_bytes, 1)))
    # What is slow is tried with fewer rows, at least two.
    affordable = max(2, int(0.3 * budget / max(alone, 1e-9)))
    reason = _difference(model, rows, min(most, affordable), call) if most > 1 else ""
    if reason:
        return measured(reason)
    for count in (8, 32):
        if count <= most and clock() + count * alone < begin + budget:
            take(count, 0.2)
    return measured()


def _difference(model: Model, rows: Sequence[Row], count: int, call: Call) -> str:
    """Why rows must not run together: what differs from running alone; empty where nothing does."""
    shape = _shape(rows[0])
    alike = [row for row in rows if _shape(row) == shape][:count]
    wanted = alike[0][1]
    alone = [model.run(inputs, wanted, call) for inputs, _ in alike]
    # The golden cases again and again, so that the last row is none that could be alone.
    order = [i % len(alike) for i in range(count)]
    try:
        together = model.run(join([alike[i][0] for i in order]), wanted, call)
    except Fault as fault:
        call.check()
        return f"{count} rows of the golden cases together: {fault.message}"
    for index, tensor in zip(wanted, together, strict=True):
        name = quote(model.session.outputs[index].name)
        if tensor.array.shape[:1] != (count,):
            return f"{count} rows of the golden cases together: output {name} does not have a row for each"
    for at, i in enumerate(order):
        for place, index in enumerate(wanted):
            tensor = together[place]
            if not (model.near or _same)(Tensor(tensor.dtype, tensor.array[at : at + 1]), alone[i][place]):
                name = quote(model.session.outputs[index].name)
                return f"{count} rows of the golden cases together: output {name} differs from the row's alone"
    return ""


def _shape(row: Row) -> Hashable:
    inputs, wanted = row
    return tuple(wanted), tuple(tensor.array.shape for tensor in inputs)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to the bit."""
    if a.dtype is not b.dtype or a.array.shape != b.array.shape:
        return False
    if a.dtype is DType.STRING:
        return bool(a.array.reshape(-1).tolist() == b.array.reshape(-1).tolist())
    return a.array.tobytes() == b.array.tobytes()
