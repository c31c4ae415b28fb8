# SPDX-License-Identifier: Apache-2.0
"""Steps against a fake server that does one thing wrong at a time: the judge sees each, and nothing else."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest
from concord_conformance.client import Client
from concord_conformance.judge import step_problems
from concord_proto.conformance.v1 import suite_pb2
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import model_catalog_service_pb2, model_inference_pb2, model_pb2, tensor_pb2
from fake_server import (
    BATCH,
    CHECK,
    GET,
    LIST,
    PREDICT,
    TENSOR_BATCH,
    TENSORS,
    WATCH,
    FakeServer,
    abort,
    answer,
    details,
)
from google.protobuf import json_format

ONE = {"predict": {"model_id": "identity", "request_id": "r", "features": {"x": {"float_value": 1}}}}


def problems(client: Client, call: dict[str, Any], expect: dict[str, Any]) -> list[str]:
    step = json_format.ParseDict({"call": call, "expect": expect}, suite_pb2.Step())
    return step_problems(step, client.perform(step), client.alone)


def answering(server: FakeServer, **changes: Any) -> None:
    """Makes Predict answer like identity, but for these fields."""

    def predict(data: bytes, context: Any) -> Any:
        request = service.PredictRequest.FromString(data)
        response = answer(request, server.request_id(request))
        for name, value in changes.items():
            if isinstance(value, dict):
                getattr(response, name).clear()
                for key, element in value.items():
                    if isinstance(element, service.FeatureValue):
                        getattr(response, name)[key].CopyFrom(element)
                    else:
                        getattr(response, name)[key] = element
            elif name == "batch_rows":
                response.timing.batch_rows = value
            else:
                setattr(response, name, value)
        return response.SerializeToString()

    server.handlers[PREDICT] = predict


def test_a_right_answer(client: Client) -> None:
    assert problems(client, ONE, {"predict": {"predictions": {"y": 1}, "model_version": "1"}}) == []
    assert problems(client, ONE, {}) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"predictions": {"y": 2.0}}, 'predictions["y"]'),
        ({"predictions": {}}, "'y' is missing"),
        ({"predictions": {"y": 1.0, "z": 1.0}}, "'z' is not expected"),
        ({"outputs": {"o": service.FeatureValue(float_value=1)}}, "'o' is not expected"),
        ({"model_version": "2"}, "model_version: expected"),
        ({"model_version": ""}, "model_version: expected a version's number"),
        ({"request_id": "other"}, 'request_id: expected "r" as sent'),
        ({"latency_ms": -1.0}, "latency_ms"),
        ({"latency_ms": 1e9}, "the client waited only"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"batch_rows": 2}, "timing.batch_rows: expected 1"),
        ({"seed": 5}, "seed: expected 0"),
    ],
)
def test_wrong_answers(server: FakeServer, client: Client, changes: dict[str, Any], says: str) -> None:
    answering(server, **changes)
    found = problems(
        client, ONE, {"predict": {"predictions": {"y": 1}, "model_version": "1", "timing": {"batch_rows": 1}}}
    )
    assert any(says in problem for problem in found), found


def test_bytes_that_are_no_answer(server: FakeServer, client: Client) -> None:
    server.handlers[PREDICT] = lambda data, context: b"\xff\xff"
    assert problems(client, ONE, {"predict": {}}) == ["the answer cannot be read as a message of its type"]
    assert problems(client, ONE, {}) == ["the answer cannot be read as a message of its type"]


def test_an_unexpected_error_and_an_unexpected_answer(client: Client) -> None:
    (found,) = problems(client, {"predict": {"model_id": "nobody"}}, {"predict": {}})
    assert found.startswith("code: expected OK, got NOT_FOUND")
    (found,) = problems(client, ONE, {"code": "NOT_FOUND"})
    assert found.startswith("code: expected NOT_FOUND, got OK")


NOBODY = {"predict": {"model_id": "nobody"}}


def test_a_right_error(client: Client) -> None:
    expect = {"code": "NOT_FOUND", "reason": "MODEL_NOT_FOUND", "message": 'model "nobody" not found'}
    assert problems(client, NOBODY, expect) == []
    assert problems(client, NOBODY, {"code": "INTERNAL", "other_allowed_codes": ["NOT_FOUND"]}) == []


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ({"code": "NOT_FOUND", "reason": "VERSION_NOT_FOUND"}, "reason: expected VERSION_NOT_FOUND"),
        ({"code": "NOT_FOUND", "message": "other"}, "message: expected 'other'"),
        ({"code": "NOT_FOUND", "message_pattern": "model"}, "message: expected to match"),
        ({"code": "NOT_FOUND", "error_metadata": {"model_id": "nobody"}}, "ErrorInfo.metadata"),
        ({"code": "NOT_FOUND", "violations": [{"field": "model_id"}]}, "violations: expected"),
        ({"code": "NOT_FOUND", "forbidden": ["nob.dy"]}, "is in the answer"),
        ({"code": "INTERNAL", "other_allowed_codes": ["UNAVAILABLE"]}, "expected INTERNAL or UNAVAILABLE"),
    ],
)
def test_wrong_errors(client: Client, expect: dict[str, Any], says: str) -> None:
    found = problems(client, NOBODY, expect)
    assert any(says in problem for problem in found), found


def test_violations_are_compared_in_order(server: FakeServer, client: Client) -> None:
    status = details(
        grpc.StatusCode.INVALID_ARGUMENT,
        "a (and 1 more)",
        "FEATURE_MISSING",
        fields=[("features.a", "a"), ("features.b", "b")],
    )
    server.handlers[PREDICT] = lambda data, context: abort(context, status)
    code = {"code": "INVALID_ARGUMENT"}
    right = [{"field": "features.a", "description": "a"}, {"field": "features.b"}]
    assert problems(client, ONE, {**code, "violations": right}) == []
    assert problems(client, ONE, {**code, "violations": right[::-1]}) != []
    assert problems(client, ONE, {**code, "violations": right[:1]}) != []
    assert problems(client, ONE, {**code, "violations": [{"field": "features.a", "description": "z"}, right[1]]}) != []


def test_an_error_without_details(server: FakeServer, client: Client) -> None:
    server.handlers[PREDICT] = lambda data, context: context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large")
    expect = {"code": "RESOURCE_EXHAUSTED", "reason": "MESSAGE_TOO_LARGE"}
    assert "the status has no details" in problems(client, ONE, expect)
    assert problems(client, ONE, {**expect, "details_optional": True}) == []


def test_a_path_in_an_error(server: FakeServer, client: Client) -> None:
    status = details(grpc.StatusCode.INTERNAL, "cannot read /srv/models/x/model.onnx", "INTERNAL")
    server.handlers[PREDICT] = lambda data, context: abort(context, status)
    assert any("a path" in problem for problem in problems(client, ONE, {"code": "INTERNAL"}))


def test_broken_details(server: FakeServer, client: Client) -> None:
    def predict(data: bytes, context: Any) -> None:
        context.set_trailing_metadata([("grpc-status-details-bin", b"\xff")])
        context.abort(grpc.StatusCode.INTERNAL, "m")

    server.handlers[PREDICT] = predict
    found = problems(client, ONE, {"code": "INTERNAL"})
    assert "details: cannot be read as google.rpc.Status" in found


def test_a_generated_id_must_be_there_and_new(server: FakeServer, client: Client) -> None:
    call = {"predict": {"model_id": "identity", "features": {"x": {"float_value": 1}}}, "repeat": 3}
    assert problems(client, call, {"predict": {"predictions": {"y": 1}}}) == []
    answering(server, request_id="always the same")
    assert problems(client, call, {}) == ["request_id: a generated id came twice"]
    answering(server, request_id="")
    assert any("none was made" in problem for problem in problems(client, call, {}))


def test_cross_talk_is_seen(server: FakeServer, client: Client) -> None:
    call = {
        "predict": {"model_id": "identity"},
        "fills": [{"path": 'features["x"]', "indexed_float": {"step": 1}}],
        "concurrency": 4,
        "repeat": 3,
    }
    expect = {"predict": {}, "fills": [{"path": 'predictions["y"]', "indexed_float": {"step": 1}}]}
    assert problems(client, call, expect) == []
    server.requests.clear()
    answering(server, predictions={"y": 5.0})
    found = problems(client, call, expect)
    assert len([problem for problem in found if "predictions" in problem]) == 11
    assert len(server.requests) == 12


def test_own_connections(server: FakeServer, client: Client) -> None:
    peers: set[str] = set()
    lock = threading.Lock()

    def predict(data: bytes, context: Any) -> Any:
        with lock:
            peers.add(context.peer())
        return server.predict(data, context)

    server.handlers[PREDICT] = predict
    assert problems(client, {**ONE, "connections": 3, "concurrency": 3}, {}) == []
    assert len(peers) == 3


def test_metadata_is_sent(server: FakeServer, client: Client) -> None:
    metadata = [{"key": "x-a", "value": "b", "value_count": 3}, {"key": "x-bin", "value": "é"}]
    assert problems(client, {**ONE, "metadata": metadata}, {}) == []
    assert ("x-a", "bbb") in server.metadata
    assert ("x-bin", "é".encode()) in server.metadata


def test_bytes_behind_the_request(server: FakeServer, client: Client) -> None:
    pieces = [{"hex": "c53e"}, {"hex": "00", "count": 4}]
    assert problems(client, {**ONE, "append_hex": "c0 3e 01", "append_pieces": pieces}, {}) == []
    assert server.requests[-1][1].endswith(bytes.fromhex("c03e01c53e00000000"))


def test_raw_calls(server: FakeServer, client: Client) -> None:
    call = {"raw": {"method": PREDICT, "hex": "0a086964656e74697479 12 01 61"}}
    assert problems(client, call, {"predict": {"request_id": "a", "predictions": {"y": 0}}}) == []
    found = problems(client, call, {"predict": {"request_id": "b", "predictions": {"y": 0}}})
    assert found == ['request_id: expected "b", got "a"']
    call = {"raw": {"method": "/nobody.v1.No/Call"}}
    assert problems(client, call, {"code": "UNIMPLEMENTED", "reason": "METHOD_UNIMPLEMENTED"}) == []


def test_a_deadline(server: FakeServer, client: Client) -> None:
    gate = threading.Event()

    def predict(data: bytes, context: Any) -> Any:
        gate.wait(20)
        return server.predict(data, context)

    server.handlers[PREDICT] = predict
    try:
        assert problems(client, {**ONE, "deadline_ms": 50}, {"code": "DEADLINE_EXCEEDED"}) == []
        assert problems(client, {**ONE, "cancel_after_ms": 50}, {"code": "CANCELLED"}) == []
        found = problems(client, {**ONE, "deadline_ms": 50}, {"code": "DEADLINE_EXCEEDED", "max_elapsed_ms": 1})
        assert any("expected at most 1" in problem for problem in found)
    finally:
        gate.set()


def test_compression_is_seen_on_the_wire(server: FakeServer, client: Client) -> None:
    def predict(data: bytes, context: Any) -> Any:
        if compressing:
            context.set_compression(grpc.Compression.Gzip)
        request = service.PredictRequest.FromString(data)
        response = answer(request, request.request_id)
        response.outputs["zeros"].float_array.values.extend([0.0] * 50_000)
        return response.SerializeToString()

    server.handlers[PREDICT] = predict
    expect = {
        "predict": {"predictions": {"y": 1}},
        "fills": [{"path": 'outputs["zeros"]', "floats": {"count": 50000}}],
        "max_received_wire_bytes": 20000,
    }
    compressing = True
    assert problems(client, {**ONE, "gzip": True}, expect) == []
    compressing = False
    (found,) = problems(client, ONE, expect)
    assert "expected at most 20000" in found


# --- batches ---------------------------------------------------------------------------------------------------------


def batch_call(size: int = 3) -> dict[str, Any]:
    return {
        "batch_predict": {"requests": [{"model_id": "identity"}]},
        "batch_size": size,
        "fills": [{"path": 'features["x"]', "indexed_float": {"step": 1}}],
    }


BATCH_EXPECT = {
    "batch": {"results": [{"predict": {}, "fills": [{"path": 'predictions["y"]', "indexed_float": {"step": 1}}]}]}
}


def results(server: FakeServer, change: Any) -> None:
    """Makes BatchPredict give the results of identity, changed."""

    def batch_predict(data: bytes, context: Any) -> Any:
        response = service.BatchPredictResponse.FromString(server.batch_predict(data, context))
        made = change(list(response.results))
        return service.BatchPredictResponse(results=made).SerializeToString()

    server.handlers[BATCH] = batch_predict


def error(status: Any) -> service.BatchPredictResult:
    result = service.BatchPredictResult()
    result.error.ParseFromString(status.SerializeToString())
    return result


NO_MODEL = details(grpc.StatusCode.NOT_FOUND, 'model "x" not found', "MODEL_NOT_FOUND")


def test_a_right_batch(client: Client) -> None:
    assert problems(client, batch_call(), BATCH_EXPECT) == []
    assert problems(client, batch_call(), {"batch": {"equals_singles": True}}) == []


def test_wrong_batches(server: FakeServer, client: Client) -> None:
    for change, says in (
        (lambda given: given[:2], "expected 3, as many as requests, got 2"),
        (lambda given: [*given, given[0]], "expected 3, as many as requests, got 4"),
        (lambda given: given[::-1], 'results[0]: predictions["y"]'),
        (lambda given: [given[0], service.BatchPredictResult(), given[2]], "results[1]: holds neither"),
        (lambda given: [given[0], error(NO_MODEL), given[2]], "results[1]: code: expected OK, got NOT_FOUND"),
        (
            lambda given: [given[0], error(type(NO_MODEL)(code=5, message="m")), given[2]],
            "exactly one ErrorInfo",
        ),
        (lambda given: [given[0], error(type(NO_MODEL)(code=99)), given[2]], "is no code of an error"),
        (lambda given: [given[0], given[1], given[1]], "a generated id came twice"),
    ):
        results(server, change)
        found = problems(client, batch_call(), BATCH_EXPECT)
        assert any(says in problem for problem in found), (says, found)


def test_an_expected_error_in_a_batch(server: FakeServer, client: Client) -> None:
    expect = {"batch": {"results": [{"predict": {"predictions": {"y": 0}}}, {"code": "NOT_FOUND"}]}}
    (found,) = problems(client, batch_call(2), expect)
    assert found == "results[1]: code: expected NOT_FOUND, got an answer"
    results(server, lambda given: [given[0], error(NO_MODEL)])
    assert problems(client, batch_call(2), expect) == []
    wrong = {"batch": {"results": [{}, {"code": "NOT_FOUND", "reason": "LABEL_NOT_FOUND"}]}}
    assert problems(client, batch_call(2), wrong) == [
        "results[1]: reason: expected LABEL_NOT_FOUND, got MODEL_NOT_FOUND"
    ]


def test_batches_that_differ_from_single_requests(server: FakeServer, client: Client) -> None:
    expect = {"batch": {"equals_singles": True}}

    def nudge(given: list[Any]) -> list[Any]:
        given[2].response.predictions["y"] += 1e-6
        return given

    results(server, nudge)
    (found,) = problems(client, batch_call(), expect)
    assert "results[2]" in found
    assert "by itself" in found
    results(server, lambda given: [given[0], error(NO_MODEL), given[2]])
    assert problems(client, batch_call(), expect) == ["results[1]: is an error, and by itself an answer"]

    def refuse(data: bytes, context: Any) -> None:
        abort(context, NO_MODEL)

    server.handlers[PREDICT] = refuse
    assert "is an answer, and by itself NOT_FOUND" in problems(client, batch_call(), expect)[0]
    results(server, lambda given: [error(NO_MODEL)] * 3)
    assert problems(client, batch_call(), expect) == []
    other = details(grpc.StatusCode.NOT_FOUND, 'model "y" not found', "MODEL_NOT_FOUND")
    results(server, lambda given: [error(other)] * 3)
    assert any("error.message" in problem for problem in problems(client, batch_call(), expect))


# --- tensors, health, catalog -------------------------------------------------------------------------------


def test_tensors(server: FakeServer, client: Client) -> None:
    response = model_inference_pb2.PredictionResponse(request_id="r", model_version="1")
    response.outputs["y"].CopyFrom(tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=[1], data=b"\0\0\xc0\x7f"))
    response.timing.batch_rows = 1
    server.handlers[TENSORS] = lambda data, context: response.SerializeToString()
    call = {"tensor_predict": {"model_id": "m", "request_id": "r"}}
    expect = {
        "tensor_predict": {"outputs": {"y": {"dtype": "DATA_TYPE_FLOAT", "shape": [1]}}},
        "fills": [{"path": 'outputs["y"].data', "hex": "0000c07f"}],
    }
    assert problems(client, call, expect) == []
    response.outputs["y"].data = b"\0\0\xc0\xff"
    assert any('outputs["y"].data' in problem for problem in problems(client, call, expect))
    assert problems(client, call, {**expect, "any_nan": True}) == []
    again = {"tensor_predict": {"model_id": "m"}, "repeat": 2}
    assert problems(client, again, {}) == ["request_id: a generated id came twice"]
    batch = model_inference_pb2.BatchPredictionResponse(
        results=[model_inference_pb2.BatchPredictionResult(response=response)] * 2
    )
    server.handlers[TENSOR_BATCH] = lambda data, context: batch.SerializeToString()
    twice = {"tensor_batch_predict": {"requests": [{"model_id": "m"}, {"model_id": "m"}]}}
    assert problems(client, twice, {}) == ["request_id: a generated id came twice"]


def test_health(server: FakeServer, client: Client) -> None:
    serving = service.HealthCheckResponse(status=service.HealthCheckResponse.SERVING_STATUS_SERVING)
    server.handlers[CHECK] = lambda data, context: serving.SerializeToString()
    assert problems(client, {"health_check": {}}, {"health": {"statuses": ["SERVING"]}}) == []
    (found,) = problems(client, {"health_check": {}}, {"health": {"statuses": ["NOT_SERVING"]}})
    assert found == "health: expected ['NOT_SERVING'], got ['SERVING']"


def test_watching(server: FakeServer, client: Client) -> None:
    serving = service.HealthCheckResponse(status=service.HealthCheckResponse.SERVING_STATUS_SERVING)
    closing = threading.Event()

    def watch(times: int, stays: bool) -> Any:
        def stream(data: bytes, context: Any) -> Any:
            context.add_callback(closing.set)
            for _ in range(times):
                yield serving.SerializeToString()
            if stays:
                closing.wait(20)

        return stream

    expect = {"health": {"statuses": ["SERVING"], "stays_open": True}}
    server.handlers[WATCH] = watch(1, True)
    assert problems(client, {"health_watch": {}}, expect) == []
    closing.clear()
    server.handlers[WATCH] = watch(2, True)
    assert "got ['SERVING', 'SERVING']" in problems(client, {"health_watch": {}}, expect)[0]
    server.handlers[WATCH] = watch(1, False)
    assert problems(client, {"health_watch": {}}, expect) == ["health: the stream ended, expected it to stay open"]
    assert problems(client, {"health_watch": {}}, {"health": {"statuses": ["SERVING"]}}) == []


def ready_model(model_id: str) -> model_pb2.Model:
    model = model_pb2.Model(model_id=model_id, default_version="1")
    version = model.versions.add(version="1", state=model_pb2.MODEL_STATE_READY, kind=model_pb2.MODEL_KIND_TABULAR)
    version.ready_time.GetCurrentTime()
    version.features.add(name="x", type=model_pb2.FEATURE_TYPE_FLOAT, required=True)
    version.execution.CopyFrom(
        model_pb2.Execution(
            policy=model_pb2.BATCHING_POLICY_DIRECT,
            source=model_pb2.POLICY_SOURCE_MEASURED,
            executors=2,
            max_batch_rows=1,
            max_queue_rows=1024,
            device="cpu",
            measurements=[model_pb2.Measurement(rows=1, microseconds=5)],
        )
    )
    return model


READY = {
    "model": {
        "model_id": "m",
        "default_version": "1",
        "versions": [
            {
                "version": "1",
                "state": "MODEL_STATE_READY",
                "kind": "MODEL_KIND_TABULAR",
                "features": [{"name": "x", "type": "FEATURE_TYPE_FLOAT", "required": True}],
            }
        ],
    }
}


def test_models(server: FakeServer, client: Client) -> None:
    model = ready_model("m")
    server.handlers[GET] = lambda data, context: model_catalog_service_pb2.GetModelResponse(
        model=model
    ).SerializeToString()
    call = {"get_model": {"model_id": "m"}}
    assert problems(client, call, READY) == []

    def wrong(change: Any, says: str) -> None:
        nonlocal model
        model = ready_model("m")
        change(model)
        found = problems(client, call, READY)
        assert any(says in problem for problem in found), (says, found)

    wrong(lambda m: setattr(m, "default_version", ""), "default_version")
    wrong(lambda m: setattr(m.versions[0], "verified", True), "verified: expected nothing")
    wrong(lambda m: setattr(m.versions[0].features[0], "type", 2), "features[0].type")
    wrong(lambda m: setattr(m.versions[0].features[0], "required", False), "a default is set exactly")
    wrong(lambda m: m.versions[0].ClearField("ready_time"), "ready_time")
    wrong(lambda m: m.versions[0].error.SetInParent(), "where it did not fail")
    wrong(lambda m: setattr(m.versions[0], "state", 3), "error: is set not")
    wrong(lambda m: m.versions[0].ClearField("execution"), "execution: is set exactly")
    wrong(lambda m: setattr(m.versions[0].execution, "device", ""), "expected a policy, its source and a device")
    wrong(lambda m: setattr(m.versions[0].execution, "executors", 0), "expected at least 1 executor")
    wrong(lambda m: setattr(m.versions[0].execution, "max_batch_rows", 2), "expected 1 where requests are not joined")
    wrong(
        lambda m: (
            setattr(m.versions[0], "batchable", True) or setattr(m.versions[0].execution, "unbatchable_reason", "x")
        ),
        "unbatchable_reason",
    )
    wrong(lambda m: m.versions[0].execution.measurements.add(rows=1, microseconds=9), "expected rising rows")
    wrong(lambda m: m.versions.add(version="01"), "expected numbers")
    wrong(lambda m: m.versions.insert(0, model_pb2.ModelVersion(version="5")), "rising numbers")


def test_lists(server: FakeServer, client: Client) -> None:
    models = [ready_model(name) for name in ("a", "b", "c")]

    def listed(data: bytes, context: Any) -> bytes:
        request = model_catalog_service_pb2.ListModelsRequest.FromString(data)
        begin = int(request.page_token or "0")
        size = request.page_size or 100
        response = model_catalog_service_pb2.ListModelsResponse(models=models[begin : begin + size])
        if begin + size < len(models):
            response.next_page_token = str(begin + size)
        return response.SerializeToString()

    server.handlers[LIST] = listed
    call = {"list_models": {"page_size": 2}}
    expect = {"models": {"includes": ["a", "c"], "excludes": ["d"], "all_pages": True, "first_page_count": 2}}
    assert problems(client, call, expect) == []
    assert problems(client, call, {"models": {"includes": ["c"]}}) == ["'c' is missing"]
    assert problems(client, call, {"models": {"excludes": ["a"]}}) == ["'a' is not expected"]
    assert problems(client, call, {"models": {"first_page_count": 3}}) == ["expected 3 models, got 2"]
    models.reverse()
    assert any("byte order" in problem for problem in problems(client, call, expect))
    models = models[:1]
    server.handlers[LIST] = lambda data, context: listed(b"", context)
    models = [ready_model(name) for name in ("a", "b", "c")]
    assert any("at most 2" in problem for problem in problems(client, call, {"models": {}}))
