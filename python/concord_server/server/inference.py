# SPDX-License-Identifier: Apache-2.0
"""inference.v1.InferenceService: from a request to its answer, in the order of checks of the contract."""

from __future__ import annotations

import time

from concord_proto.inference.v1 import inference_service_pb2

from concord_server import batch
from concord_server.fault import Fault, Reason, quote
from concord_server.feature import EncodeError, Plan
from concord_server.model import Call, Model, check_config, check_name, kind_text
from concord_server.repository import Repository
from concord_server.server.request import check_batch, logged, request_id_of
from concord_server.server.status import status_of
from concord_server.tensor import Tensor

__all__ = ["Inference"]

PredictRequest = inference_service_pb2.PredictRequest
PredictResponse = inference_service_pb2.PredictResponse
BatchPredictRequest = inference_service_pb2.BatchPredictRequest
BatchPredictResponse = inference_service_pb2.BatchPredictResponse
BatchPredictResult = inference_service_pb2.BatchPredictResult


class _Asked:
    """One request on its way: the version that answers, and its tensors."""

    __slots__ = ("model", "plan", "request_id", "row")

    def __init__(self, request_id: str, model: Model, plan: Plan, row: list[Tensor]) -> None:
        self.request_id = request_id
        self.model = model
        self.plan = plan
        self.row = row


class Inference:
    """Answers requests in whatever thread it is called. All failures are Faults."""

    def __init__(self, repository: Repository, max_batch_requests: int) -> None:
        self._repository = repository
        self._max_batch_requests = max_batch_requests

    def predict(self, request: PredictRequest, begin: float, queue_seconds: float, call: Call) -> PredictResponse:
        """Answers one request; `begin` is when it came, by time.perf_counter()."""
        request_id = request_id_of(request.request_id)
        try:
            asked = self._ask(request_id, request)
            result = batch.one(asked.model, asked.row, asked.plan.wanted, call)
            return _answer(asked, result, begin, queue_seconds)
        except Fault as failure:
            raise logged(request_id, failure) from None

    def batch_predict(
        self, request: BatchPredictRequest, begin: float, queue_seconds: float, call: Call
    ) -> BatchPredictResponse:
        """Answers many requests, each with a result of its own, in their order."""
        count = len(request.requests)
        check_batch(count, self._max_batch_requests)
        results: list[BatchPredictResult | None] = [None] * count
        groups: dict[int, list[tuple[int, _Asked]]] = {}  # by version, in order
        for i, one in enumerate(request.requests):
            request_id = request_id_of(one.request_id)
            try:
                asked = self._ask(request_id, one)
            except Fault as failure:
                results[i] = _failed(request_id, failure)
            else:
                groups.setdefault(id(asked.model), []).append((i, asked))
        for group in groups.values():
            head = group[0][1]
            ran = batch.run(head.model, [asked.row for _, asked in group], head.plan.wanted, call)
            # No one reads the results of a call that has ended.
            call.check()
            for (i, asked), result in zip(group, ran, strict=True):
                try:
                    if isinstance(result, Fault):
                        raise result
                    results[i] = BatchPredictResult(response=_answer(asked, result, begin, queue_seconds))
                except Fault as failure:
                    results[i] = _failed(asked.request_id, failure)
        return BatchPredictResponse(results=[result for result in results if result is not None])

    def stream_predict(self, request: PredictRequest) -> Fault:
        """Why the request gets no stream: no kind of model that is served generates text."""
        try:
            model = self._find(request)
        except Fault as failure:
            return failure
        text = f"model {quote(model.model_id)} is {kind_text(model.kind)}: it does not generate text"
        return Fault(Reason.METHOD_NOT_SUPPORTED, text).at(model.model_id, model.version)

    def _find(self, request: PredictRequest) -> Model:
        """Checks what a request names and how, and finds the version that answers it."""
        check_name(request.model_id, request.model_version)
        if request.HasField("config"):
            try:
                check_config(request.config)
            except Fault as failure:
                raise failure.at(request.model_id) from None
        return self._repository.resolve(request.model_id, request.model_version)

    def _ask(self, request_id: str, request: PredictRequest) -> _Asked:
        """Takes a request as far as its tensors."""
        model = self._find(request)
        try:
            plan = model.plan()
            return _Asked(request_id, model, plan, plan.decode(request.features))
        except Fault as failure:
            raise failure.at(model.model_id, model.version) from None


def _answer(asked: _Asked, result: batch.Result, begin: float, queue_seconds: float) -> PredictResponse:
    model = asked.model
    response = PredictResponse(request_id=asked.request_id, model_version=model.version)
    try:
        asked.plan.encode(result.outputs, response)
    except EncodeError as error:
        raise model.failed(str(error)) from error
    timing = response.timing
    timing.queue_ms = queue_seconds * 1e3
    timing.compute_ms = result.compute_seconds * 1e3
    timing.batch_rows = result.rows
    response.latency_ms = (time.perf_counter() - begin) * 1e3
    return response


def _failed(request_id: str, failure: Fault) -> BatchPredictResult:
    return BatchPredictResult(error=status_of(logged(request_id, failure)))
