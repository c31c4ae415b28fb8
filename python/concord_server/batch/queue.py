# SPDX-License-Identifier: Apache-2.0
"""The queue of one version, bounded, and the executors that empty it. All of it is of one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from concord_server import fault
from concord_server.batch.plan import Drop, Limits, plan
from concord_server.batch.policy import Choice
from concord_server.batch.rows import Part, Result, Run, nbytes, one, rows_of, run
from concord_server.batch.watcher import Watcher
from concord_server.fault import Fault, Reason, quote, shown
from concord_server.model import Call, Model

__all__ = ["Job", "Queue"]

# The policy looks at so many executions ahead: a long queue of requests that run alone would be read for each of them.
_AHEAD = 16
# What runs on the event loop may have inputs so much larger than what was measured, and may take so long. One run may
# hold the garbage collector's; several in a row are the model's own.
_INLINE_GROWTH = 2
_INLINE_BYTES = 1024
_INLINE_SECONDS = 5e-3
_INLINE_SLOW = 3

_LEAST_RETRY, _MOST_RETRY = 0.01, 5.0
_WEIGHT = 1 / 8  # of one execution in a running mean

Results = Sequence[Result | Fault]


class Job:
    """Parts of one call that run together: see batch.plan for what a queue sees of it."""

    __slots__ = (
        "at", "call", "cancelled", "deadline", "execution", "future", "model", "parts", "rows", "shape", "timer",
        "wanted",
    )  # fmt: skip

    def __init__(self, model: Model, parts: Sequence[Part], wanted: Sequence[int], call: Call, joins: bool) -> None:
        self.model = model
        self.parts = parts
        self.wanted = wanted
        self.call = call
        self.at = time.monotonic()
        self.deadline = math.inf if call.deadline is None else call.deadline
        self.cancelled = False
        shape = _joint_shape(parts, wanted) if joins else None
        self.rows = sum(map(rows_of, parts))
        self.shape: Hashable = object() if shape is None else shape
        self.future: asyncio.Future[Results]
        self.timer: asyncio.TimerHandle | None = None
        self.execution: _Execution | None = None

    def ended(self) -> Fault | None:
        """Why nobody wants the answer any more; None where somebody does."""
        return fault.cancelled() if self.cancelled else self.call.ended()


class _Execution:
    """Jobs that run together, those of them that somebody still waits for, and how to end the run."""

    __slots__ = ("call", "jobs", "members", "runs", "started")

    def __init__(self, jobs: Sequence[Job], max_output_bytes: int) -> None:
        self.jobs = jobs
        self.members = len(jobs)
        self.call = Call(max_output_bytes=max_output_bytes)
        self.started = time.monotonic()
        self.runs: list[Run] = []

    def run(self) -> list[Results]:
        """The results of each job. In a thread of its own; nothing that ended meanwhile runs."""
        results: list[Results] = [()] * len(self.jobs)
        live = []
        for i, job in enumerate(self.jobs):
            ended = job.ended()
            if ended is None:
                live.append((i, job))
            else:
                results[i] = [ended] * len(job.parts)
        if not live:
            return results
        owners = [job for _, job in live for _ in job.parts]
        parts = [part for _, job in live for part in job.parts]
        head = live[0][1]
        done = run(head.model, parts, head.wanted, self.call, self.runs.append, lambda part: owners[part].ended())
        at = 0
        for i, job in live:
            results[i] = done[at : at + len(job.parts)]
            at += len(job.parts)
            for result in results[i]:
                if isinstance(result, Result):
                    result.queue_seconds = self.started - job.at
        return results


class Queue:
    """Requests that wait for one version, and its executions under way."""

    def __init__(
        self, model: Model, choice: Choice, threads: ThreadPoolExecutor, watcher: Watcher, max_output_bytes: int
    ) -> None:
        # Not the model itself, which would then never be freed.
        self._name: Final = (model.model_id, model.version)
        self.choice = choice
        self._inline_bytes = max(_INLINE_BYTES, _INLINE_GROWTH * model.measured.row_bytes)
        self._threads = threads
        self._watcher = watcher
        self._max_output_bytes = max_output_bytes
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Job, None] = {}  # in order of arrival
        self._rows = 0
        self._running = 0
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._row_seconds = 0.0  # of an execution, for each of its rows: a running mean
        self._slow = 0  # runs in a row that were too slow for the event loop

    def apply(self, choice: Choice, max_output_bytes: int) -> None:
        """Goes on under other limits; who waits stays."""
        self.choice = choice
        self._max_output_bytes = max_output_bytes
        self._wake()

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._rows

    @property
    def running(self) -> int:
        """Executions under way."""
        return self._running

    def check_room(self, rows: int = 1) -> None:
        """Raises Fault QUEUE_FULL where so many rows find no room; more than there ever is room for wait alone."""
        if self._rows and self._rows + rows > self.choice.max_queue_rows:
            if self._running < self.choice.executors:
                self._drain()
                if not self._rows or self._rows + rows <= self.choice.max_queue_rows:
                    return
            model_id, version = self._name
            text = (
                f"the queue of model {quote(model_id)} version {shown(version)} is full: "
                f"expected at most {self.choice.max_queue_rows} rows to wait"
            )
            full = Fault(Reason.QUEUE_FULL, text).at(model_id, version)
            full.retry_seconds = self._drained_seconds()
            raise full

    def _drained_seconds(self) -> float:
        """When the rows that wait will have run, as executions went so far: then it is worth to come back."""
        seconds = self._row_seconds * self._rows / self.choice.executors
        return round(min(max(seconds, _LEAST_RETRY), _MOST_RETRY), 3)

    def is_inline(self, inputs: Part) -> bool:
        """Whether a part is to run at once on the event loop: so quick that nobody notices."""
        return self.choice.inline and self._slow < _INLINE_SLOW and nbytes(inputs) <= self._inline_bytes

    def run_inline(self, model: Model, inputs: Part, wanted: Sequence[int], call: Call) -> Result:
        """Answers a part on the event loop. Raises Fault."""
        call.check()
        call.max_output_bytes = self._max_output_bytes
        call.terminable = False
        self._watcher.began(0.0)
        # The processor's time: on a busy machine the wall's says nothing of the model.
        begin = time.thread_time()
        result = one(model, inputs, wanted, call)
        self._slow = self._slow + 1 if time.thread_time() - begin > _INLINE_SECONDS else 0
        self._watcher.ran(1, result.rows, result.compute_seconds)
        return result

    async def run(self, job: Job) -> Results:
        """Answers a job's parts. Raises Fault where the queue is full, or where the job's deadline passes.

        When the caller is cancelled the job leaves; a run under way ends when nobody is left that wants it.
        """
        ended = job.ended()
        if ended is not None:
            raise ended
        self.check_room(job.rows)
        job.future = self._loop.create_future()
        if job.deadline < math.inf:
            job.timer = self._loop.call_later(max(job.deadline - time.monotonic(), 0), self._expire, job)
        self._waiting[job] = None
        self._rows += job.rows
        self._watcher.queued(job.rows)
        self._wake()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._leave(job)
            raise
        finally:
            if job.timer is not None:
                job.timer.cancel()
                job.timer = None

    def _expire(self, job: Job) -> None:
        """The deadline of a job has passed: its caller hears so at once, whatever runs."""
        if job.deadline > time.monotonic():  # the loop's clock is coarse
            job.timer = self._loop.call_later(0.001, self._expire, job)
            return
        if not job.future.done():
            self._leave(job)
            job.future.set_exception(job.call.expired())

    def _leave(self, job: Job) -> None:
        job.cancelled = True
        if job in self._waiting:
            self._take(job)
        elif job.execution is not None:
            job.execution.members -= 1
            if job.execution.members == 0:
                job.execution.call.cancel()

    def _take(self, job: Job) -> None:
        del self._waiting[job]
        self._rows -= job.rows
        self._watcher.queued(-job.rows)

    def _wake(self) -> None:
        """Has the queue emptied a turn later: the loop takes in first what has arrived, which may then run along."""
        if not self._woken and self._waiting and self._running < self.choice.executors:
            self._woken = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._woken = False
        self._drain()

    def _drain(self) -> None:
        """Begins what is due, as far as executors are free."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._running < self.choice.executors:
            limits = Limits(self.choice.max_batch_rows, self.choice.max_delay_seconds)
            now = time.monotonic()
            decision = plan(itertools.islice(self._waiting, _AHEAD * limits.max_rows), now, limits)
            for job, why in decision.dropped:
                self._take(job)
                if not job.future.done():
                    gone = job.call.expired() if why is Drop.DEADLINE else fault.cancelled()
                    job.future.set_exception(gone)
            if decision.run:
                self._begin(decision.run)
            elif decision.wait is not None:
                self._timer = self._loop.call_later(max(decision.wait - now, 0.001), self._drain)
                return

    def _begin(self, jobs: Sequence[Job]) -> None:
        execution = _Execution(jobs, self._max_output_bytes)
        for job in jobs:
            self._take(job)
            job.execution = execution
            for _ in job.parts:
                self._watcher.began(execution.started - job.at)
        self._running += 1
        self._threads.submit(self._work, execution)

    def _work(self, execution: _Execution) -> None:
        """In a thread."""
        try:
            results: list[Results] | BaseException = execution.run()
        except BaseException as error:  # a defect must not leave callers waiting
            results = error.with_traceback(None)
        # Once the loop is closed the server has stopped, and nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._done, execution, results)

    def _done(self, execution: _Execution, results: list[Results] | BaseException) -> None:
        self._running -= 1
        for ended in execution.runs:
            self._watcher.ran(ended.requests, ended.rows, ended.seconds)
            of_row = ended.seconds / ended.rows
            self._row_seconds += (of_row - self._row_seconds) * (_WEIGHT if self._row_seconds else 1)
        for i, job in enumerate(execution.jobs):
            job.execution = None
            if job.future.done():
                continue
            if isinstance(results, BaseException):
                job.future.set_exception(results)
            else:
                job.future.set_result(results[i])
        self._wake()


def _joint_shape(parts: Sequence[Part], wanted: Sequence[int]) -> Hashable | None:
    """What parts must agree in to share an execution; None where these can share none.

    Types need no mention: they are those of the graph's inputs.
    """
    first: Hashable | None = None
    for part in parts:
        shapes = [tensor.array.shape for tensor in part]
        if not shapes or not all(shapes):
            return None
        rows = shapes[0][0]
        if rows < 1 or any(shape[0] != rows for shape in shapes):
            return None
        rest = tuple(shape[1:] for shape in shapes)
        if first is None:
            first = rest
        elif first != rest:
            return None
    return tuple(wanted), first
