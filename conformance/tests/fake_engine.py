# SPDX-License-Identifier: Apache-2.0
"""A server with a queue, metrics, a repository that it follows, and a drain, as small as the cases of ops let it be.

It runs no graph. `identity` and `small-batch` give back x, `slow` sleeps a microsecond for each turn, `version` answers
the number in its manifest's description. `--fault` names the one thing that it does wrong; a test holds the runner to
noticing.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.server
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import prometheus_client as prometheus
from concord_proto.inference.v1 import inference_service_pb2 as service
from fake_server import CHECK, PREDICT, WATCH, answer, details

TURN_SECONDS = 1e-6
QUEUE_FULL = "expected room in the queue, got none"
FAULTS = (
    "runs expired",
    "runs cancelled",
    "loses places",
    "says no pushback",
    "never refuses",
    "health waits",
    "swaps answers",
    "metrics lie",
    "loads halves",
    "bad replaces old",
    "fails in a swap",
    "no maximum",
    "drops work",
    "no word before the end",
    "ends badly",
)


class Refused(Exception):
    """An error status."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        retry: bool = False,
        field: str = "model_id",
        about: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        fields = [(field, message)] if code == grpc.StatusCode.INVALID_ARGUMENT else None
        self.status = details(code, message, reason, retry=retry, fields=fields, metadata=about)
        self.reason = reason


