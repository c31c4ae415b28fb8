# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: which methods there are, and the drain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
from concord_proto.inference.v1 import inference_service_pb2, model_catalog_service_pb2, model_inference_pb2
from google.protobuf.message import Message

from concord_server.batch import Engine
from concord_server.fault import Fault, Reason
from concord_server.generate.watcher import nobody
from concord_server.repository import Repository
from concord_server.server.catalog import Catalog
from concord_server.server.generations import Generations, Watch, Write
from concord_server.server.guard import Guard, Received
from concord_server.server.health import Health
from concord_server.server.inference import Inference
from concord_server.server.listener import Listener, Transport
from concord_server.server.quick import Quick
from concord_server.server.tensors import TensorInference
from concord_server.telemetry import Calls

__all__ = ["SERVICE_NAMES", "Server"]

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

_INFERENCE = "inference.v1.InferenceService"
_TENSORS = "inference.v1.ModelInference"
_CATALOG = "inference.v1.ModelCatalogService"

_LATE_SECONDS = 0.25

SERVICE_NAMES = ("", "InferenceService", _INFERENCE, _TENSORS, _CATALOG)
"""The names that health knows of the server and of what it serves."""


class Server(Listener):
    """Serves a repository over gRPC."""

    def __init__(
        self,
        repository: Repository,
        health: Health,
        engine: Engine,
        *,
        max_message_bytes: int,
        max_batch_requests: int,
        reflection: bool,
        max_request_seconds: float = 300,
        calls: Calls | None = None,
        watch_generations: Watch = nobody,
        share_port: bool = False,
        transport: Transport | None = None,
    ) -> None:
        """`calls` hears of each call; `share_port` is that other processes listen on the same port."""
        self._health = health
        self._max_request_seconds = max_request_seconds
        self._draining = False
        self._guard = Guard(max_message_bytes, calls)
        self.generations = Generations(engine, watch_generations)
        """The texts that are generated."""
        self._inference = Inference(repository, engine, self.generations, max_batch_requests)
        self._tensors = TensorInference(repository, engine, max_batch_requests, max_message_bytes)
        self._quick = Quick(repository, engine, lambda: 0 if self._draining else self._max_request_seconds)
        methods = self._make_methods(self._inference, self._tensors, Catalog(repository, engine))
        services = (_INFERENCE, _TENSORS, _CATALOG)
        super().__init__(
            self._guard,
            health,
            services,
            methods,
            reflection=reflection,
            share_port=share_port,
            transport=transport,
        )

    def apply(self, *, max_batch_requests: int, max_request_seconds: float) -> None:
        """Changes the limits of requests that come from now on."""
        self._inference.max_batch_requests = self._tensors.max_batch_requests = max_batch_requests
        self._max_request_seconds = max_request_seconds

    async def drain(self, delay_seconds: float, grace_seconds: float) -> None:
        """Shuts down without losing a request.

        Health says so first, after the delay new calls are refused, and what is under way has the grace to finish.
        """
        self._health.stop()
        if delay_seconds > 0:
            await asyncio.sleep(delay_seconds)
        self._draining = True
        self._health.end()
        await self.stop(grace_seconds)

    def _make_methods(
        self, inference: Inference, tensors: TensorInference, catalog: Catalog
    ) -> Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]:
        predict = inference_service_pb2.PredictRequest
        batch_predict = inference_service_pb2.BatchPredictRequest
        batch_tensors = model_inference_pb2.BatchPredictionRequest

        async def check(received: Received[inference_service_pb2.HealthCheckRequest]) -> Message:
            status = self._health.check(received.message.service).status
            return inference_service_pb2.HealthCheckResponse(status=status)

        async def stream_predict(received: Received[inference_service_pb2.PredictRequest], write: Write) -> None:
            self._refuse_while_draining()
            seconds = self._max_request_seconds
            received.call.within(seconds)
            try:
                # The text ends by itself; its caller may take no more messages, and then it is this that ends the call.
                async with asyncio.timeout(seconds + _LATE_SECONDS):
                    await inference.stream_predict(received, write)
            except TimeoutError:
                raise received.call.expired() from None

        guard = self._guard
        unary: list[tuple[str, type[Message], Any]] = [
            (f"/{_INFERENCE}/Predict", predict, self._running(inference.predict)),
            (f"/{_INFERENCE}/BatchPredict", batch_predict, self._running(inference.batch_predict)),
            (f"/{_INFERENCE}/Check", inference_service_pb2.HealthCheckRequest, check),
            (f"/{_TENSORS}/Predict", model_inference_pb2.PredictionRequest, self._running(tensors.predict)),
            (f"/{_TENSORS}/BatchPredict", batch_tensors, self._running(tensors.batch_predict)),
            (f"/{_CATALOG}/ListModels", model_catalog_service_pb2.ListModelsRequest, self._direct(catalog.list_models)),
            (f"/{_CATALOG}/GetModel", model_catalog_service_pb2.GetModelRequest, self._direct(catalog.get_model)),
        ]
        methods = {name: guard.unary(name, request_type, behavior) for name, request_type, behavior in unary}
        name = f"/{_INFERENCE}/Predict"
        methods[name] = guard.unary(name, predict, self._running(inference.predict), self._quick)
        name = f"/{_INFERENCE}/StreamPredict"
        methods[name] = guard.streaming(name, predict, stream_predict)
        return methods

    def _running(self, work: Callable[[Received[Q]], Awaitable[R]]) -> Callable[[Received[Q]], Any]:
        """A method that runs models: no longer than the server's own limit, whatever the caller's deadline."""

        async def behavior(received: Received[Q]) -> R:
            self._refuse_while_draining()
            received.call.within(self._max_request_seconds)
            return await work(received)

        return behavior

    def _direct(self, work: Callable[[Q], R]) -> Callable[[Received[Q]], Any]:
        async def behavior(received: Received[Q]) -> R:
            self._refuse_while_draining()
            return work(received.message)

        return behavior

    def _refuse_while_draining(self) -> None:
        if self._draining:
            raise Fault(Reason.SERVER_DRAINING, "the server is shutting down")
