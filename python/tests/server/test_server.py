# SPDX-License-Identifier: Apache-2.0
"""The gRPC side over a real connection, with a session that plays ONNX Runtime."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from concord_proto.inference.v1 import inference_service_pb2, model_catalog_service_pb2, model_pb2
from concord_server.batch import Engine, Policy, Settings
from concord_server.model import Session
from concord_server.repository import Repository
from concord_server.server import Health, HttpListener, Server
from concord_server.server.server import SERVICE_NAMES
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

PREDICT = "/inference.v1.InferenceService/Predict"
BATCH = "/inference.v1.InferenceService/BatchPredict"
STREAM = "/inference.v1.InferenceService/StreamPredict"
LIST = "/inference.v1.ModelCatalogService/ListModels"
GET = "/inference.v1.ModelCatalogService/GetModel"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
OWN_CHECK = "/inference.v1.InferenceService/Check"

PredictResponse = inference_service_pb2.PredictResponse
BatchPredictResponse = inference_service_pb2.BatchPredictResponse
Serving = health_pb2.HealthCheckResponse


@dataclass
class Failure:
    """The status that a call ended with."""

    code: str
    reason: str
    message: str
    metadata: dict[str, str]
    fields: list[str]
    retry: bool


def failure_of(status: status_pb2.Status) -> Failure:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    unpacked = [[detail.Unpack(kind) for kind in (info, bad, retry)] for detail in status.details]
    assert [row[0] for row in unpacked].count(True) == 1
    assert info.domain == "concord"
    code = next(code.name for code in grpc.StatusCode if code.value[0] == status.code)
    fields = [violation.field for violation in bad.field_violations]
    if code == "INVALID_ARGUMENT":
        assert bad.field_violations
    return Failure(code, info.reason, status.message, dict(info.metadata), fields, any(row[2] for row in unpacked))


@dataclass
class Running:
    """A server in this process, and a channel to it."""

    server: Server
    health: Health
    repository: Repository
    channel: grpc.aio.Channel
    target: str
    limit: float

    async def call(self, method: str, request: Message | bytes, **options: Any) -> bytes:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        answer: bytes = await self.channel.unary_unary(method)(
            data, timeout=options.pop("timeout", self.limit), **options
        )
        return answer

    async def fails(self, method: str, request: Message | bytes, **options: Any) -> Failure:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request, **options)
        metadata = caught.value.trailing_metadata() or ()
        details = [value for key, value in metadata if key == "grpc-status-details-bin"]
        assert details, caught.value
        status = status_pb2.Status.FromString(details[0])
        assert (status.code, status.message) == (caught.value.code().value[0], caught.value.details())
        return failure_of(status)

    async def predict(self, request: Message, **options: Any) -> PredictResponse:
        return PredictResponse.FromString(await self.call(PREDICT, request, **options))

    async def answers(self, kit: SimpleNamespace) -> None:
        """The same process still does its work."""
        assert dict((await self.predict(kit.request(a=1.5, b=2.5))).predictions) == {"a": 3.0, "b": 5.0}


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(kit: SimpleNamespace, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a server on the model "m", which doubles its two features, or on another session."""
    running: list[Running] = []

    async def make(
        session: Session | None = None, write: Callable[[Path], object] | None = None, **more: Any
    ) -> Running:
        root = tmp_path / f"models{len(running)}"
        root.mkdir()
        if write is None:
            files = {"model.onnx": b"graph", "golden.binpb": kit.golden(1, 2, a=2.0, b=4.0).SerializeToString()}
            kit.write_version(root / "m/1", files, kit.manifest())
        else:
            write(root)
        health = Health(SERVICE_NAMES)
        served = session or kit.doubling()
        if isinstance(served, kit.Gate):
            served.open.set()
        repository = Repository(root, lambda _graph, _files: served, changed=health.set_model)
        options: dict[str, Any] = {"max_message_bytes": 1 << 20, "max_batch_requests": 20, "reflection": True, **more}
        # What a test holds up must not hold up the event loop.
        held = Settings(policy=Policy.DIRECT) if isinstance(served, kit.Gate) else Settings()
        engine = Engine(lambda _model_id: held)
        server = Server(repository, health, engine, **options)
        repository.list()
        port = await server.start("127.0.0.1:0", None)
        repository.load()
        if isinstance(served, kit.Gate):
            served.open.clear()
            served.begun.clear()
            served.runs.clear()
        health.set_serving()
        target = f"127.0.0.1:{port}"
        channel = grpc.aio.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)])
        running.append(Running(server, health, repository, channel, target, kit.LIMIT))
        return running[-1]

    yield make
    for one in running:
        await one.channel.close()
        await one.server.drain(0, 0)


