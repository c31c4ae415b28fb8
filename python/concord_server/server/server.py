# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: which methods there are, the transport's settings, and the drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import grpc
from concord_proto.inference.v1 import inference_service_pb2, model_catalog_service_pb2
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from concord_server.batch import Executor
from concord_server.config import Certificates
from concord_server.fault import Fault, Reason, shown
from concord_server.model import Call
from concord_server.repository import Repository
from concord_server.server.catalog import Catalog
from concord_server.server.guard import Guard, Received
from concord_server.server.health import Health
from concord_server.server.inference import Inference
from concord_server.server.status import code_of, status_of

__all__ = ["SERVICE_NAMES", "Server"]

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

_INFERENCE = "inference.v1.InferenceService"
_CATALOG = "inference.v1.ModelCatalogService"
_HEALTH = "grpc.health.v1.Health"

SERVICE_NAMES = ("", "InferenceService", _INFERENCE, _CATALOG)
"""The names that health knows of the server and of what it serves."""

_SETTLE_SECONDS = 0.1
_MAX_MESSAGE_BYTES = (1 << 31) - 1
_OPTIONS = (
    # A port that is taken is an error, not a second server on the same port.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may ping every 10 s; a ping that comes a little early is no abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
    # Messages arrive as they were sent, and the guard unpacks them: only so it knows that they were compressed.
    ("grpc.per_message_decompression", 0),
    # Identity and gzip; a level, not an algorithm, so that a client which takes no gzip gets none.
    ("grpc.compression_enabled_algorithms_bitset", 0b101),
    ("grpc.default_compression_level", 2),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),  # the guard is stricter
)


class Server(grpc.GenericRpcHandler):
    """Serves a repository over gRPC."""

    def __init__(
        self,
        repository: Repository,
        health: Health,
        executor: Executor,
        *,
        max_message_bytes: int,
        max_batch_requests: int,
        reflection: bool,
    ) -> None:
        self._health = health
        self._executor = executor
        self._draining = False
        self._guard = Guard(max_message_bytes)
        self._methods = dict(self._make_methods(Inference(repository, max_batch_requests), Catalog(repository)))
        if reflection:
            # Imported here: it takes as long to import as half of the rest.
            from concord_server.server.reflection import handlers

            self._methods.update(handlers(self._guard, (_INFERENCE, _CATALOG, _HEALTH)))
        options = (*_OPTIONS, ("grpc.max_receive_message_length", self._guard.library_limit))
        self._grpc = grpc.aio.server(options=options)
        self._grpc.add_generic_rpc_handlers([self])

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The handler of a method; also of those that are not served."""
        method = handler_call_details.method
        name = method.decode("utf-8", "replace") if isinstance(method, bytes) else str(method)
        return self._methods.get(name) or _unimplemented(name)

    async def start(self, address: str, certificates: Certificates | None) -> int:
        """Listens, and gives the port. Raises RuntimeError where the address cannot be listened on."""
        if certificates is None:
            port = self._grpc.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(certificates.key, certificates.chain)],
                root_certificates=certificates.client_authorities,
                require_client_auth=certificates.client_authorities is not None,
            )
            port = self._grpc.add_secure_port(address, credentials)
        await self._grpc.start()
        return port

    async def drain(self, delay_seconds: float, grace_seconds: float) -> None:
        """Shuts down without losing a request.

        Health says so first, after the delay new calls are refused, and what is under way has the grace to finish.
        """
        self._health.stop()
        if delay_seconds > 0:
            await asyncio.sleep(delay_seconds)
        self._draining = True
        self._health.end()
        # From GOAWAY on, gRPC itself kills what clients had sent before they heard of it, as CANCELLED, which nobody
        # retries. So callers are told first that the server is going: most of them are quiet when it goes.
        settle_seconds = min(_SETTLE_SECONDS, grace_seconds)
        await asyncio.sleep(settle_seconds)
        await self._grpc.stop(grace_seconds - settle_seconds)

    def _make_methods(
        self, inference: Inference, catalog: Catalog
    ) -> Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]:
        predict = inference_service_pb2.PredictRequest
        batch_predict = inference_service_pb2.BatchPredictRequest

        async def check(received: Received[inference_service_pb2.HealthCheckRequest]) -> Message:
            status = self._health.check(received.message.service).status
            return inference_service_pb2.HealthCheckResponse(status=status)

        async def health_check(received: Received[health_pb2.HealthCheckRequest]) -> health_pb2.HealthCheckResponse:
            return self._health.check(received.message.service)

        async def health_watch(received: Received[health_pb2.HealthCheckRequest]) -> AsyncIterator[Message]:
            async for status in self._health.watch(received.message.service):
                yield status

        async def stream_predict(received: Received[inference_service_pb2.PredictRequest]) -> AsyncIterator[Message]:
            self._refuse_while_draining()
            raise inference.stream_predict(received.message)
            yield  # makes it a generator

        guard = self._guard
        unary: list[tuple[str, type[Message], Any]] = [
            (f"/{_INFERENCE}/Predict", predict, self._in_thread(inference.predict)),
            (f"/{_INFERENCE}/BatchPredict", batch_predict, self._in_thread(inference.batch_predict)),
            (f"/{_INFERENCE}/Check", inference_service_pb2.HealthCheckRequest, check),
            (f"/{_CATALOG}/ListModels", model_catalog_service_pb2.ListModelsRequest, self._direct(catalog.list_models)),
            (f"/{_CATALOG}/GetModel", model_catalog_service_pb2.GetModelRequest, self._direct(catalog.get_model)),
            (f"/{_HEALTH}/Check", health_pb2.HealthCheckRequest, health_check),
        ]
        methods = {name: guard.unary(name, request_type, behavior) for name, request_type, behavior in unary}
        name = f"/{_INFERENCE}/StreamPredict"
        methods[name] = guard.server_streaming(name, predict, stream_predict)
        name = f"/{_HEALTH}/Watch"
        methods[name] = guard.server_streaming(name, health_pb2.HealthCheckRequest, health_watch)
        return methods

    def _in_thread(self, work: Callable[[Q, float, float, Call], R]) -> Callable[[Received[Q]], Any]:
        """A method that runs models: in a thread, so that the event loop goes on answering."""

        async def behavior(received: Received[Q]) -> R:
            self._refuse_while_draining()
            call, message, begin = received.call, received.message, received.begin
            return await self._executor.run(call, lambda waited: work(message, begin, waited, call))

        return behavior

    def _direct(self, work: Callable[[Q], R]) -> Callable[[Received[Q]], Any]:
        async def behavior(received: Received[Q]) -> R:
            self._refuse_while_draining()
            return work(received.message)

        return behavior

    def _refuse_while_draining(self) -> None:
        if self._draining:
            raise Fault(Reason.SERVER_DRAINING, "the server is shutting down")


def _unimplemented(method: str) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Answers a method that is not served, of whatever shape, without reading a message."""
    fault = Fault(Reason.METHOD_UNIMPLEMENTED, f"{shown(method.removeprefix('/'))} is not served here")

    async def refuse(_requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        details = (("grpc-status-details-bin", status_of(fault).SerializeToString()),)
        await context.abort(code_of(fault), fault.message, details)

    return grpc.stream_stream_rpc_method_handler(refuse)