class Metrics:
    """What docs/telemetry.md names, as far as the tests ask."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        r = self.registry
        labels = ["service", "method", "model", "version", "code"]
        self.requests = prometheus.Counter("inference_requests", "calls", labels, registry=r)
        self.rows = prometheus.Histogram("inference_batch_rows", "rows", ["model", "version"], registry=r)
        self.queue = prometheus.Gauge("inference_queue_rows", "rows", ["model", "version"], registry=r)
        self.rejected = prometheus.Counter("inference_rejected", "errors", ["reason"], registry=r)
        self.state = prometheus.Gauge("inference_model_state", "state", ["model", "version", "state"], registry=r)
        self.open = prometheus.Gauge("inference_open_streams", "calls", registry=r)


class Queue:
    """The places of one version: so many run, so many wait."""

    def __init__(self, engine: Engine, labels: tuple[str, str], settings: dict[str, Any]) -> None:
        self._engine = engine
        self._labels = labels
        self._executors = asyncio.Semaphore(settings.get("executors", 2))
        self._most = settings.get("max_queue_rows", 1024)
        self._waiting = 0

    async def run(self, seconds: float) -> None:
        """Waits for an executor and runs; cancelled with its caller."""
        fault = self._engine.fault
        if self._waiting >= self._most and fault != "never refuses":
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", QUEUE_FULL, retry=True)
        self._move(1)
        try:
            await self._executors.acquire()
        except asyncio.CancelledError:
            if fault in ("runs expired", "runs cancelled"):
                self._engine.metrics.rows.labels(*self._labels).observe(1)
            if fault != "loses places":
                self._move(-1)
            raise
        self._move(-1)
        try:
            if fault != "metrics lie":
                self._engine.metrics.rows.labels(*self._labels).observe(1)
            await asyncio.sleep(seconds)
        finally:
            self._executors.release()

    def _move(self, rows: int) -> None:
        self._waiting += rows
        self._engine.metrics.queue.labels(*self._labels).set(self._waiting)


class Engine:
    """The server."""

    def __init__(self, models: Path, config: dict[str, Any], fault: str) -> None:
        self.models = models
        self.config = config
        self.fault = fault
        self.metrics = Metrics()
        self.serving = True
        self.draining = False
        self.changed = asyncio.Event()
        self._versions: dict[str, dict[int, str]] = {}
        self._numbers: dict[tuple[str, int], float] = {}
        self._queues: dict[tuple[str, str], Queue] = {}
        self._made = 0
        self._swap_end = 0.0

    # --- the repository

    def look(self) -> None:
        """Reads the repository: every version is "ready" or why not."""
        for model in self.models.iterdir():
            if model.name.startswith("_") or not model.is_dir():
                continue
            known = self._versions.setdefault(model.name, {})
            for directory in model.iterdir():
                if directory.is_dir() and directory.name.isdigit():
                    self._load(known, model.name, directory)
            for number in [number for number in known if not (model / str(number)).exists()]:
                del known[number]

    def _load(self, known: dict[int, str], model: str, directory: Path) -> None:
        number = int(directory.name)
        try:
            manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
            self._numbers[model, number] = float(manifest["description"].split()[-1].rstrip("."))
        except (OSError, ValueError, KeyError):
            self._numbers.setdefault((model, number), 0.0)
        state = "ready" if self.fault == "loads halves" or _whole(directory) else "failed"
        if known.get(number) != state and model == "version":
            self._swap_end = time.monotonic() + 0.3
        known[number] = state
        for name in ("ready", "failed"):
            self.metrics.state.labels(model, str(number), name).set(name == state)

    def _version(self, request: service.PredictRequest) -> tuple[str, str]:
        versions = self._versions.get(request.model_id)
        if versions is None:
            raise Refused(
                grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", f"model {json.dumps(request.model_id)} not found"
            )
        if self.fault == "fails in a swap" and time.monotonic() < self._swap_end:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING", "one moment", retry=True)
        ready = [number for number, state in versions.items() if state == "ready"]
        number = int(request.model_version) if request.model_version else max(ready, default=0)
        if number not in versions:
            message = f"model {json.dumps(request.model_id)} has no version {number}"
            raise Refused(grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND", message)
        if versions[number] != "ready" or (self.fault == "bad replaces old" and len(ready) < len(versions)):
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "MODEL_FAILED", "failed to load")
        return request.model_id, str(number)

    # --- calls

    async def predict(self, data: bytes, context: Any) -> bytes:
        """Predict, counted."""
        request = service.PredictRequest.FromString(data)
        used, code = ("", ""), "CANCELLED"
        self.metrics.open.inc()
        try:
            if self.draining:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", "the server is shutting down", retry=True)
            used = self._version(request)
            response = await self._within(request, used, context)
            code = "OK"
            return response.SerializeToString()
        except Refused as refused:
            code = refused.code.name
            self.metrics.rejected.labels(refused.reason).inc()
            trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", refused.status.SerializeToString())]
            if refused.reason == "QUEUE_FULL" and self.fault != "says no pushback":
                trailers.append(("grpc-retry-pushback-ms", "100"))
            context.set_trailing_metadata(trailers)
            await context.abort(refused.code, refused.status.message)
            return b""
        finally:
            self.metrics.open.dec()
            self.metrics.requests.labels("inference.v1.InferenceService", "Predict", *used, code).inc()

    async def _within(self, request: service.PredictRequest, used: tuple[str, str], context: Any) -> Any:
        left = context.time_remaining()
        if left is not None and left <= 0 and self.fault != "runs expired":
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "the deadline passed")
        most = self.config.get("max_request_ms", 300_000)
        try:
            async with asyncio.timeout(None if self.fault == "no maximum" else most / 1000):
                return await self._answer(request, used)
        except TimeoutError:
            message = f"the server's longest time for a request passed: {most} ms"
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", message) from None

    async def _answer(self, request: service.PredictRequest, used: tuple[str, str]) -> Any:
        settings = self.config.get("model_settings", {}).get(used[0], {})
        queue = self._queues.setdefault(used, Queue(self, used, settings))
        turns = request.features["n"].int64_value
        if used[0] == "slow" and not turns:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "FEATURE_MISSING", "n is missing")
        await queue.run(turns * TURN_SECONDS)
        self._made += 1
        request_id = request.request_id or f"made-{self._made}"
        value = request.features["x"].float_value
        if self.fault == "swaps answers" and self._made % 100 == 99:
            value += 1
        values = {"slow": 1.0, "version": self._numbers.get((used[0], int(used[1])), 0.0)}
        response = answer(request, request_id, {"y": values.get(used[0], value)})
        if used[0] == "size":
            response.predictions.clear()
            response.outputs["count"].int64_value = 1
        response.model_version = used[1]
        return response

    async def check(self, data: bytes, context: Any) -> bytes:
        """Check, of whatever name."""
        if self.fault == "health waits":
            await asyncio.sleep(5)
        kind = service.HealthCheckResponse
        status = kind.SERVING_STATUS_SERVING if self.serving else kind.SERVING_STATUS_NOT_SERVING
        return kind(status=status).SerializeToString()

    async def watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        """Watch, of whatever name."""
        yield await self.check(data, context)
        await self.changed.wait()
        yield await self.check(data, context)


def _whole(directory: Path) -> bool:
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        return all(
            hashlib.sha256((directory / file["name"]).read_bytes()).hexdigest() == file["sha256"]
            for file in manifest["files"]
        )
    except (OSError, ValueError, KeyError):
        return False


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if call.method == WATCH:
            return grpc.unary_stream_rpc_method_handler(self._engine.watch)
        handlers = {
            PREDICT: self._engine.predict,
            CHECK: self._engine.check,
            "/inference.v1.InferenceService/Check": self._engine.check,
        }
        if call.method in handlers:
            return grpc.unary_unary_rpc_method_handler(handlers[call.method])
        return None


def serve_http(engine: Engine) -> http.server.ThreadingHTTPServer:
    """/metrics and /readyz on a free port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, status, kind = b"", 404, "text/plain"
            if self.path == "/metrics":
                encoder, kind = prometheus.exposition.choose_encoder(self.headers.get("Accept", ""))
                body, status = encoder(engine.metrics.registry), 200
            elif self.path == "/readyz":
                status = 200 if engine.serving else 503
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing: standard error is for what goes wrong."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


async def serve(models: Path, config: dict[str, Any], fault: str) -> int:
    """Serves until SIGTERM, and drains."""
    engine = Engine(models, config, fault)
    engine.look()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((_Handlers(engine),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    web = serve_http(engine)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    line = {"grpc": f"127.0.0.1:{port}", "http": f"127.0.0.1:{web.server_port}", "pid": os.getpid()}
    print(json.dumps(line), flush=True)
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), 0.05)
        except TimeoutError:
            engine.look()
    if fault != "no word before the end":
        engine.serving = False
        engine.changed.set()
    await asyncio.sleep(config.get("drain_delay_ms", 0) / 1000)
    engine.draining = True
    await server.stop(0 if fault == "drops work" else config.get("drain_grace_ms", 30000) / 1000)
    web.shutdown()
    return 4 if fault == "ends badly" else 0


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--fault", default="none", choices=("none", *FAULTS))
    arguments = parser.parse_args()
    config = json.loads(arguments.config.read_text(encoding="utf-8"))
    return asyncio.run(serve(arguments.models, config, arguments.fault))


if __name__ == "__main__":
    sys.exit(main())
