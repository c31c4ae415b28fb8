# SPDX-License-Identifier: Apache-2.0
"""inference.v1.ModelInference: a model's own tensors in, its own tensors out."""

from __future__ import annotations

from collections.abc import Sequence

from concord_proto.inference.v1 import model_inference_pb2, model_pb2

from concord_server import batch
from concord_server.fault import Fault, Reason, quote
from concord_server.model import Call, Model, check_name, decode_tensors
from concord_server.repository import Repository
from concord_server.server.request import answer_too_large, check_batch, logged, request_id_of
from concord_server.server.status import status_of
from concord_server.tensor import Tensor, to_wire

__all__ = ["TensorInference"]

PredictionRequest = model_inference_pb2.PredictionRequest
PredictionResponse = model_inference_pb2.PredictionResponse
BatchPredictionRequest = model_inference_pb2.BatchPredictionRequest
BatchPredictionResponse = model_inference_pb2.BatchPredictionResponse

_MAX_INT32 = (1 << 31) - 1


class TensorInference:
    """Answers requests in whatever thread it is called. All failures are Faults."""

    def __init__(self, repository: Repository, max_batch_requests: int, max_message_bytes: int) -> None:
        self._repository = repository
        self._max_batch_requests = max_batch_requests
        self._limit = max_message_bytes

    def predict(
        self, request: PredictionRequest, _begin: float, queue_seconds: float, call: Call
    ) -> PredictionResponse:
        """Answers one request."""
        request_id = request_id_of(request.request_id)
        try:
            return self._answer(request_id, request, queue_seconds, call)
        except Fault as failure:
            raise logged(request_id, failure) from None

    def batch_predict(
        self, request: BatchPredictionRequest, _begin: float, queue_seconds: float, call: Call
    ) -> BatchPredictionResponse:
        """Answers many requests, each by itself and with a result of its own, in their order."""
        check_batch(len(request.requests), self._max_batch_requests)
        response = BatchPredictionResponse()
        total = 0
        for one in request.requests:
            request_id = request_id_of(one.request_id)
            result = response.results.add()
            try:
                result.response.CopyFrom(self._answer(request_id, one, queue_seconds, call))
            except Fault as failure:
                result.error.CopyFrom(status_of(logged(request_id, failure)))
            # No one reads the results of a call that has ended.
            call.check()
            # Told at once: what follows would be computed and held for nothing.
            size = result.ByteSize()
            total += 1 + _varint_bytes(size) + size
            if total > self._limit:
                raise answer_too_large(total, self._limit)
        return response

    def _answer(
        self, request_id: str, request: PredictionRequest, queue_seconds: float, call: Call
    ) -> PredictionResponse:
        """Takes one request from its names to its answer."""
        check_name(request.model_id, request.model_version)
        model = self._repository.resolve(request.model_id, request.model_version)
        try:
            return self._run(model, request_id, request, queue_seconds, call)
        except Fault as failure:
            raise failure.at(model.model_id, model.version) from failure.__cause__

    def _run(
        self, model: Model, request_id: str, request: PredictionRequest, queue_seconds: float, call: Call
    ) -> PredictionResponse:
        if model.kind == model_pb2.MODEL_KIND_GENERATOR:
            raise Fault(Reason.METHOD_NOT_SUPPORTED, f"model {quote(model.model_id)} is generator: it takes no tensors")
        inputs, wanted = decode_tensors(model, request.inputs, request.output_names)
        result = batch.one(model, inputs, wanted, call)
        # Before the message is built, which takes as much memory again.
        size = sum(tensor.nbytes for tensor in result.outputs)
        if size > self._limit:
            raise answer_too_large(size, self._limit)
        response = PredictionResponse(request_id=request_id, model_version=model.version)
        timing = response.timing
        timing.queue_ms = queue_seconds * 1e3
        timing.compute_ms = result.compute_seconds * 1e3
        timing.batch_rows = _rows(inputs)
        for index, tensor in zip(wanted, result.outputs, strict=True):
            to_wire(tensor, response.outputs[model.session.outputs[index].name])
        size = response.ByteSize()
        if size > self._limit:
            raise answer_too_large(size, self._limit)
        return response


def _rows(inputs: Sequence[Tensor]) -> int:
    """The length of the first input's axis 0, or 1 where there is none."""
    if not inputs or not inputs[0].array.shape:
        return 1
    return int(min(max(inputs[0].array.shape[0], 1), _MAX_INT32))


def _varint_bytes(number: int) -> int:
    return max(number.bit_length() + 6, 7) // 7
