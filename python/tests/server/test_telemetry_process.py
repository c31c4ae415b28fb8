# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of a server in its own process: scrapes, spans at a receiver, request logs, a profile."""

from __future__ import annotations

import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from concord_proto.inference.v1 import inference_service_pb2, model_inference_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

INFERENCE = "inference.v1.InferenceService"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
Spawn = Callable[..., Any]


def get(server: Any, path: str, accept: str = "*/*") -> tuple[str, str]:
    """The type and the text of an answer over HTTP."""
    request = urllib.request.Request(f"http://{server.ready['http']}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def numbers(server: Any, name: str) -> dict[tuple[str, ...], float]:
    """A metric's values by those of its labels, in the order of the labels' names."""
    _, text = get(server, "/metrics")
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def call(
    channel: grpc.Channel, method: str, request: Any = None, metadata: Sequence[tuple[str, str]] = ()
) -> grpc.StatusCode:
    data = request.SerializeToString() if request is not None else b""
    try:
        channel.unary_unary(method)(data, timeout=20, metadata=tuple(metadata))
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def test_every_service_is_counted(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    kit.write_identity(tmp_path / "models")
    server = spawn(tmp_path / "models", "--admin-listen", "127.0.0.1:0")
    batch = inference_service_pb2.BatchPredictRequest(
        requests=[kit.request(a=1.0, b=1.0), kit.request(a=1.0), kit.request("other", a=1.0)]
    )
    tensors = model_inference_pb2.PredictionRequest(model_id="m")
    with grpc.insecure_channel(server.target) as channel, grpc.insecure_channel(server.ready["admin"]) as admin:
        call(channel, f"/{INFERENCE}/Predict", kit.request(a=1.0, b=1.0))
        call(channel, f"/{INFERENCE}/Predict", kit.request(a=1.0))
        call(channel, f"/{INFERENCE}/Predict", kit.request("unheard-of"))
        call(channel, f"/{INFERENCE}/BatchPredict", batch)
        call(channel, f"/{INFERENCE}/Check")
        call(channel, "/inference.v1.ModelInference/Predict", tensors)
        call(channel, "/inference.v1.ModelCatalogService/ListModels")
        call(channel, "/grpc.health.v1.Health/Check")
        list(channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(iter(()), timeout=20))
        call(channel, "/un.heard.Of/Method")
        call(admin, "/inference.v1.ModelAdminService/LoadModel")
        with_stream = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        next(with_stream)
        kit.wait_until(lambda: numbers(server, "inference_open_streams")[()] == 1, "one open stream")
        with_stream.cancel()
        kit.wait_until(lambda: numbers(server, "inference_open_streams")[()] == 0, "no open stream")
    assert numbers(server, "inference_requests_total") == {
        # code, method, model, service, version
        ("OK", "Predict", "m", INFERENCE, "1"): 1,
        ("INVALID_ARGUMENT", "Predict", "m", INFERENCE, "1"): 1,
        ("NOT_FOUND", "Predict", "", INFERENCE, ""): 1,
        ("OK", "BatchPredict", "m", INFERENCE, "1"): 1,
        ("OK", "Check", "", INFERENCE, ""): 1,
        ("INVALID_ARGUMENT", "Predict", "m", "inference.v1.ModelInference", "1"): 1,
        ("OK", "ListModels", "", "inference.v1.ModelCatalogService", ""): 1,
        ("OK", "Check", "", "grpc.health.v1.Health", ""): 1,
        ("CANCELLED", "Watch", "", "grpc.health.v1.Health", ""): 1,
        ("OK", "ServerReflectionInfo", "", "grpc.reflection.v1.ServerReflection", ""): 1,
        ("UNIMPLEMENTED", "unknown", "", "unknown", ""): 1,
        ("INVALID_ARGUMENT", "LoadModel", "", "inference.v1.ModelAdminService", ""): 1,
    }
    rejected = {reason: count for (reason,), count in numbers(server, "inference_rejected_total").items() if count}
    assert rejected == {
        "FEATURE_MISSING": 2,
        "MODEL_NOT_FOUND": 2,
        "TENSOR_MISSING": 1,
        "METHOD_UNIMPLEMENTED": 1,
        "MODEL_ID_INVALID": 1,
        "CANCELLED": 1,
    }
    # Of the requests that ran: one alone, one in a batch.
    assert numbers(server, "inference_batch_rows_count") == {("m", "1"): 2}
    assert numbers(server, "inference_stage_duration_seconds_count") == {
        ("m", "compute", "1"): 2,
        ("m", "queue", "1"): 2,
    }
    assert numbers(server, "inference_queue_rows") == {("m", "1"): 0}
    assert "unheard" not in get(server, "/metrics")[1]


def test_a_deadline_that_passes_is_counted_as_one(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    server = spawn(tmp_path)
    with grpc.insecure_channel(server.target) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")

        def passed() -> float:
            """Again, where the machine was so slow that the call never came in."""
            with pytest.raises(grpc.RpcError):
                list(watch(b"", timeout=0.3))
            return numbers(server, "inference_rejected_total")["DEADLINE_EXCEEDED",]

        kit.wait_until(passed, "a deadline to be counted")
    assert ("DEADLINE_EXCEEDED", "Watch", "", "grpc.health.v1.Health", "") in numbers(
        server, "inference_requests_total"
    )


def test_both_formats_are_whole(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    kit.write_identity(tmp_path / "models")
    server = spawn(tmp_path / "models")
    content_type, text = get(server, "/metrics")
    assert content_type.startswith("text/plain; version=0.0.4")
    assert {family.name for family in text_string_to_metric_families(text)} > {
        "inference_model_state",
        "process_threads",
    }
    content_type, text = get(server, "/metrics", OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert {family.name for family in openmetrics.text_string_to_metric_families(text)} > {"inference_model_state"}


def test_series_leave_with_their_version(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    models = tmp_path / "models"
    kit.write_identity(models)
    kit.write_identity(models, version="2")
    server = spawn(models, "--repository-poll-ms", "20")
    states = numbers(server, "inference_model_state")
    assert {key[2]: key[1] for key, value in states.items() if value} == {"1": "ready", "2": "ready"}
    assert len(states) == 8
    with grpc.insecure_channel(server.target) as channel:
        call(channel, f"/{INFERENCE}/Predict", kit.request(a=1.0, b=1.0))
        assert ("m", "2") in numbers(server, "inference_batch_rows_count")
        shutil.rmtree(models / "m/2")
        kit.wait_until(lambda: 'version="2"' not in get(server, "/metrics")[1], "version 2 to leave")
        assert ("m", "1") in numbers(server, "inference_batch_rows_count")


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Any]:
        return [
            span for request in self.requests for of in request.resource_spans for scope in of.scope_spans
            for span in scope.spans
        ]  # fmt: skip


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield made
    server.stop(0).wait(20)


def attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


def test_spans_continue_the_callers_trace(
    kit: SimpleNamespace, tmp_path: Path, spawn: Spawn, receiver: Receiver
) -> None:
    kit.write_identity(tmp_path / "models")
    server = spawn(tmp_path / "models", "--request-log-ppm", "1")
    traced = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=b")]
    before = time.time_ns()
    with grpc.insecure_channel(server.target) as channel:
        call(channel, f"/{INFERENCE}/Predict", kit.request(request_id="r-1", a=1.0, b=1.0), traced)
        call(channel, f"/{INFERENCE}/Predict", kit.request("unheard-of", request_id="r-2"))
        call(channel, "/un.heard.Of/Method", None, [("traceparent", "nonsense")])
        call(channel, f"/{INFERENCE}/Predict", kit.request(a=1.0, b=1.0), [("traceparent", f"00-{TRACE}-{SPAN}-00")])
    after = time.time_ns()
    assert server.end() == 0  # what is left is sent at the drain
    assert {
        attributes(of.resource)["service.name"] for request in receiver.requests for of in request.resource_spans
    } == {"concord"}
    by_name: dict[str, list[Any]] = {}
    for span in receiver.spans:
        by_name.setdefault(span.name, []).append(span)
    assert set(by_name) == {f"{INFERENCE}/Predict", "unknown/unknown", "queue", "compute"}
    # The third Predict belongs to a trace that its caller does not sample.
    one, two = sorted(by_name[f"{INFERENCE}/Predict"], key=lambda span: span.start_time_unix_nano)
    assert (one.trace_id.hex(), one.parent_span_id.hex(), one.trace_state) == (TRACE, SPAN, "a=b")
    assert one.kind == one.SPAN_KIND_SERVER
    assert one.status.code == one.status.STATUS_CODE_UNSET
    assert attributes(one) == {
        "rpc.system": "grpc",
        "rpc.service": INFERENCE,
        "rpc.method": "Predict",
        "rpc.grpc.status_code": 0,
        "model": "m",
        "version": "1",
        "request_id": "r-1",
    }
    (queue,), (compute,) = by_name["queue"], by_name["compute"]
    for child in (queue, compute):
        assert (child.trace_id.hex(), child.parent_span_id) == (TRACE, one.span_id)
        assert child.kind == child.SPAN_KIND_INTERNAL
    assert attributes(compute) == {"batch_rows": 1}
    times = (before, one.start_time_unix_nano, queue.start_time_unix_nano, queue.end_time_unix_nano)
    times += (compute.end_time_unix_nano, one.end_time_unix_nano, after)
    assert list(times) == sorted(times)
    assert queue.end_time_unix_nano == compute.start_time_unix_nano
    assert two.trace_id.hex() != TRACE
    assert two.parent_span_id == b""
    found = attributes(two)
    assert (found["model"], found["reason"], found["rpc.grpc.status_code"]) == ("", "MODEL_NOT_FOUND", 5)
    assert two.status.code == two.status.STATUS_CODE_UNSET  # the caller's error
    (unknown,) = by_name["unknown/unknown"]
    assert unknown.status.code == unknown.status.STATUS_CODE_ERROR
    (line,) = [line for line in server.log() if line["msg"] == "request"]
    assert (line["request_id"], line["trace_id"], line["span_id"]) == ("r-1", TRACE, one.span_id.hex())


TOKEN_LM = Path(__file__).resolve().parents[3] / "conformance/fixtures/token-lm"


def test_what_is_told_of_a_text(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn, receiver: Receiver) -> None:
    shutil.copytree(TOKEN_LM, tmp_path / "models/chat")
    server = spawn(tmp_path / "models", "--request-log-ppm", "1000000", "--max-kv-bytes", "1048576")
    assert numbers(server, "inference_kv_cache_bytes")["chat", "1"] == 1048576  # before anybody asks for a text
    asked = kit.request("chat", request_id="r-1", prompt="ab", raw=True)
    asked.config.max_tokens = 3
    with grpc.insecure_channel(server.target) as channel:
        *tokens, _ = channel.unary_stream(f"/{INFERENCE}/StreamPredict")(asked.SerializeToString(), timeout=kit.LIMIT)
        call(channel, f"/{INFERENCE}/Predict", asked)
        batch = inference_service_pb2.BatchPredictRequest(requests=[asked, asked])
        call(channel, f"/{INFERENCE}/BatchPredict", batch)
        call(channel, f"/{INFERENCE}/Predict", kit.request("chat", prompt=""))
    assert len(tokens) == 3
    kit.wait_until(lambda: numbers(server, "inference_tokens_total")["chat", "1"] == 12, "the tokens")
    assert numbers(server, "inference_time_to_first_token_seconds_count")["chat", "1"] == 4
    assert numbers(server, "inference_generations") == {("chat", "running", "1"): 0, ("chat", "waiting", "1"): 0}
    stages = numbers(server, "inference_stage_duration_seconds_count")
    assert stages == {("chat", "compute", "1"): 4, ("chat", "queue", "1"): 4}
    assert server.end() == 0
    by_name: dict[str, list[Any]] = {}
    for span in receiver.spans:
        by_name.setdefault(span.name, []).append(span)
    assert {name: len(spans) for name, spans in by_name.items() if "/" not in name} == {
        "queue": 4,
        "prefill": 4,
        "decode": 4,
    }
    (stream,) = by_name[f"{INFERENCE}/StreamPredict"]
    queue, prefill, decode = (
        next(span for span in by_name[name] if span.parent_span_id == stream.span_id)
        for name in ("queue", "prefill", "decode")
    )
    assert attributes(prefill) == {"prompt_tokens": 2}
    assert attributes(decode) == {"tokens": 3, "batch_rows": 1}
    times = (stream.start_time_unix_nano, queue.start_time_unix_nano, queue.end_time_unix_nano)
    times += (prefill.end_time_unix_nano, decode.end_time_unix_nano, stream.end_time_unix_nano)
    assert list(times) == sorted(times)
    lines = [line for line in server.log() if line["msg"] == "request"]
    for line in lines[:3]:
        assert (line["model"], line["version"], line["code"]) == ("chat", "1", "OK")
        assert line["duration_ms"] >= line["compute_ms"] > 0
        assert line["batch_rows"] >= 1
    assert (lines[3]["reason"], lines[3]["batch_rows"]) == ("PROMPT_INVALID", 0)


def test_the_sampler_and_the_name_are_opentelemetrys(
    kit: SimpleNamespace, tmp_path: Path, spawn: Spawn, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    server = spawn(tmp_path)
    with grpc.insecure_channel(server.target) as channel:
        call(channel, "/grpc.health.v1.Health/Check")
        call(channel, "/grpc.health.v1.Health/Check", None, [("traceparent", f"00-{TRACE}-{SPAN}-01")])
    assert server.end() == 0
    assert [span.trace_id.hex() for span in receiver.spans] == [TRACE]
    assert attributes(receiver.requests[0].resource_spans[0].resource)["service.name"] == "mine"


def test_a_receiver_that_does_not_answer_holds_up_no_drain(
    kit: SimpleNamespace, tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        server = spawn(tmp_path)
        with grpc.insecure_channel(server.target) as channel:
            assert call(channel, "/grpc.health.v1.Health/Check") is grpc.StatusCode.OK
        assert server.end() == 0
    # After 5 seconds; the exporter's own limit is 10 for each attempt.
    assert any(line["msg"].startswith("traces that were not sent") for line in server.log())


def test_request_logs_of_a_server(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    kit.write_identity(tmp_path / "models")
    server = spawn(tmp_path / "models", "--request-log-ppm", "1000000")
    batch = inference_service_pb2.BatchPredictRequest(
        requests=[kit.request(a=1.0, b=1.0), kit.request(a=7654321.0, b=2.0)]
    )
    with grpc.insecure_channel(server.target) as channel:
        call(channel, f"/{INFERENCE}/Predict", kit.request(request_id="a\nb", a=7654321.0, b=1.0))
        call(channel, f"/{INFERENCE}/Predict", kit.request(secretfeature="secretvalue"))
        call(channel, f"/{INFERENCE}/BatchPredict", batch)
        call(channel, "/un.heard.Of/Method")
    assert server.end() == 0
    one, two, three, four = [line for line in server.log() if line["msg"] == "request"]
    assert (one["request_id"], one["code"], one["reason"], one["batch_rows"]) == ("a\nb", "OK", "", 1)
    assert one["duration_ms"] >= one["compute_ms"] > 0
    assert one["peer"].startswith("127.0.0.1:")
    assert (two["code"], two["reason"]) == ("INVALID_ARGUMENT", "FEATURE_MISSING")
    assert (two["model"], two["version"], two["batch_rows"], len(two["request_id"])) == ("m", "1", 0, 32)
    assert (three["method"], three["request_id"], three["batch_rows"]) == (f"{INFERENCE}/BatchPredict", "", 2)
    assert (four["method"], four["reason"]) == ("unknown/unknown", "METHOD_UNIMPLEMENTED")
    text = server.errors.read_text()
    assert "secret" not in text
    assert "7654321" not in text


def test_a_profile_of_a_server(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    server = spawn(tmp_path)
    content_type, text = get(server, "/debug/profile?seconds=0.2")
    assert content_type.startswith("text/plain")
    assert "MainThread;" in text
    for wrong in ("0", "61", "-1", "nan", "x"):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            get(server, f"/debug/profile?seconds={wrong}")

    def code(_place: int) -> int:
        try:
            get(server, "/debug/profile?seconds=1")
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    with ThreadPoolExecutor(2) as beside:

        def both() -> bool:
            codes = beside.map(code, range(2))
            assert get(server, "/healthz")[1] == "ok"
            return sorted(codes) == [200, 409]

        kit.wait_until(both, "one of two at once to be refused")


def test_no_profile_beyond_loopback(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    server = spawn(tmp_path, "--http", "0.0.0.0:0")
    server.ready["http"] = server.ready["http"].replace("0.0.0.0", "127.0.0.1")
    assert "inference_build_info" in get(server, "/metrics")[1]
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(server, "/debug/profile?seconds=0.1")


# What only traces need is not loaded by a server that makes none.
SERVE = """
import sys
from concord_server.__main__ import main
code = main(sys.argv[1:])
loaded = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "pynvml"))]
print('{"loaded": ' + str(len(loaded)) + '}', file=sys.stderr)
sys.exit(code)
"""


def test_a_server_without_traces_loads_nothing_of_them(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    server = spawn(tmp_path, code=("-c", SERVE))
    get(server, "/metrics")
    assert server.end() == 0
    assert json.loads(server.errors.read_text().splitlines()[-1]) == {"loaded": 0}
