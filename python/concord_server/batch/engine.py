# SPDX-License-Identifier: Apache-2.0
"""Runs requests of all versions: a queue for each, and the threads that they share."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from concord_proto.inference.v1 import model_pb2

from concord_server.batch.policy import Choice, Settings, choose, cores
from concord_server.batch.queue import Job, Queue, Results
from concord_server.batch.rows import Part, Result
from concord_server.batch.watcher import Watcher, nobody
from concord_server.fault import Fault
from concord_server.model import Call, Model

__all__ = ["Engine"]

T = TypeVar("T")

# All versions' executors together. A thread is only made when none is free.
_MOST_THREADS = 1024


class Engine:
    """All queues, of one event loop."""

    def __init__(
        self,
        settings: Callable[[str], Settings] = lambda _model_id: Settings(),
        *,
        watch: Callable[[str, str], Watcher] = nobody,
        max_output_bytes: int = 0,
        processors: int | None = None,
    ) -> None:
        """`settings` are those of a model by its id, `watch` makes the watcher of a model's version.

        `max_output_bytes` is the most that one request's outputs may hold; 0 is any. `processors` are those that are
        this process's share; all that it may use where nothing is said.
        """
        self._settings = settings
        self._watch = watch
        self._max_output_bytes = max_output_bytes
        self._processors = processors or cores()
        self._queues: weakref.WeakKeyDictionary[Model, Queue] = weakref.WeakKeyDictionary()
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="run")
        self._helpers = ThreadPoolExecutor(max(2, self._processors), thread_name_prefix="decode")
        self._helping = 0

    def apply(self, settings: Callable[[str], Settings], *, max_output_bytes: int | None = None) -> None:
        """Runs under other settings from now on; who waits stays."""
        self._settings = settings
        if max_output_bytes is not None:
            self._max_output_bytes = max_output_bytes
        for model, queue in list(self._queues.items()):
            queue.apply(self.choice(model), self._max_output_bytes)

    def choice(self, model: Model) -> Choice:
        """How a version runs."""
        return choose(model, self._settings(model.model_id), self._processors)

    def execution(self, model: Model) -> model_pb2.Execution:
        """How a version runs, as the catalog shows it."""
        choice, measured = self.choice(model), model.measured
        if (generator := model.generator) is not None:
            return model_pb2.Execution(
                executors=1,
                max_batch_rows=generator.slots,
                max_queue_rows=choice.max_queue_rows,
                device=model.device,
                generation_slots=generator.slots,
                context_length=generator.context,
                kv_cache_bytes=generator.cache_bytes,
                prefill_chunk_tokens=generator.engine.chunk_tokens,
            )
        return model_pb2.Execution(
            policy=choice.policy.value,
            source=choice.source,
            executors=choice.executors,
            max_batch_rows=choice.max_batch_rows,
            max_delay_ms=round(choice.max_delay_seconds * 1e3),
            max_queue_rows=choice.max_queue_rows,
            device=model.device,
            cpu_nodes=model.cpu_nodes,
            measurements=[
                model_pb2.Measurement(rows=rows, microseconds=seconds * 1e6) for rows, seconds in measured.times
            ],
            unbatchable_reason=measured.unbatchable_reason,
        )

    def check_room(self, model: Model) -> None:
        """Raises Fault QUEUE_FULL where a request would find no room: before it is worth reading."""
        self._queue(model).check_room()

    def inline(self, model: Model) -> Queue | None:
        """The queue of a version whose requests may run at once on the event loop; each must ask it for itself."""
        queue = self._queue(model)
        return queue if queue.choice.inline else None

    async def answer(self, model: Model, part: Part, wanted: Sequence[int], call: Call) -> Result:
        """Answers one part. Raises Fault."""
        queue = self._queue(model)
        if queue.is_inline(part):
            return queue.run_inline(model, part, wanted, call)
        result = (await queue.run(Job(model, (part,), wanted, call, queue.choice.joins)))[0]
        if isinstance(result, Fault):
            raise result
        return result

    async def answer_all(
        self, model: Model, rows: Sequence[Part], wanted: Sequence[int], call: Call
    ) -> Sequence[Result | Fault]:
        """Answers rows of one call, each with a result of the same index, so that others get their turn in between."""
        queue = self._queue(model)
        choice = queue.choice
        results: list[Result | Fault | None] = [None] * len(rows)
        chunks = iter(_chunks(rows, choice.max_chunk_rows))

        async def work() -> None:
            for chunk in chunks:
                job = Job(model, [rows[i] for i in chunk], wanted, call, choice.joins)
                given: Results
                try:
                    given = await queue.run(job)
                except Fault as failure:
                    given = [failure.with_traceback(None)] * len(chunk)
                for i, result in zip(chunk, given, strict=True):
                    results[i] = result

        # No more at once than can run: the rest of the queue is for others.
        workers = min(choice.executors, -(-len(rows) // choice.max_chunk_rows))
        if workers <= 1:
            await work()
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
        return [result for result in results if result is not None]

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Does in a thread what would hold up the event loop."""
        self._helping += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._helpers, work)
        finally:
            self._helping -= 1

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self._helping > 0 or any(queue.running for queue in self._queues.values())

    def close(self) -> None:
        """Begins nothing more and waits for nothing."""
        for threads in (self._threads, self._helpers):
            threads.shutdown(wait=False, cancel_futures=True)

    def _queue(self, model: Model) -> Queue:
        queue = self._queues.get(model)
        if queue is None:
            watcher = self._watch(model.model_id, model.version)
            queue = Queue(model, self.choice(model), self._threads, watcher, self._max_output_bytes)
            self._queues[model] = queue
        return queue


def _chunks(rows: Sequence[Part], most: int) -> Iterator[list[int]]:
    """Cuts rows into chunks, each the indices of its rows: of equal shapes, at most so many, in order."""
    chunks: list[list[int]] = []
    having_room: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for i, row in enumerate(rows):
        shapes = tuple(tensor.array.shape for tensor in row)
        chunk = having_room.get(shapes)
        if chunk is None or len(chunk) == most:
            chunk = having_room[shapes] = []
            chunks.append(chunk)
        chunk.append(i)
    return iter(chunks)
