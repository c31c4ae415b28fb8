# SPDX-License-Identifier: Apache-2.0
"""inference.v1.ModelInference: a model's own tensors in, its own tensors out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from concord_proto.inference.v1 import model_inference_pb2, model_pb2

from concord_server import batch
from concord_server.batch import Engine
from concord_server.fault import Fault, Reason, quote
from concord_server.model import Model, check_name, decode_tensors
from concord_server.repository import Repository
from concord_server.server.guard import Received
from concord_server.server.request import answer_too_large, check_batch, logged, request_id_of
from concord_server.server.status import status_of
from concord_server.tensor import Tensor, to_wire

__all__ = ["TensorInference"]

PredictionRequest = model_inference_pb2.PredictionRequest
PredictionResponse = model_inference_pb2.PredictionResponse
BatchPredictionRequest = model_inference_pb2.BatchPredictionRequest
BatchPredictionResponse = model_inference_pb2.BatchPredictionResponse
BatchPredictionResult = model_inference_pb2.BatchPredictionResult


# What is larger is read and written off the event loop, which others wait for.
_LARGE = 64 << 10
# Most requests of one batch that are worked on at once.
_MOST_AT_ONCE = 64


class TensorInference:
    """Answers requests on the event loop. All failures are Faults."""

    def __init__(self, repository: Repository, engine: Engine, max_batch_requests: int, max_message_bytes: int) -> None:
        self._repository = repository
        self._engine = engine
        self.max_batch_requests = max_batch_requests
        self._limit = max_message_bytes

    async def predict(self, received: Received[PredictionRequest]) -> PredictionResponse:
        """Answers one request."""
        request = received.message
        request_id = request_id_of(request.request_id)
        try:
            received.record.request_id = request_id
            return await self._answer(request_id, request, received, received.size > _LARGE)
        except Fault as failure:
            raise logged(request_id, failure) from None

    async def batch_predict(self, received: Received[BatchPredictionRequest]) -> BatchPredictionResponse:
        """Answers many requests, each by itself and with a result of its own, in their order."""
        requests, call = received.message.requests, received.call
        check_batch(len(requests), self.max_batch_requests)
        response = BatchPredictionResponse()
        large = received.size > _LARGE
        total = at = 0
        while at < len(requests):
            some = requests[at : at + self._at_once(requests[at])]
            at += len(some)
            for result in await self._answer_some(some, received, large):
                # Told at once: what follows would be computed and held for nothing.
                size = result.ByteSize()
                total += 1 + _varint_bytes(size) + size
                if total > self._limit:
                    raise answer_too_large(total, self._limit)
                response.results.append(result)
            # No one reads the results of a call that has ended.
            call.check()
            await asyncio.sleep(0)  # what runs inline would let nobody else have a turn
        return response

    def _at_once(self, request: PredictionRequest) -> int:
        """How many requests of a batch wait at once; the rest of the queue is for others."""
        try:
            choice = self._engine.choice(self._repository.resolve(request.model_id, request.model_version))
        except Fault:
            return 1
        return min(choice.executors * choice.max_batch_rows, _MOST_AT_ONCE)

    async def _answer_some(
        self, requests: Sequence[PredictionRequest], received: Received[Any], large: bool
    ) -> Sequence[BatchPredictionResult]:
        if len(requests) == 1:
            return [await self._result(requests[0], received, large)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._result(request, received, large)) for request in requests]
        return [task.result() for task in tasks]

    async def _result(self, request: PredictionRequest, received: Received[Any], large: bool) -> BatchPredictionResult:
        request_id = request_id_of(request.request_id)
        try:
            return BatchPredictionResult(response=await self._answer(request_id, request, received, large))
        except Fault as failure:
            received.record.item_failed(failure.reason)
            return BatchPredictionResult(error=status_of(logged(request_id, failure)))

    async def _answer(
        self, request_id: str, request: PredictionRequest, received: Received[Any], large: bool
    ) -> PredictionResponse:
        """Takes one request from its names to its answer."""
        check_name(request.model_id, request.model_version)
        model = self._repository.resolve(request.model_id, request.model_version)
        received.record.answers(model.model_id, model.version)
        try:
            return await self._run(model, request_id, request, received, large)
        except Fault as failure:
            raise failure.at(model.model_id, model.version) from failure.__cause__

    async def _run(
        self, model: Model, request_id: str, request: PredictionRequest, received: Received[Any], large: bool
    ) -> PredictionResponse:
        if model.kind == model_pb2.MODEL_KIND_GENERATOR:
            raise Fault(Reason.METHOD_NOT_SUPPORTED, f"model {quote(model.model_id)} is generator: it takes no tensors")
        engine = self._engine
        if large:  # what is wrong with a request goes first; a large one is not worth that
            engine.check_room(model)

        def decode() -> tuple[list[Tensor], list[int]]:
            return decode_tensors(model, request.inputs, request.output_names)

        inputs, wanted = await engine.off_loop(decode) if large else decode()
        result = await engine.answer(model, inputs, wanted, received.call)
        received.record.ran(result.queue_seconds, result.compute_seconds, result.rows, result.ended)
        # Before the message is built, which takes as much memory again.
        size = sum(tensor.nbytes for tensor in result.outputs)
        if size > self._limit:
            raise answer_too_large(size, self._limit)
        if size > _LARGE:
            return await engine.off_loop(lambda: self._response(model, request_id, wanted, result))
        return self._response(model, request_id, wanted, result)

    def _response(
        self, model: Model, request_id: str, wanted: Sequence[int], result: batch.Result
    ) -> PredictionResponse:
        response = PredictionResponse(request_id=request_id, model_version=model.version)
        timing = response.timing
        timing.queue_ms = result.queue_seconds * 1e3
        timing.compute_ms = result.compute_seconds * 1e3
        timing.batch_rows = result.rows
        for index, tensor in zip(wanted, result.outputs, strict=True):
            to_wire(tensor, response.outputs[model.outputs[index].name])
        size = response.ByteSize()
        if size > self._limit:
            raise answer_too_large(size, self._limit)
        return response


def _varint_bytes(number: int) -> int:
    return max(number.bit_length() + 6, 7) // 7
