# SPDX-License-Identifier: Apache-2.0
"""Calls as callers make them: answers, batches, catalog, health, deadlines, retries, cancellation."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import concord_client
import grpc
import numpy as np
import pytest
from concord_client import (
    Answer,
    AsyncClient,
    CallCancelledError,
    Client,
    ConcordError,
    DeadlineExceededError,
    FeatureValue,
    Health,
    InferenceConfig,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from google.rpc import error_details_pb2

if TYPE_CHECKING:
    from tests.client.conftest import Connect, FakeServer, Start

PredictRequest = inference_service_pb2.PredictRequest
PredictResponse = inference_service_pb2.PredictResponse
LIMIT = 20.0


class Script:
    """A predict function that fails with each of some codes in turn, then answers."""

    def __init__(self, *codes: grpc.StatusCode, trailing: tuple[tuple[str, str], ...] = ()) -> None:
        self.codes = list(codes)
        self.trailing = trailing

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self.codes:
            context.set_trailing_metadata(self.trailing)
            context.abort(self.codes.pop(0), "scripted")
        return PredictResponse(model_version="1")


def test_three_lines(server: FakeServer) -> None:
    server.predict = lambda request, context: PredictResponse(
        model_version="3",
        predictions={"malignant": 0.75},
        outputs={"label": FeatureValue(string_value="malignant")},
    )
    with Client(server.address) as client:
        answer = client.predict("breast-cancer", {"mean radius": 17.99})
        assert (answer.label, answer.predictions) == ("malignant", {"malignant": 0.75})


async def test_three_lines_of_asyncio(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        answer = await client.predict("breast-cancer", {"mean radius": 17.99}, request_id="r")
        assert (answer.request_id, answer.label) == ("r", None)


def test_an_answer_holds_everything(server: FakeServer, connect: Connect) -> None:
    response = PredictResponse(
        request_id="r1",
        model_version="7",
        predictions={"b": 0.1, "a": 2.0},
        latency_ms=1.5,
        outputs={
            "vector": FeatureValue(float_array=inference_service_pb2.FloatArray(values=[0.5, 1.0])),
            "count": FeatureValue(int64_value=2**62),
        },
        seed=9,
    )
    response.timing.queue_ms, response.timing.compute_ms, response.timing.batch_rows = 0.25, 1.0, 8
    server.predict = lambda request, context: response
    answer = connect(server.address).predict("m", {}, version="stable", config=InferenceConfig(top_k=3))
    assert (answer.model_id, answer.model_version, answer.request_id, answer.seed) == ("m", "7", "r1", 9)
    assert list(answer.predictions.items()) == [("a", 2.0), ("b", float(np.float32(0.1)))]
    assert answer.outputs == {"vector": [0.5, 1.0], "count": 2**62}
    assert answer.latency_ms == 1.5
    assert answer.timing == concord_client.Timing(0.25, 1.0, 8)
    assert answer.proto == response
    [request] = server.requests("Predict")
    assert (request.model_id, request.model_version, request.config.top_k) == ("m", "stable", 3)


def test_a_batch_gives_answers_and_errors_in_order(server: FakeServer, connect: Connect) -> None:
    def predict(request: Any, context: Any) -> Any:
        if request.features["x"].float_value < 0:
            raise server.failure(grpc.StatusCode.INTERNAL, "MODEL_EXECUTION_FAILED", "no", model_id="m")
        return PredictResponse(request_id=request.request_id, model_version="1")

    server.predict = predict
    rows = ({"x": x} for x in [1.0, -1.0, None, 2.0])
    results = connect(server.address).predict_batch("m", rows, request_ids=["a", "b", "c", "d"])
    assert [type(result) for result in results] == [Answer, InternalError, InvalidArgumentError, Answer]
    assert (results[0].request_id, results[3].request_id) == ("a", "d")
    assert (results[1].reason, results[1].metadata) == ("MODEL_EXECUTION_FAILED", {"model_id": "m"})
    assert results[2].message == 'feature "x": expected a value that can be sent, got None'
    assert results[2].violations[0].field == 'features["x"]'
    # What cannot be sent is not sent.
    assert [len(batch.requests) for batch in server.requests("BatchPredict")] == [3]


def test_a_batch_of_nothing_sendable_is_not_sent(server: FakeServer, connect: Connect) -> None:
    [error] = connect(server.address).predict_batch("m", [{"x": None}])
    assert isinstance(error, InvalidArgumentError)
    assert server.requests("BatchPredict") == []


def test_an_empty_batch_is_the_servers_to_refuse(server: FakeServer, connect: Connect) -> None:
    def refuse(request: Any) -> Any:
        raise server.failure(
            grpc.StatusCode.INVALID_ARGUMENT, "BATCH_EMPTY", "requests: expected at least 1 request, got 0"
        )

    server.batch = refuse
    with pytest.raises(InvalidArgumentError, match="BATCH_EMPTY"):
        connect(server.address).predict_batch("m", [])


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (inference_service_pb2.BatchPredictResponse(), "expected 1 results, got 0"),
        (
            inference_service_pb2.BatchPredictResponse(results=[inference_service_pb2.BatchPredictResult()]),
            "got neither",
        ),
    ],
)
def test_a_batch_answer_that_breaks_the_contract(
    server: FakeServer, connect: Connect, response: Any, message: str
) -> None:
    server.batch = lambda request: response
    try:
        [error] = connect(server.address).predict_batch("m", [{}])
    except ConcordError as raised:
        error = raised
    assert isinstance(error, InternalError)
    assert message in error.message


def test_request_ids_are_one_for_each_row(server: FakeServer, connect: Connect) -> None:
    with pytest.raises(ValueError, match="request_ids: expected 2, one for each row, got 1"):
        connect(server.address).predict_batch("m", [{}, {}], request_ids=["a"])


def test_every_violation_of_a_row_is_told(server: FakeServer, connect: Connect) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        connect(server.address).predict(
            "m", {'say "x"': None, "y": 2**63, "z": 1.0} | {str(i): None for i in range(20)}
        )
    error = caught.value
    assert error.reason == "FEATURE_TYPE_MISMATCH"
    assert error.message == 'feature "say \\"x\\"": expected a value that can be sent, got None (and 15 more)'
    assert [v.field for v in error.violations][:2] == ['features["say \\"x\\""]', 'features["y"]']
    assert len(error.violations) == 16
    assert server.requests("Predict") == []


def test_names_are_text(server: FakeServer, connect: Connect) -> None:
    with pytest.raises(TypeError, match="features: expected names that are str, got int"):
        connect(server.address).predict("m", {1: 2.0})


def test_models_are_read_page_by_page(start: Start, connect: Connect) -> None:
    server = start()
    failed = model_pb2.ModelVersion(version="2", state=model_pb2.MODEL_STATE_FAILED)
    failed.error.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
    failed.error.message = "refused"
    for name in "abcde":
        server.serve(name, server.version("1", age="INT64", pixels="FLOAT[-1,8]"), failed, stable="1")
    models = connect(server.address).models()
    assert [model.model_id for model in models] == list("abcde")
    assert [request.page_token for request in server.requests("ListModels")] == ["", "2", "4"]
    model = models[0]
    assert (model.default_version, model.labels) == ("2", {"stable": "1"})
    ready, broken = model.versions
    assert (ready.version, ready.state, ready.kind, ready.error) == ("1", "READY", "TABULAR", None)
    assert [(f.name, f.type, f.shape, f.required) for f in ready.features] == [
        ("age", "INT64", (), True),
        ("pixels", "FLOAT", (-1, 8), True),
    ]
    assert broken.state == "FAILED"
    assert isinstance(broken.error, concord_client.FailedPreconditionError)


def test_a_model(start: Start, connect: Connect) -> None:
    server = start()
    version = server.version("1", a="FLOAT")
    version.features[0].default_value.float_value = 0.5
    version.features[0].required = False
    version.predictions.add(name="p", description="what it is")
    version.outputs.add(name="label", type=model_pb2.FEATURE_TYPE_STRING)
    version.state = 99  # type: ignore[assignment]  # of a later contract
    server.serve("m", version)
    client = connect(server.address)
    model = client.model("m")
    [got] = model.versions
    assert got.state == "99"
    assert got.features[0].default == 0.5
    assert got.predictions[0].description == "what it is"
    assert (got.outputs[0].name, got.outputs[0].type, got.outputs[0].shape) == ("label", "STRING", ())
    assert model.proto == server.models["m"]
    with pytest.raises(NotFoundError, match="MODEL_NOT_FOUND"):
        client.model("x")


def test_health(server: FakeServer, connect: Connect) -> None:
    client = connect(server.address)
    assert client.check() is Health.SERVING
    assert client.check("models/m") is Health.NOT_SERVING
    with pytest.raises(NotFoundError, match="SERVICE_NOT_FOUND"):
        client.check("models/x")


def test_not_processed_is_sent_again(server: FakeServer, connect: Connect) -> None:
    server.predict = Script(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)
    assert connect(server.address).predict("m", {}).model_version == "1"
    assert [call.metadata.get("grpc-previous-rpc-attempts") for call in server.seen] == [None, "1", "2"]


def test_retries_end(server: FakeServer, connect: Connect) -> None:
    server.predict = Script(*[grpc.StatusCode.UNAVAILABLE] * 9)
    with pytest.raises(UnavailableError, match="scripted"):
        connect(server.address).predict("m", {})
    assert len(server.requests("Predict")) == 5


def test_the_server_may_forbid_a_retry(server: FakeServer, connect: Connect) -> None:
    server.predict = Script(grpc.StatusCode.UNAVAILABLE, trailing=(("grpc-retry-pushback-ms", "-1"),))
    with pytest.raises(UnavailableError):
        connect(server.address).predict("m", {})
    assert len(server.requests("Predict")) == 1


def test_retry_can_be_turned_off(server: FakeServer, connect: Connect) -> None:
    server.predict = Script(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        connect(server.address, retry=False).predict("m", {})
    assert len(server.requests("Predict")) == 1


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)],
    ids=lambda code: str(code.name),
)
def test_what_was_judged_is_not_sent_again(server: FakeServer, connect: Connect, code: grpc.StatusCode) -> None:
    # Not with pushback either: see the comment at the service config.
    server.predict = Script(code, trailing=(("grpc-retry-pushback-ms", "1"),))
    with pytest.raises(ConcordError) as caught:
        connect(server.address).predict("m", {})
    assert caught.value.code is code
    assert len(server.requests("Predict")) == 1


def test_nobody_there(connect: Connect) -> None:
    with pytest.raises(UnavailableError) as caught:
        connect("127.0.0.1:1", retry=False).predict("m", {})
    assert caught.value.reason == ""


def test_a_full_queue_says_when_to_come_again(server: FakeServer, connect: Connect) -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.nanos = 250_000_000

    def full(request: Any, context: Any) -> Any:
        raise server.failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "full", retry)

    server.predict = full
    with pytest.raises(ResourceExhaustedError) as caught:
        connect(server.address).predict("m", {})
    assert (caught.value.reason, caught.value.retry_delay) == ("QUEUE_FULL", 0.25)


@pytest.mark.parametrize(
    ("of_client", "of_call", "low", "high"),
    [({}, {}, 50, 60), ({"timeout": 7}, {}, 0, 7), ({"timeout": 7}, {"timeout": 30}, 20, 30)],
)
def test_the_server_knows_the_deadline(
    server: FakeServer, connect: Connect, of_client: dict[str, Any], of_call: dict[str, Any], low: float, high: float
) -> None:
    connect(server.address, **of_client).predict("m", {"x": 1.0}, **of_call)
    for call in server.seen:
        assert call.time_left is not None
        assert low < call.time_left < high + 1  # gRPC rounds up on its way
    assert [call.method for call in server.seen] == ["GetModel", "Predict"]


def test_none_is_without_a_deadline(server: FakeServer, connect: Connect) -> None:
    connect(server.address).predict("m", {}, timeout=None)
    connect(server.address, timeout=None).predict("m", {})
    # grpc's server gives some huge number, or None, for no deadline.
    assert all(call.time_left is None or call.time_left > 1e6 for call in server.seen)


def test_the_deadline_ends_a_call(server: FakeServer, connect: Connect, release: threading.Event) -> None:
    ended = threading.Event()

    def hang(request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(ended.set)
        release.wait(LIMIT)
        return PredictResponse()

    server.predict = hang
    client = connect(server.address)
    with pytest.raises(DeadlineExceededError):
        client.predict("m", {}, timeout=0.2)
    assert ended.wait(LIMIT)
    with pytest.raises(DeadlineExceededError):
        client.predict("m", {}, timeout=0)
    assert len(server.requests("Predict")) == 1


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_a_timeout_is_at_least_0(server: FakeServer, connect: Connect, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout: expected seconds"):
        connect(server.address).check(timeout=timeout)
    with pytest.raises(ValueError, match="timeout: expected seconds"):
        connect(server.address, timeout=timeout)


def test_closing_ends_a_call_under_way(server: FakeServer, release: threading.Event) -> None:
    began, ended = threading.Event(), threading.Event()
    server.predict = _hang(began, ended, release)
    client = Client(server.address)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.predict, "m", {})
        assert began.wait(LIMIT)
        client.close()
        with pytest.raises(CallCancelledError):
            call.result(LIMIT)
    assert ended.wait(LIMIT)
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.check()


async def test_closing_ends_a_task_s_call(server: FakeServer, release: threading.Event) -> None:
    began, ended = threading.Event(), threading.Event()
    server.predict = _hang(began, ended, release)
    client = AsyncClient(server.address)
    task = asyncio.create_task(client.predict("m", {}))
    assert await asyncio.to_thread(began.wait, LIMIT)
    await client.close()
    with pytest.raises(CallCancelledError, match="the client was closed during the call"):
        await task
    assert await asyncio.to_thread(ended.wait, LIMIT)
    with pytest.raises(RuntimeError, match="the client is closed"):
        await client.check()


async def test_cancelling_a_task_cancels_its_call(server: FakeServer, release: threading.Event) -> None:
    began, ended = threading.Event(), threading.Event()
    server.predict = _hang(began, ended, release)
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(client.predict("m", {}))
        assert await asyncio.to_thread(began.wait, LIMIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, LIMIT)
        assert await client.check() is Health.SERVING


def _hang(began: threading.Event, ended: threading.Event, release: threading.Event) -> Any:
    def hang(request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(ended.set)
        began.set()
        release.wait(LIMIT)
        return PredictResponse()

    return hang


def test_threads_share_a_client(start: Start) -> None:
    server = start()
    server.serve("m", server.version("1", x="FLOAT"))
    with Client(server.address) as client, ThreadPoolExecutor(16) as pool:
        ids = [str(i) for i in range(200)]
        answers = pool.map(lambda i: client.predict("m", {"x": 1}, request_id=i), ids)
        assert [answer.request_id for answer in answers] == ids


async def test_tasks_share_a_client(start: Start) -> None:
    server = start()
    server.serve("m", server.version("1", x="FLOAT"))
    async with AsyncClient(server.address) as client:
        ids = [str(i) for i in range(200)]
        answers = await asyncio.gather(*(client.predict("m", {"x": 1}, request_id=i) for i in ids))
        assert [answer.request_id for answer in answers] == ids


def test_large_messages_pass(server: FakeServer, connect: Connect) -> None:
    def echo(request: Any, context: Any) -> Any:
        return PredictResponse(model_version="1", outputs={"x": request.features["x"]})

    server.predict = echo
    text = "x" * (8 << 20)  # gRPC's own limit is 4 MiB
    assert connect(server.address).predict("m", {"x": text}).outputs == {"x": text}
    for limit in (1000, 1 << 20):
        with pytest.raises(ResourceExhaustedError):
            connect(server.address, max_message_bytes=limit).predict("m", {"x": text})


def test_large_answers_are_limited(server: FakeServer, connect: Connect) -> None:
    server.predict = lambda request, context: PredictResponse(request_id="x" * 5000)
    with pytest.raises(ResourceExhaustedError):
        connect(server.address, max_message_bytes=1000).predict("m", {})
    assert len(server.requests("Predict")) == 1