async def test_an_answer_says_who_gave_it_and_how_long_it_took(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    answer = await running.predict(kit.request(request_id="r-é", a=1.5, b=2.5))
    assert dict(answer.predictions) == {"a": 3.0, "b": 5.0}
    assert list(answer.outputs["row"].float_array.values) == [3.0, 5.0]
    assert (answer.request_id, answer.model_version, answer.timing.batch_rows) == ("r-é", "1", 1)
    assert answer.latency_ms > 0
    assert answer.timing.compute_ms > 0
    assert answer.timing.queue_ms >= 0
    first, second = [(await running.predict(kit.request(a=1.0, b=1.0))).request_id for _ in range(2)]
    assert len(first) == len(second) == 32
    assert first != second


async def test_checks_come_in_their_order(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    bad = kit.request("a/b", "01", a="x")
    bad.config.top_p = 2
    failure = await running.fails(PREDICT, bad)
    assert (failure.reason, failure.metadata, failure.fields) == ("MODEL_ID_INVALID", {}, ["model_id"])
    bad.model_id = "none"
    failure = await running.fails(PREDICT, bad)
    assert (failure.reason, failure.metadata) == ("MODEL_VERSION_INVALID", {"model_id": "none"})
    bad.model_version = "7"
    failure = await running.fails(PREDICT, bad)
    assert (failure.reason, failure.fields) == ("CONFIG_INVALID", ["config.top_p"])
    bad.config.Clear()
    assert (await running.fails(PREDICT, bad)).reason == "MODEL_NOT_FOUND"
    bad.model_id = "m"
    failure = await running.fails(PREDICT, bad)
    assert (failure.code, failure.reason) == ("NOT_FOUND", "VERSION_NOT_FOUND")
    assert failure.metadata == {"model_id": "m", "model_version": "7"}
    bad.model_version = ""
    failure = await running.fails(PREDICT, bad)
    assert failure.message == 'feature "a": expected a float, got string_value (and 1 more)'
    assert failure.fields == ['features["a"]', 'features["b"]']
    assert failure.metadata == {"model_id": "m", "model_version": "1"}
    await running.answers(kit)


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0a\x05a", b"\x1a\x03\x0a\x01\xff", b"\x1f\x8b", gzip.compress(b"\xff", mtime=0)[:-1]]
)
@pytest.mark.parametrize(
    ("method", "name"),
    [
        (PREDICT, "inference.v1.PredictRequest"),
        (BATCH, "inference.v1.BatchPredictRequest"),
        (OWN_CHECK, "inference.v1.HealthCheckRequest"),
        (LIST, "inference.v1.ListModelsRequest"),
        (CHECK, "grpc.health.v1.HealthCheckRequest"),
    ],
)
async def test_bytes_that_are_no_message(
    start: Start, kit: SimpleNamespace, method: str, name: str, data: bytes
) -> None:
    if data.startswith(b"\x1a") and method != PREDICT:
        data = b"\xff"
    running = await start()
    failure = await running.fails(method, data)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")
    assert failure.message == f"expected a message of type {name}, got {len(data)} bytes that are none"
    await running.answers(kit)


async def test_the_limit_is_exact(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    request = kit.request("none", request_id="x" * (1 << 20), a=1.0, b=1.0)
    request.request_id = "x" * ((2 << 20) - request.ByteSize())
    assert request.ByteSize() == 1 << 20
    assert (await running.fails(PREDICT, request)).reason == "MODEL_NOT_FOUND"
    request.request_id += "x"
    failure = await running.fails(PREDICT, request)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    assert failure.message == "expected a message of at most 1048576 bytes, got 1048577"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(PREDICT, bytes(4 << 20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await running.answers(kit)


async def test_an_answer_that_is_too_large(start: Start, kit: SimpleNamespace) -> None:
    running = await start(max_message_bytes=1024)
    request = kit.request(a=1.0, b=1.0)
    request.request_id = "x" * (1024 - request.ByteSize() - 3)
    assert request.ByteSize() == 1024
    failure = await running.fails(PREDICT, request)
    assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "OUTPUT_TOO_LARGE")
    assert re.fullmatch(r"the answer of 10\d\d bytes is larger than the limit of 1024 bytes", failure.message)
    await running.answers(kit)


async def proxied(running: Running, compression: grpc.Compression | None, kit: SimpleNamespace, **options: Any) -> int:
    """The bytes that an answer of 300 KB takes on its way back."""
    seen = 0
    serving: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        host, port = running.target.split(":")
        back_reader, back_writer = await asyncio.open_connection(host, int(port))

        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter, count: bool) -> None:
            nonlocal seen
            try:
                with contextlib.suppress(OSError):
                    while data := await source.read(1 << 16):
                        seen += len(data) if count else 0
                        sink.write(data)
            finally:
                sink.close()

        await asyncio.gather(pipe(reader, back_writer, False), pipe(back_reader, writer, True))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    request = kit.request(request_id="x" * 300_000, a=1.0, b=2.0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=list(options.items())) as channel:
        data = await channel.unary_unary(PREDICT)(
            request.SerializeToString(), timeout=kit.LIMIT, compression=compression
        )
    server.close()
    async with asyncio.timeout(kit.LIMIT):  # no connection is left for the garbage of a later test
        await asyncio.gather(*(task for task in serving if task is not None))
    assert PredictResponse.FromString(data).request_id == request.request_id
    return seen


async def test_gzip_is_answered_with_gzip_and_only_that(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    assert await proxied(running, grpc.Compression.Gzip, kit) < 20_000
    assert await proxied(running, None, kit) > 300_000
    assert await proxied(running, None, kit, **{"grpc.compression_enabled_algorithms_bitset": 1}) > 300_000


async def test_a_gzip_bomb_is_refused(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    for size in (1 << 20) + 1, 64 << 20:
        request = kit.request(request_id="x" * size)
        failure = await running.fails(PREDICT, request, compression=grpc.Compression.Gzip)
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    await running.answers(kit)


@pytest.mark.parametrize(
    "method",
    [
        "/inference.v1.ModelAdminService/LoadModel",
        "/inference.v1.InferenceService/predict",
        "/recommender.v1.Recommender/GetRecommendations",
        "/no.such.Service/Method",
    ],
)
async def test_methods_that_are_not_served(start: Start, kit: SimpleNamespace, method: str) -> None:
    running = await start()
    failure = await running.fails(method, b"\xff")
    assert (failure.code, failure.reason) == ("UNIMPLEMENTED", "METHOD_UNIMPLEMENTED")
    assert failure.message == f"{method[1:]} is not served here"
    await running.answers(kit)


async def test_no_stream_from_a_model_that_generates_nothing(start: Start, kit: SimpleNamespace) -> None:
    running = await start()

    async def stream(request: Message) -> Failure:
        call = running.channel.unary_stream(STREAM)(request.SerializeToString(), timeout=kit.LIMIT)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        details = dict(caught.value.trailing_metadata() or ())
        return failure_of(status_pb2.Status.FromString(details["grpc-status-details-bin"]))

    failure = await stream(kit.request())
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "METHOD_NOT_SUPPORTED")
    assert failure.message == 'model "m" is tabular: it does not generate text'
    assert (await stream(kit.request("none"))).reason == "MODEL_NOT_FOUND"


def batch_of(*requests: Any) -> inference_service_pb2.BatchPredictRequest:
    return inference_service_pb2.BatchPredictRequest(requests=requests)


async def test_a_batch_answers_each_request_by_itself(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    requests = [
        kit.request(request_id="0", a=1.0, b=2.0),
        kit.request("none", request_id="1"),
        kit.request(request_id="2", a=-1.0, b=2.0),
        kit.request(request_id="3", a=3.0),
        kit.request(request_id="4", a=4.0, b=5.0),
    ]
    answer = BatchPredictResponse.FromString(await running.call(BATCH, batch_of(*requests)))
    assert [r.WhichOneof("result") for r in answer.results] == ["response", "error", "error", "error", "response"]
    assert [r.response.request_id for r in answer.results if r.HasField("response")] == ["0", "4"]
    assert answer.results[4].response.predictions["b"] == 10.0
    for i in (1, 2, 3):
        alone = await running.fails(PREDICT, requests[i])
        assert failure_of(answer.results[i].error) == alone
    # Joined rows failed, so the good ones ran alone.
    assert [r.response.timing.batch_rows for r in answer.results if r.HasField("response")] == [1, 1]


async def test_a_batch_runs_together(start: Start, kit: SimpleNamespace) -> None:
    session = kit.doubling()
    running = await start(session)
    session.runs.clear()
    requests = [kit.request(a=float(i), b=0.0) for i in range(20)]
    answer = BatchPredictResponse.FromString(await running.call(BATCH, batch_of(*requests)))
    assert [r.response.predictions["a"] for r in answer.results] == [2.0 * i for i in range(20)]
    assert [r.response.timing.batch_rows for r in answer.results] == [20] * 20
    assert len(session.runs) == 1


async def test_a_batch_has_its_bounds(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    failure = await running.fails(BATCH, b"")
    assert (failure.reason, failure.fields) == ("BATCH_EMPTY", ["requests"])
    assert failure.message == "requests: expected at least 1 request, got 0"
    failure = await running.fails(BATCH, batch_of(*[kit.request()] * 21))
    assert (failure.reason, failure.message) == (
        "BATCH_TOO_LARGE",
        "requests: expected at most 20 requests, got 21",
    )


async def test_a_model_that_fails_fails_its_request_only(
    start: Start, kit: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start()
    failure = await running.fails(PREDICT, kit.request(request_id="r1", a=-1.0, b=0.0))
    assert (failure.code, failure.reason) == ("INTERNAL", "MODEL_EXECUTION_FAILED")
    assert failure.message == (
        'model "m" version 1 failed on this input: Non-zero status code: x must not be -1, see <...> at <...>'
    )
    (record,) = [r for r in caplog.records if r.getMessage() == "request failed"]
    fields: dict[str, Any] = record.__dict__["fields"]
    assert fields["request_id"] == "r1"
    assert "/opt/models" in fields["cause"]
    await running.answers(kit)


async def test_a_defect_is_internal_and_the_log_has_it(
    start: Start, kit: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    session = kit.doubling()
    running = await start(session)
    good = session.work

    def broken(_given: Any) -> Any:
        raise ZeroDivisionError("secret")

    session.work = broken
    failure = await running.fails(PREDICT, kit.request(request_id="r2", a=1.0, b=1.0))
    assert (failure.code, failure.reason, failure.message) == ("INTERNAL", "INTERNAL", "internal error")
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.__dict__["fields"]["request_id"] == "r2"
    assert record.exc_info is not None
    session.work = good
    await running.answers(kit)


async def test_health_answers_while_models_run(start: Start, kit: SimpleNamespace) -> None:
    gate = kit.Gate(kit.doubling().inputs, kit.doubling().outputs)
    running = await start(gate, write=lambda root: kit.write_version(root / "m/1", {"model.onnx": b"g"}, None))
    request = kit.request(x=[1.0, 2.0])
    calls = [asyncio.ensure_future(running.predict(request)) for _ in range(16)]
    assert await asyncio.to_thread(gate.begun.wait, kit.LIMIT)
    for _ in range(20):
        assert Serving.FromString(await running.call(CHECK, b"", timeout=2)).status == Serving.SERVING
    assert not any(call.done() for call in calls)
    gate.open.set()
    for call in calls:
        assert list((await call).outputs["y"].float_array.values) == [1.0, 2.0]


async def test_a_call_that_ends_ends_its_run(start: Start, kit: SimpleNamespace) -> None:
    gate = kit.Gate(kit.doubling().inputs, kit.doubling().outputs)
    running = await start(gate, write=lambda root: kit.write_version(root / "m/1", {"model.onnx": b"g"}, None))
    data = kit.request(x=[1.0, 2.0]).SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.channel.unary_unary(PREDICT)(data, timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await asyncio.to_thread(gate.terminated.wait, kit.LIMIT)
    gate.terminated.clear()
    gate.begun.clear()
    gate.open.clear()
    call = running.channel.unary_unary(PREDICT)(data)
    assert await asyncio.to_thread(gate.begun.wait, kit.LIMIT)
    call.cancel()
    assert await asyncio.to_thread(gate.terminated.wait, kit.LIMIT)
    assert gate.runs == []


async def watch(running: Running, service: str) -> Any:
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return running.channel.unary_stream(WATCH)(request)


async def status_of(running: Running, method: str, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int(Serving.FromString(await running.call(method, request)).status)


async def test_health_knows_server_services_and_models(start: Start, kit: SimpleNamespace) -> None:
    def write(root: Path) -> None:
        kit.write_version(root / "m/1", {"model.onnx": b"g"}, None)
        (root / "broken/1").mkdir(parents=True)
        (root / "none").mkdir()

    running = await start(write=write)
    serving = ["", "InferenceService", "inference.v1.InferenceService", "inference.v1.ModelCatalogService", "models/m"]
    for method in (CHECK, OWN_CHECK):
        for service in serving:
            assert await status_of(running, method, service) == Serving.SERVING, service
        for service in ("models/broken", "models/none"):
            assert await status_of(running, method, service) == Serving.NOT_SERVING, service
        failure = await running.fails(method, health_pb2.HealthCheckRequest(service="models/other"))
        assert (failure.code, failure.reason) == ("NOT_FOUND", "SERVICE_NOT_FOUND")
        assert failure.message == 'no service or model "models/other" here'


async def test_watchers_see_each_change_and_the_end(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    first, second = await watch(running, "models/m"), await watch(running, "models/m")
    other = await watch(running, "nobody")
    for one in (first, second):
        assert Serving.FromString(await one.read()).status == Serving.SERVING
    assert Serving.FromString(await other.read()).status == Serving.SERVICE_UNKNOWN
    first.cancel()
    running.health.set_model("m", False)
    running.health.set_model("x", True)  # no change of what is watched
    assert Serving.FromString(await second.read()).status == Serving.NOT_SERVING
    running.health.set_model("m", True)
    assert Serving.FromString(await second.read()).status == Serving.SERVING
    running.health.set_model("nobody", True)
    draining = asyncio.ensure_future(running.server.drain(0, kit.LIMIT))
    assert Serving.FromString(await second.read()).status == Serving.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await second.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(draining, kit.LIMIT)


async def test_a_drain_lets_work_under_way_finish(start: Start, kit: SimpleNamespace) -> None:
    gate = kit.Gate(kit.doubling().inputs, kit.doubling().outputs)
    running = await start(gate, write=lambda root: kit.write_version(root / "m/1", {"model.onnx": b"g"}, None))
    call = asyncio.ensure_future(running.predict(kit.request(x=[1.0, 2.0])))
    assert await asyncio.to_thread(gate.begun.wait, kit.LIMIT)
    draining = asyncio.ensure_future(running.server.drain(0, kit.LIMIT))
    await asyncio.sleep(0)
    assert not running.health.serving
    assert (await running.fails(PREDICT, kit.request(x=[1.0, 2.0]))).reason == "SERVER_DRAINING"
    assert not call.done()
    gate.open.set()
    assert (await call).timing.batch_rows == 1
    await asyncio.wait_for(draining, kit.LIMIT)


async def test_a_call_that_comes_in_the_drain_is_told_so(start: Start, kit: SimpleNamespace) -> None:
    running = await start()
    await running.answers(kit)
    running.server._draining = True
    for method in (PREDICT, BATCH, LIST, GET):
        failure = await running.fails(method, b"")
        assert (failure.code, failure.reason, failure.retry) == ("UNAVAILABLE", "SERVER_DRAINING", True)
        assert failure.message == "the server is shutting down"
        assert (await running.fails(method, b"\xff")).reason == "REQUEST_MALFORMED"
    assert await status_of(running, CHECK, "") == Serving.SERVING


async def test_the_catalog_tells_all_that_a_client_needs(start: Start, kit: SimpleNamespace) -> None:
    def write(root: Path) -> None:
        files = {"model.onnx": b"g", "golden.binpb": kit.golden(1, 2, a=2.0, b=4.0).SerializeToString()}
        parity = {"rows": "9", "maxUlpError": "1", "batchedEqualsSingle": True}
        document = kit.manifest(description="twins", parity=parity, batching={"batchable": True, "maxBatchRows": 7})
        kit.write_version(root / "m/2", files, document)
        (root / "m/10").mkdir()
        (root / "m/labels.json").write_text('{"stable": 2}')

    running = await start(write=write)
    request = model_catalog_service_pb2.GetModelRequest(model_id="m")
    model = model_catalog_service_pb2.GetModelResponse.FromString(await running.call(GET, request)).model
    assert (model.model_id, model.default_version, dict(model.labels)) == ("m", "2", {"stable": "2"})
    good, bad = model.versions
    assert (good.version, good.state, good.kind) == ("2", model_pb2.MODEL_STATE_READY, model_pb2.MODEL_KIND_TABULAR)
    assert (good.description, good.verified, good.parity.rows) == ("twins", True, 9)
    assert (good.batchable, good.max_batch_rows) == (True, 7)
    assert [f.name for f in good.features] == [p.name for p in good.predictions] == ["a", "b"]
    assert [(o.name, list(o.shape)) for o in good.outputs] == [("row", [2])]
    assert [(t.name, t.dtype, list(t.shape)) for t in good.input_tensors] == [("x", 1, [-1, 2])]
    assert [(t.name, t.dtype, list(t.shape)) for t in good.output_tensors] == [("y", 1, [-1, 2])]
    assert good.ready_time.seconds > 1_700_000_000
    assert not good.HasField("error")
    assert (bad.version, bad.state) == ("10", model_pb2.MODEL_STATE_FAILED)
    failure = failure_of(bad.error)
    assert failure == await running.fails(PREDICT, kit.request(version="10"))
    assert failure.message.endswith("failed to load: expected manifest.json or model.onnx, got neither")
    bad.ClearField("error")
    assert [field.name for field, _ in bad.ListFields()] == ["version", "state"]


async def test_the_catalog_has_pages(start: Start, kit: SimpleNamespace) -> None:
    names = sorted(["a", "B", "b.c", "z", "0"])
    running = await start(write=lambda root: [(root / name).mkdir() for name in names])
    seen: list[str] = []
    token = ""
    for _ in range(3):
        request = model_catalog_service_pb2.ListModelsRequest(page_size=2, page_token=token)
        page = model_catalog_service_pb2.ListModelsResponse.FromString(await running.call(LIST, request))
        seen += [model.model_id for model in page.models]
        token = page.next_page_token
    assert (seen, token) == (names, "")
    for bad, field in (
        ({"page_size": -1}, "page_size"),
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "/"}, "page_token"),
    ):
        failure = await running.fails(LIST, model_catalog_service_pb2.ListModelsRequest(**bad))  # type: ignore[arg-type]
        assert (failure.reason, failure.fields) == ("REQUEST_MALFORMED", [field])
    assert (await running.fails(GET, b"")).reason == "MODEL_ID_INVALID"
    missing = model_catalog_service_pb2.GetModelRequest(model_id="none")
    assert (await running.fails(GET, missing)).message == 'model "none" not found'


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
async def test_reflection_describes_what_is_served(start: Start, version: str, kit: SimpleNamespace) -> None:
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    running = await start()
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.v1.PredictRequest"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"),
    ]
    call = running.channel.stream_stream(method)(iter([one.SerializeToString() for one in asked]), timeout=kit.LIMIT)
    answers = [reflection_pb2.ServerReflectionResponse.FromString(data) async for data in call]
    assert [service.name for service in answers[0].list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.v1.InferenceService",
        "inference.v1.ModelCatalogService",
        "inference.v1.ModelInference",
    ]
    assert answers[1].file_descriptor_response.file_descriptor_proto
    assert answers[2].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    without = await start(reflection=False)
    assert (await without.fails(method, b"")).reason == "METHOD_UNIMPLEMENTED"


async def http(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]) if head else 0, body


async def test_the_http_listener(start: Start, kit: SimpleNamespace) -> None:
    health = Health(SERVICE_NAMES)
    listener = HttpListener(health)
    port = await listener.start("127.0.0.1", 0)
    assert await http(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == (200, b"ok")
    assert await http(port, b"GET /readyz HTTP/1.1\r\n\r\n") == (503, b"not serving")
    health.set_serving()
    assert await http(port, b"GET /readyz?verbose HTTP/1.0\r\n\r\n") == (200, b"ok")
    assert await http(port, b"HEAD /healthz HTTP/1.1\r\n\r\n") == (200, b"")
    assert await http(port, b"GET / HTTP/1.1\r\n\r\n") == (404, b"not found")
    assert await http(port, b"POST /healthz HTTP/1.1\r\n\r\n") == (405, b"method not allowed")
    assert await http(port, b"\xff\xfe\r\n\r\n") == (400, b"bad request")
    assert (await http(port, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"))[0] in (0, 400)
    health.stop()
    assert await http(port, b"GET /readyz HTTP/1.1\r\n\r\n") == (503, b"not serving")
    assert await http(port, b"GET /healthz HTTP/1.1\r\n\r\n") == (200, b"ok")
    listener.stop()
