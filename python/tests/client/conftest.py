# SPDX-License-Identifier: Apache-2.0
"""A server that plays Concord in this process, and both clients behind one face, so that each test runs for both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import pytest
from concord_client import AsyncClient, Client
from concord_proto.inference.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_catalog_service_pb2,
    model_catalog_service_pb2_grpc,
    model_pb2,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

PredictRequest = inference_service_pb2.PredictRequest
PredictResponse = inference_service_pb2.PredictResponse
PredictToken = inference_service_pb2.PredictToken
HealthCheckResponse = inference_service_pb2.HealthCheckResponse
LIMIT = 20.0  # seconds that a test waits for what should happen at once


class StatusError(Exception):
    """Raised by a test's predict function: the status that the fake server then answers with."""

    def __init__(self, code: grpc.StatusCode, message: str = "", *details: Message) -> None:
        super().__init__(message)
        self.status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            self.status.details.append(packed)


@dataclass
class Seen:
    """One call that reached the server."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_left: float | None


@dataclass
class FakeServer:
    """Answers with what its fields say; remembers every call."""

    models: dict[str, model_pb2.Model] = field(default_factory=dict)
    predict: Callable[[PredictRequest, grpc.ServicerContext], PredictResponse] = lambda request, _: PredictResponse(
        request_id=request.request_id, model_version="1"
    )
    stream: Callable[[PredictRequest, grpc.ServicerContext], Iterator[PredictToken]] | None = None
    batch: Callable[[Any], Any] | None = None
    catalog_failure: StatusError | None = None
    page_size: int = 2
    seen: list[Seen] = field(default_factory=list)
    address: str = ""

    # Test modules cannot import from here; they get at these through their fixture.

    @staticmethod
    def failure(
        code: grpc.StatusCode, reason: str = "", message: str = "", *details: Message, **about: str
    ) -> StatusError:
        """What a predict function raises, so that the server answers with this status."""
        info = [error_details_pb2.ErrorInfo(reason=reason, domain="concord", metadata=about)] if reason else []
        return StatusError(code, message, *info, *details)

    @staticmethod
    def version(number: str, **features: str) -> model_pb2.ModelVersion:
        """A ready version; a feature is "FLOAT", or "FLOAT[2,3]" with a shape."""
        made = model_pb2.ModelVersion(
            version=number, state=model_pb2.MODEL_STATE_READY, kind=model_pb2.MODEL_KIND_TABULAR
        )
        for name, spec in features.items():
            kind, _, shape = spec.partition("[")
            made.features.add(
                name=name,
                type=model_pb2.FeatureType.Value(f"FEATURE_TYPE_{kind}"),
                shape=[int(axis) for axis in shape.rstrip("]").split(",") if axis],
                required=True,
            )
        return made

    def serve(self, model_id: str, *versions: model_pb2.ModelVersion, **labels: str) -> None:
        """Puts a model into the catalog; its last version is the default, and answers."""
        default = versions[-1].version
        self.models[model_id] = model_pb2.Model(
            model_id=model_id, default_version=default, labels=labels, versions=versions
        )
        self.predict = lambda request, context: PredictResponse(
            request_id=request.request_id,
            model_version=labels.get(request.model_version, request.model_version) or default,
        )

    def requests(self, method: str) -> list[Any]:
        return [call.request for call in self.seen if call.method == method]

    def sent(self) -> dict[str, str]:
        """Kind of value by feature of the last Predict."""
        features = self.requests("Predict")[-1].features
        return {name: value.WhichOneof("value") for name, value in features.items()}


class _Services(
    inference_service_pb2_grpc.InferenceServiceServicer, model_catalog_service_pb2_grpc.ModelCatalogServiceServicer
):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        self._note("Predict", request, context)
        try:
            return self.fake.predict(request, context)
        except StatusError as failure:
            self._fail(failure, context)

    def StreamPredict(self, request: PredictRequest, context: grpc.ServicerContext) -> Any:
        self._note("StreamPredict", request, context)
        try:
            if self.fake.stream is None:
                raise FakeServer.failure(grpc.StatusCode.UNIMPLEMENTED)
            yield from self.fake.stream(request, context)
        except StatusError as failure:
            self._fail(failure, context)

    def BatchPredict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._note("BatchPredict", request, context)
        try:
            if self.fake.batch is not None:
                return self.fake.batch(request)
            response = inference_service_pb2.BatchPredictResponse()
            for one in request.requests:
                result = response.results.add()
                try:
                    result.response.CopyFrom(self.fake.predict(one, context))
                except StatusError as failure:
                    result.error.CopyFrom(failure.status)
            return response
        except StatusError as failure:
            self._fail(failure, context)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._note("Check", request, context)
        if request.service not in ("", "models/m"):
            self._fail(FakeServer.failure(grpc.StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND"), context)
        return inference_service_pb2.HealthCheckResponse(
            status=HealthCheckResponse.SERVING_STATUS_NOT_SERVING
            if request.service
            else HealthCheckResponse.SERVING_STATUS_SERVING
        )

    def GetModel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._note("GetModel", request, context)
        if self.fake.catalog_failure is not None:
            self._fail(self.fake.catalog_failure, context)
        if request.model_id not in self.fake.models:
            self._fail(FakeServer.failure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"), context)
        return model_catalog_service_pb2.GetModelResponse(model=self.fake.models[request.model_id])

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._note("ListModels", request, context)
        names = sorted(self.fake.models)
        start = int(request.page_token or 0)
        stop = start + self.fake.page_size
        return model_catalog_service_pb2.ListModelsResponse(
            models=[self.fake.models[name] for name in names[start:stop]],
            next_page_token=str(stop) if stop < len(names) else "",
        )

    def _note(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata())
        self.fake.seen.append(Seen(method, request, metadata, context.time_remaining()))

    def _fail(self, failure: StatusError, context: grpc.ServicerContext) -> NoReturn:
        status = failure.status
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        context.abort(code, status.message)


class Face:
    """A client of either kind, used as a blocking one."""

    def __init__(self, kind: str, target: str, **options: Any) -> None:
        self._runner = asyncio.Runner() if kind == "asyncio" else None
        self.client: Any = AsyncClient(target, **options) if self._runner else Client(target, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        runner = self._runner
        return method if runner is None else lambda *args, **options: runner.run(method(*args, **options))

    def close(self) -> None:
        if self._runner is None:
            self.client.close()
        else:
            self._runner.run(self.client.close())
            self._runner.close()


Start = Callable[..., FakeServer]
Connect = Callable[..., Any]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts fake servers, each on a port of its own, in plaintext unless credentials are given."""
    servers: list[grpc.Server] = []

    def start_one(
        credentials: grpc.ServerCredentials | None = None, compress: bool = False, **fields: Any
    ) -> FakeServer:
        fake = FakeServer(**fields)
        services = _Services(fake)
        server = grpc.server(
            ThreadPoolExecutor(max_workers=16),
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
            compression=grpc.Compression.Gzip if compress else grpc.Compression.NoCompression,
        )
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(services, server)
        model_catalog_service_pb2_grpc.add_ModelCatalogServiceServicer_to_server(services, server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        servers.append(server)
        fake.address = f"127.0.0.1:{port}"
        return fake

    yield start_one
    for server in servers:
        server.stop(grace=None).wait(LIMIT)


@pytest.fixture
def server(start: Start) -> FakeServer:
    """A fake server without models whose catalog is not served, so that only calls of the inference service count."""
    return start(catalog_failure=StatusError(grpc.StatusCode.UNIMPLEMENTED))


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of one kind, each test for both."""
    faces: list[Face] = []

    def connect_one(target: str, **options: Any) -> Face:
        face = Face(request.param, target, **options)
        faces.append(face)
        return face

    yield connect_one
    for face in faces:
        face.close()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """An event on which a fake server's call may wait; set at the end of the test, so that nothing hangs."""
    event = threading.Event()
    yield event
    event.set()
