# SPDX-License-Identifier: Apache-2.0
"""Text generation for callers: whole texts, and streams of tokens, from requests whose version is found."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable

from concord_proto.inference.v1 import inference_service_pb2

from concord_server import fault
from concord_server.batch import Engine
from concord_server.fault import Fault
from concord_server.generate import Ending, Generation, Generator, Watcher, put_answer, put_ending
from concord_server.model import Call, Model
from concord_server.telemetry import Generated, Record

__all__ = ["Generations", "Watch", "Write"]

PredictRequest = inference_service_pb2.PredictRequest
PredictResponse = inference_service_pb2.PredictResponse
PredictToken = inference_service_pb2.PredictToken

Watch = Callable[[str, str, int], Watcher]
"""Makes the watcher of a model's version whose keys and values take so many bytes."""

Write = Callable[[bytes], Awaitable[None]]
"""Sends a message of a stream, and waits until the caller takes more."""


class Generations:
    """Begins the generations of one event loop. All failures are Faults."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        """`engine` has the threads in which prompts become tokens, and knows how many requests may wait."""
        self._engine = engine
        self._watch = watch
        self._served: weakref.WeakSet[Generator] = weakref.WeakSet()

    @property
    def busy(self) -> bool:
        """Whether texts are generated."""
        return any(generator.engine.busy for generator in self._served)

    def serve(self, model: Model) -> Generator:
        """The generator of a model, whose watcher sees it from now on."""
        generator = model.generator
        if generator is None:
            raise ValueError("not a generator")
        if generator not in self._served:
            self._served.add(generator)
            watcher = self._watch(model.model_id, model.version, generator.cache_bytes)
            generator.engine.serve(asyncio.get_running_loop(), watcher)
        generator.engine.max_waiting = self._engine.choice(model).max_queue_rows
        return generator

    def at_once(self, model: Model) -> int:
        """How many generations of one call may be under way at once."""
        generator = self.serve(model)
        return min(generator.slots, generator.engine.max_waiting)

    async def whole(
        self, model: Model, request: PredictRequest, request_id: str, call: Call, record: Record, *, large: bool
    ) -> PredictResponse:
        """Answers with the whole text. Who holds the model keeps the generator."""
        generator = self.serve(model)
        generation = await self._begin(generator, model, request, call, record, large=large)
        try:
            tokens, ending = await generation.all()
        finally:
            _left(generator, generation)
        record.generates(_told(generation, ending))
        if ending.fault is not None:
            raise ending.fault
        response = PredictResponse(request_id=request_id, model_version=model.version)
        put_answer(tokens, ending, response)
        response.latency_ms = (time.perf_counter() - record.begin) * 1e3
        return response

    async def stream(
        self, model: Model, request: PredictRequest, request_id: str, call: Call, record: Record, write: Write
    ) -> None:
        """Writes a message for each token as it comes, then the final one."""
        generator = self.serve(model)
        generation = await self._begin(generator, model, request, call, record, large=False)
        ending: Ending | None = None
        # One message for all: what differs is little.
        message = PredictToken(request_id=request_id, model_version=model.version)
        index = 0
        try:
            while ending is None:
                tokens, ending = await generation.next()
                for token in tokens:
                    message.token_id, message.token = token
                    message.token_index = index
                    index += 1
                    await write(message.SerializeToString())
        finally:
            _left(generator, generation)
            if generation.ended is not None:
                record.generates(_told(generation, generation.ended))
        if ending.fault is not None:
            raise ending.fault
        final = PredictToken(is_final=True, token_index=index, request_id=request_id, model_version=model.version)
        put_ending(ending, final)
        await write(final.SerializeToString())

    async def _begin(
        self, generator: Generator, model: Model, request: PredictRequest, call: Call, record: Record, *, large: bool
    ) -> Generation:
        if large:  # what is wrong with a request is said first; a large one is not worth that
            generator.engine.check_room()
        try:
            asked = await self._engine.off_loop(
                lambda: generator.ask(request.features, request.config, request.request_id)
            )
            try:
                return generator.begin(asked, call, record.begin)
            except Fault:
                asked.text.close()
                raise
        except Fault as failure:
            raise failure.at(model.model_id, model.version) from failure.__cause__


def _left(generator: Generator, generation: Generation) -> None:
    """Nobody reads any more; where the end has not come, nobody wants it."""
    if not generation.over:
        generator.engine.leave(generation, fault.cancelled())


def _told(generation: Generation, ending: Ending) -> Generated:
    return Generated(
        came=generation.since,
        began=ending.began,
        first=ending.decoding,
        until=time.perf_counter(),
        compute_seconds=ending.compute_seconds,
        prompt_tokens=ending.prompt_tokens,
        tokens=ending.tokens,
        rows=ending.rows,
    )
