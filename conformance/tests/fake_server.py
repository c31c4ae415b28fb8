# SPDX-License-Identifier: Apache-2.0
"""A server that knows the model `identity` only, and whose answers a test may replace.

As a program it prints the ready line and ends on SIGTERM; `--fault` names what it does wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from types import TracebackType
from typing import Any

import grpc
from concord_proto.inference.v1 import inference_service_pb2 as service
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

# Gets the request's bytes and the call's context; gives the answer's bytes, or several for a stream.
Handler = Callable[[bytes, Any], Any]

PREDICT = "/inference.v1.InferenceService/Predict"
BATCH = "/inference.v1.InferenceService/BatchPredict"
STREAM = "/inference.v1.InferenceService/StreamPredict"
WATCH = "/grpc.health.v1.Health/Watch"
CHECK = "/grpc.health.v1.Health/Check"
TENSORS = "/inference.v1.ModelInference/Predict"
TENSOR_BATCH = "/inference.v1.ModelInference/BatchPredict"
LIST = "/inference.v1.ModelCatalogService/ListModels"
GET = "/inference.v1.ModelCatalogService/GetModel"
STREAMING = (STREAM, WATCH)


def details(
    code: grpc.StatusCode,
    message: str,
    reason: str,
    *,
    fields: list[tuple[str, str]] | None = None,
    domain: str = "concord",
    retry: bool = False,
    metadata: dict[str, str] | None = None,
) -> status_pb2.Status:
    """A status as the contract wants it, or wrong in one way."""
    status = status_pb2.Status(code=code.value[0], message=message)
    packed: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata or {})]
    if fields is not None:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in fields
        ]
        packed.append(error_details_pb2.BadRequest(field_violations=violations))
    if retry:
        packed.append(error_details_pb2.RetryInfo())
    for detail in packed:
        holder = any_pb2.Any()
        holder.Pack(detail)
        status.details.append(holder)
    return status


def abort(context: Any, status: status_pb2.Status) -> None:
    """Ends a call with a status and its details."""
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    context.abort(code, status.message)


def answer(
    request: service.PredictRequest, request_id: str, predictions: dict[str, float] | None = None
) -> service.PredictResponse:
    """What identity answers."""
    response = service.PredictResponse(request_id=request_id, model_version="1", latency_ms=0.01)
    response.timing.batch_rows = 1
    for name, value in (predictions or {"y": request.features["x"].float_value}).items():
        response.predictions[name] = value
    return response


class FakeServer:
    """Listens on a free port of 127.0.0.1; `handlers` maps a method's path to what answers it."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.handlers: dict[str, Handler] = {PREDICT: self.predict, BATCH: self.batch_predict}
        self.requests: list[tuple[str, bytes]] = []
        self.metadata: list[tuple[str, str | bytes]] = []
        self._made = 0
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((_Generic(self),))
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"

    def __enter__(self) -> FakeServer:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def handle(self, path: str, data: bytes, context: Any) -> Any:
        """Answers one call."""
        with self._lock:
            self.requests.append((path, data))
            self.metadata = list(context.invocation_metadata())
        handler = self.handlers.get(path)
        if handler is None:
            message = f"{path[1:]} is not served here"
            abort(context, details(grpc.StatusCode.UNIMPLEMENTED, message, "METHOD_UNIMPLEMENTED"))
            return b""
        return handler(data, context)

    def request_id(self, request: service.PredictRequest) -> str:
        """The request's, or a new one."""
        with self._lock:
            self._made += 1
            return request.request_id or f"made-{self._made}"

    def predict(self, data: bytes, context: Any) -> bytes:
        """identity, and MODEL_NOT_FOUND for every other model."""
        request = service.PredictRequest.FromString(data)
        if request.model_id != "identity":
            message = f"model {json.dumps(request.model_id)} not found"
            abort(context, details(grpc.StatusCode.NOT_FOUND, message, "MODEL_NOT_FOUND"))
        return answer(request, self.request_id(request)).SerializeToString()

    def batch_predict(self, data: bytes, context: Any) -> bytes:
        """identity for every request."""
        batch = service.BatchPredictRequest.FromString(data)
        results = [
            service.BatchPredictResult(response=answer(request, self.request_id(request))) for request in batch.requests
        ]
        return service.BatchPredictResponse(results=results).SerializeToString()


class _Generic(grpc.GenericRpcHandler):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        path = call.method
        if path in STREAMING:

            def stream(data: bytes, context: Any) -> Iterator[bytes]:
                yield from self._server.handle(path, data, context)

            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self._server.handle(path, data, context))


def main() -> int:
    """The program: a ready line, then service until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", default="none")
    fault = parser.parse_args().fault
    if fault == "dies at once":
        print("no such directory", file=sys.stderr)
        return 3
    if fault == "says nothing":
        signal.pause()
    if fault == "says nonsense":
        print("listening on port 1", flush=True)
        signal.pause()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with FakeServer() as server:
        if fault == "dies on a request":

            def die(data: bytes, context: Any) -> bytes:
                if service.PredictRequest.FromString(data).model_id == "nobody":
                    os._exit(9)
                return server.predict(data, context)

            server.handlers[PREDICT] = die
        print(json.dumps({"grpc": server.address, "http": "", "pid": os.getpid()}), flush=True)
        if fault == "talks":
            print("hello", flush=True)
        ended.wait()
    return 4 if fault == "ends badly" else 0


if __name__ == "__main__":
    sys.exit(main())
