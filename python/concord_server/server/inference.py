# SPDX-License-Identifier: Apache-2.0
"""inference.v1.InferenceService: from a request to its answer, in the order of checks of the contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from concord_proto.inference.v1 import inference_service_pb2

from concord_server import batch
from concord_server.batch import Engine
from concord_server.fault import Fault, Reason, quote
from concord_server.feature import EncodeError, Plan
from concord_server.model import Model, check_config, check_name, kind_text
from concord_server.repository import Repository
from concord_server.server.generations import Generations, Write
from concord_server.server.guard import Received
from concord_server.server.request import check_batch, logged, request_id_of
from concord_server.server.status import status_of
from concord_server.telemetry import Record
from concord_server.tensor import Tensor

__all__ = ["Inference", "answer_of"]

PredictRequest = inference_service_pb2.PredictRequest
PredictResponse = inference_service_pb2.PredictResponse
BatchPredictRequest = inference_service_pb2.BatchPredictRequest
BatchPredictResponse = inference_service_pb2.BatchPredictResponse
BatchPredictResult = inference_service_pb2.BatchPredictResult


# What is larger is read and written off the event loop, which others wait for.
_LARGE_FEATURES = 16 << 10
_LARGE_OUTPUTS = 64 << 10


class _Asked:
    """One request on its way: the version that answers, and later its tensors."""

    __slots__ = ("features", "index", "model", "plan", "request_id", "row")

    def __init__(self, index: int, request_id: str, model: Model, plan: Plan, request: PredictRequest) -> None:
        self.index = index
        self.request_id = request_id
        self.model = model
        self.plan = plan
        self.features = request.features
        self.row: list[Tensor] = []

    def check_room(self, engine: Engine) -> None:
        """Raises Fault where the queue is full.

        What is wrong with a request is said first, but a large one is not worth reading for that.
        """
        try:
            engine.check_room(self.model)
        except Fault as failure:
            raise failure.at(self.model.model_id, self.model.version) from None

    def decode(self) -> None:
        """Makes the tensors. Raises Fault."""
        try:
            self.row = self.plan.decode(self.features)
        except Fault as failure:
            raise failure.at(self.model.model_id, self.model.version) from None


class Inference:
    """Answers requests on the event loop. All failures are Faults."""

    def __init__(
        self, repository: Repository, engine: Engine, generations: Generations, max_batch_requests: int
    ) -> None:
        self._repository = repository
        self._engine = engine
        self._generations = generations
        self.max_batch_requests = max_batch_requests

    async def predict(self, received: Received[PredictRequest]) -> PredictResponse:
        """Answers one request."""
        request, engine = received.message, self._engine
        request_id = received.record.request_id = request_id_of(request.request_id)
        try:
            model = self._find(request, received.record)
            if model.generator is not None:
                return await self._whole(model, request_id, request, received)
            asked = self._ask(0, request_id, model, request)
            if received.size > _LARGE_FEATURES:
                asked.check_room(engine)
                await engine.off_loop(asked.decode)
            else:
                asked.decode()
            result = await engine.answer(asked.model, asked.row, asked.plan.wanted, received.call)
            received.record.ran(result.queue_seconds, result.compute_seconds, result.rows, result.ended)
            if sum(tensor.array.nbytes for tensor in result.outputs) > _LARGE_OUTPUTS:
                return await engine.off_loop(lambda: _answer(asked, result, received.begin))
            return _answer(asked, result, received.begin)
        except Fault as failure:
            raise logged(request_id, failure) from None

    async def batch_predict(self, received: Received[BatchPredictRequest]) -> BatchPredictResponse:
        """Answers many requests, each with a result of its own, in their order."""
        requests, call, engine = received.message.requests, received.call, self._engine
        record = received.record
        check_batch(len(requests), self.max_batch_requests)
        results: list[BatchPredictResult | None] = [None] * len(requests)
        asked: list[_Asked] = []
        texts: dict[int, Model] = {}  # the requests that a text is generated for
        for i, one in enumerate(requests):
            request_id = request_id_of(one.request_id)
            try:
                model = self._find(one, record)
                if model.generator is not None:
                    texts[i] = model
                else:
                    asked.append(self._ask(i, request_id, model, one))
            except Fault as failure:
                results[i] = _failed(request_id, failure, record)
        large = received.size > _LARGE_FEATURES

        if large:
            asked = [each for each in asked if self._has_room(each, results, record)]

        def decode() -> dict[int, list[_Asked]]:
            groups: dict[int, list[_Asked]] = {}  # by version, in order
            for one in asked:
                try:
                    one.decode()
                except Fault as failure:
                    results[one.index] = _failed(one.request_id, failure, record)
                else:
                    groups.setdefault(id(one.model), []).append(one)
            return groups

        for group in (await engine.off_loop(decode) if large else decode()).values():
            head = group[0]
            ran = await engine.answer_all(head.model, [one.row for one in group], head.plan.wanted, call)
            # No one reads the results of a call that has ended.
            call.check()

            def encode(group: Sequence[_Asked] = group, ran: Sequence[batch.Result | Fault] = ran) -> None:
                for one, result in zip(group, ran, strict=True):
                    try:
                        if isinstance(result, Fault):
                            raise result
                        record.ran(result.queue_seconds, result.compute_seconds, result.rows, result.ended)
                        results[one.index] = BatchPredictResult(response=_answer(one, result, received.begin))
                    except Fault as failure:
                        results[one.index] = _failed(one.request_id, failure, record)

            if large:
                await engine.off_loop(encode)
            else:
                encode()
        if texts:
            await self._texts(texts, received, results)
        return BatchPredictResponse(results=[result for result in results if result is not None])

    def _has_room(self, asked: _Asked, results: list[BatchPredictResult | None], record: Record) -> bool:
        """Whether a request of a batch finds room; else its result is there."""
        try:
            asked.check_room(self._engine)
        except Fault as failure:
            results[asked.index] = _failed(asked.request_id, failure, record)
            return False
        return True

    async def stream_predict(self, received: Received[PredictRequest], write: Write) -> None:
        """Answers one request with the tokens of a text as they come."""
        request, record = received.message, received.record
        request_id = record.request_id = request_id_of(request.request_id)
        try:
            model = self._find(request, record)
            if model.generator is None:
                text = f"model {quote(model.model_id)} is {kind_text(model.kind)}: it does not generate text"
                raise Fault(Reason.METHOD_NOT_SUPPORTED, text).at(model.model_id, model.version)
            await self._generations.stream(model, request, request_id, received.call, record, write)
        except Fault as failure:
            raise logged(request_id, failure) from None

    async def _whole(
        self, model: Model, request_id: str, request: PredictRequest, received: Received[Any]
    ) -> PredictResponse:
        large = received.size > _LARGE_FEATURES
        return await self._generations.whole(model, request, request_id, received.call, received.record, large=large)

    async def _texts(
        self,
        texts: Mapping[int, Model],
        received: Received[BatchPredictRequest],
        results: list[BatchPredictResult | None],
    ) -> None:
        """Answers the requests of a batch for which texts are generated, side by side.

        No more at once than have slots: the queue is for others.
        """
        requests, record = received.message.requests, received.record
        left: dict[Model, list[int]] = {}
        for i in reversed(list(texts)):
            left.setdefault(texts[i], []).append(i)

        async def work(model: Model, indices: list[int]) -> None:
            while indices:
                i = indices.pop()
                request_id = request_id_of(requests[i].request_id)
                try:
                    response = await self._whole(model, request_id, requests[i], received)
                    results[i] = BatchPredictResult(response=response)
                except Fault as failure:
                    results[i] = _failed(request_id, failure.with_traceback(None), record)
                # No one reads the results of a call that has ended.
                received.call.check()

        try:
            async with asyncio.TaskGroup() as group:
                for model, indices in left.items():
                    for _ in range(min(len(indices), self._generations.at_once(model))):
                        group.create_task(work(model, indices))
        except ExceptionGroup:
            received.call.check()
            raise

    def _find(self, request: PredictRequest, record: Record) -> Model:
        """Checks what a request names and how, and finds the version that answers it."""
        check_name(request.model_id, request.model_version)
        if request.HasField("config"):
            try:
                check_config(request.config)
            except Fault as failure:
                raise failure.at(request.model_id) from None
        model = self._repository.resolve(request.model_id, request.model_version)
        # From here on also what fails is the version's.
        record.answers(model.model_id, model.version)
        return model

    def _ask(self, index: int, request_id: str, model: Model, request: PredictRequest) -> _Asked:
        """Takes a request as far as its features."""
        try:
            plan = model.plan()
            return _Asked(index, request_id, model, plan, request)
        except Fault as failure:
            raise failure.at(model.model_id, model.version) from None


def answer_of(model: Model, plan: Plan, request_id: str, result: batch.Result, begin: float) -> PredictResponse:
    """The answer of a request that ran and that began then. Raises Fault where the graph broke its word."""
    response = PredictResponse(request_id=request_id, model_version=model.version)
    try:
        plan.encode(result.outputs, response)
    except EncodeError as error:
        raise model.failed(str(error)) from error
    timing = response.timing
    timing.queue_ms = result.queue_seconds * 1e3
    timing.compute_ms = result.compute_seconds * 1e3
    timing.batch_rows = result.rows
    response.latency_ms = (time.perf_counter() - begin) * 1e3
    return response


def _answer(asked: _Asked, result: batch.Result, begin: float) -> PredictResponse:
    return answer_of(asked.model, asked.plan, asked.request_id, result, begin)


def _failed(request_id: str, failure: Fault, record: Record) -> BatchPredictResult:
    record.item_failed(failure.reason)
    return BatchPredictResult(error=status_of(logged(request_id, failure)))
