# SPDX-License-Identifier: Apache-2.0
"""What an operator sees, room by room: numbers under their names, request logs, traces, the GPU, a profile."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from concord_server import telemetry
from concord_server.fault import Reason
from concord_server.telemetry import profile as profiles
from concord_server.telemetry.counts import ROW_BOUNDS, SECONDS_BOUNDS
from concord_server.telemetry.gpu import gpu
from concord_server.telemetry.metrics import Metrics
from concord_server.telemetry.traces import parent_of, traces
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

PREDICT = "/inference.v1.InferenceService/Predict"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


class Caller:
    """A call, as telemetry sees it."""

    def __init__(self, headers: Iterable[tuple[str, str | bytes]] = (), peer: str = "ipv4:127.0.0.1:4000") -> None:
        self.headers = headers
        self.where = peer

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        return self.headers

    def peer(self) -> str:
        return self.where


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """The values of a scrape by name and labels."""
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scrape(counts: telemetry.Counts, *others: bytes, accept: str = "") -> bytes:
    return Metrics("0.1.0", "1.31.1").text(counts.copy(), others, accept)[1]


def served(counts: telemetry.Counts, *, model: str = "m", version: str = "1", code: str = "OK", **more: Any) -> None:
    calls = telemetry.Calls(counts)
    record = calls.begin(calls.method(more.pop("method", PREDICT)), Caller())
    record.answers(model, version)
    calls.end(record, code, **more)


@pytest.fixture
def counts() -> telemetry.Counts:
    made = telemetry.Counts()
    made.set_state("m", "1", "ready")
    return made


def contract() -> set[str]:
    """The names in docs/telemetry.md."""
    page = (Path(__file__).parents[3] / "docs/telemetry.md").read_text()
    table = page.partition("## Metrics")[2].partition("\n\n")[0]
    return {name for line in table.splitlines() for name in re.findall(r"`((?:inference|process)_\w+)`", line)}


def test_the_names_are_those_of_the_contract(counts: telemetry.Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())
    served(counts)
    counts.watch("m", "1").ran(1, 1, 0.001)
    for accept in ("", OPENMETRICS):
        _, text = Metrics("0.1.0", "1.31.1", gpu("cuda:0")).text(counts.copy(), (), accept)
        names = set(re.findall(r"^# TYPE (\w+)", text.decode(), re.MULTILINE))
        # OpenMetrics names a counter's family without its ending.
        given = {f"{name}_total" if f"{name}_total" in contract() else name for name in names}
        assert {name for name in given if not name.startswith("python_")} == contract()


def test_a_call_is_counted_where_it_was_answered(counts: telemetry.Counts) -> None:
    served(counts)
    served(counts, code="INVALID_ARGUMENT", reason="FEATURE_MISSING")
    found = samples(scrape(counts))
    labels = ("method=Predict", "model=m")
    at = ("service=inference.v1.InferenceService", "version=1")
    assert found["inference_requests_total", "code=OK", *labels, *at] == 1
    assert found["inference_requests_total", "code=INVALID_ARGUMENT", *labels, *at] == 1
    assert found["inference_request_duration_seconds_count", *labels, "version=1"] == 2
    assert found["inference_rejected_total", "reason=FEATURE_MISSING"] == 1
    assert found["inference_rejected_total", "reason=QUEUE_FULL"] == 0
    assert {name[1][7:] for name in found if name[0] == "inference_rejected_total"} == {
        *map(str, Reason),
        "UNSPECIFIED",
    }
    assert found[("inference_open_streams",)] == 0
    build = ("inference_build_info", "onnxruntime=1.31.1", "server=python", "version=0.1.0")
    assert found[build] == 1
    assert found[("process_threads",)] >= 1


def test_buckets(counts: telemetry.Counts) -> None:
    watch = counts.watch("m", "1")
    watch.queued(5)
    watch.queued(-3)
    watch.began(0.0001)  # a bound counts below itself
    watch.ran(3, 64, 0.03)
    found = samples(scrape(counts))
    at = ("model=m", "version=1")
    assert found["inference_queue_rows", *at] == 2
    stage = "inference_stage_duration_seconds"
    assert found[f"{stage}_bucket", "le=0.0001", "model=m", "stage=queue", "version=1"] == 1
    assert found[f"{stage}_bucket", "le=0.025", "model=m", "stage=compute", "version=1"] == 0
    assert found[f"{stage}_bucket", "le=0.05", "model=m", "stage=compute", "version=1"] == 3
    assert found[f"{stage}_sum", "model=m", "stage=compute", "version=1"] == pytest.approx(0.09)
    assert found["inference_batch_rows_bucket", "le=64.0", *at] == 1
    assert found["inference_batch_rows_bucket", "le=32.0", *at] == 0
    assert [float(name[1][3:]) for name in found if name[0] == "inference_batch_rows_bucket"] == [
        *(2.0**power for power in range(11)),
        float("inf"),
    ]
    assert len(SECONDS_BOUNDS) == 18
    assert SECONDS_BOUNDS[0] == 1e-4
    assert SECONDS_BOUNDS[-1] == 60
    assert ROW_BOUNDS[-1] == 1024


def test_what_a_caller_writes_is_no_label(counts: telemetry.Counts) -> None:
    served(counts, model="evil", version="9", code="NOT_FOUND", reason="MODEL_NOT_FOUND")
    text = scrape(counts)
    assert b"evil" not in text
    assert b'model="",' in text


def test_a_version_takes_its_series_along(counts: telemetry.Counts) -> None:
    counts.set_state("m", "2", "loading")
    served(counts)
    served(counts, version="2")
    found = samples(scrape(counts))
    at = ("model=m", "state=ready")
    assert (found["inference_model_state", *at, "version=1"], found["inference_model_state", *at, "version=2"]) == (
        1,
        0,
    )
    counts.set_state("m", "2", "draining")
    counts.set_state("m", "2", None)
    assert b'version="2"' not in scrape(counts)
    served(counts, version="2")  # a call that ends after its version has left
    text = scrape(counts)
    assert b'version="2"' not in text
    assert b'version="1"' in text


def test_a_batch(counts: telemetry.Counts) -> None:
    calls = telemetry.Calls(counts)
    counts.set_state("n", "1", "ready")
    for models in (("m", "m"), ("m", "n", "m")):
        record = calls.begin(calls.method("/inference.v1.InferenceService/BatchPredict"), Caller())
        for model in models:
            record.answers(model, "1")
        record.item_failed("FEATURE_MISSING")
        record.item_failed("FEATURE_MISSING")
        calls.end(record)
    found = samples(scrape(counts))
    at = ("code=OK", "method=BatchPredict")
    assert found["inference_requests_total", *at, "model=m", "service=inference.v1.InferenceService", "version=1"] == 1
    assert found["inference_requests_total", *at, "model=", "service=inference.v1.InferenceService", "version="] == 1
    assert found["inference_rejected_total", "reason=FEATURE_MISSING"] == 4


def test_services_with_a_method_of_one_name_share_its_duration(counts: telemetry.Counts) -> None:
    served(counts)
    served(counts, method="/inference.v1.ModelInference/Predict")
    found = samples(scrape(counts))
    assert found["inference_request_duration_seconds_count", "method=Predict", "model=m", "version=1"] == 2


def test_several_processes_are_one(counts: telemetry.Counts) -> None:
    served(counts)
    counts.watch("m", "1").ran(1, 1, 0.03)
    counts.watch("m", "1").queued(2)
    other = Metrics("0.1.0", "1.31.1").packed(counts.copy())
    for accept in ("", OPENMETRICS):
        text = scrape(counts, other, other, accept=accept)
        if accept:
            assert list(openmetrics.text_string_to_metric_families(text.decode()))
            continue
        found = samples(text)
        at = ("model=m", "version=1")
        assert found["inference_queue_rows", *at] == 6
        assert found["inference_request_duration_seconds_count", "method=Predict", *at] == 3
        assert found["inference_stage_duration_seconds_bucket", "le=0.05", "model=m", "stage=compute", "version=1"] == 3
        assert found["inference_model_state", "model=m", "state=ready", "version=1"] == 1
        alone = samples(scrape(counts))
        assert found[("process_start_time_seconds",)] == alone[("process_start_time_seconds",)]
        assert found[("process_open_fds",)] > 2 * alone[("process_open_fds",)]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    telemetry.start(stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def test_a_request_log(counts: telemetry.Counts, lines: io.StringIO) -> None:
    calls = telemetry.Calls(counts)
    calls.end(calls.begin(calls.method(PREDICT), Caller()))
    assert lines.getvalue() == ""  # none, until it is said
    calls.set_log_ppm(1_000_000)
    record = calls.begin(calls.method(PREDICT), Caller([("traceparent", f"00-{TRACE}-{SPAN}-00")], "ipv6:%5B::1%5D:50"))
    record.request_id = "line\nbell\x07next\x85sep\u2028é" + "x" * 70
    record.answers("m", "1")
    record.ran(0.0015, 0.002, 8)
    calls.end(record, "RESOURCE_EXHAUSTED", "QUEUE_FULL")
    text = lines.getvalue()
    assert text.count("\n") == 1
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", text)
    assert "line\\nbell\\u0007next\\u0085sep\\u2028é" in text
    line = json.loads(text)
    assert list(line) == [
        "time", "level", "msg", "request_id", "trace_id", "span_id", "method", "model", "version", "code", "reason",
        "duration_ms", "queue_ms", "compute_ms", "batch_rows", "peer",
    ]  # fmt: skip
    assert (line["msg"], line["request_id"][-3:]) == ("request", "...")
    assert (line["trace_id"], line["span_id"]) == (TRACE, SPAN)
    assert line["method"] == "inference.v1.InferenceService/Predict"
    assert (line["model"], line["version"]) == ("m", "1")
    assert (line["code"], line["reason"]) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert (line["queue_ms"], line["compute_ms"], line["batch_rows"]) == (1.5, 2.0, 8)
    assert (line["peer"], line["duration_ms"] >= 0) == ("[::1]:50", True)


@pytest.mark.parametrize(("ppm", "flags", "logged"), [(0, "01", 0), (1, "01", 1), (1_000_000, "00", 1)])
def test_which_requests_are_logged(
    counts: telemetry.Counts, lines: io.StringIO, ppm: int, flags: str, logged: int
) -> None:
    calls = telemetry.Calls(counts, log_ppm=ppm)
    calls.end(calls.begin(calls.method(PREDICT), Caller([("traceparent", f"00-{TRACE}-{SPAN}-{flags}")])))
    assert lines.getvalue().count("\n") == logged


def test_the_share_that_is_logged(counts: telemetry.Counts, lines: io.StringIO) -> None:
    calls = telemetry.Calls(counts, log_ppm=200_000)
    for _ in range(2000):
        calls.end(calls.begin(calls.method(PREDICT), Caller()))
    # Outside with a probability under 1e-15.
    assert 250 < lines.getvalue().count("\n") < 550


def test_headers_are_read_only_where_they_are_wanted(counts: telemetry.Counts) -> None:
    class Unread(Caller):
        def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
            raise AssertionError

    calls = telemetry.Calls(counts)
    calls.end(calls.begin(calls.method(PREDICT), Unread()))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "")],
        [("traceparent", "nonsense")],
        [("traceparent", f"00-{'0' * 32}-{SPAN}-01")],
        [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
        [("traceparent", f"ff-{TRACE}-{SPAN}-01")],
        [("traceparent", f"00-{TRACE.upper()}-{SPAN}-01")],
        [("traceparent", f"00-{TRACE}-{SPAN}-01-more")],
        [("traceparent", "0" * 5000)],
        [("traceparent", f"00-{TRACE}-{SPAN}-01")] * 2,
        [("traceparent-bin", b"\x00")],
    ],
)
def test_a_traceparent_that_is_not_valid_is_none(headers: list[tuple[str, str | bytes]], lines: io.StringIO) -> None:
    assert parent_of(headers).trace_id == ""
    assert lines.getvalue() == ""


def test_a_traceparent() -> None:
    parent = parent_of([("other", b"\xff"), ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=b")])
    assert parent[:3] == (TRACE, SPAN, True)
    assert parent_of(None).sampled is False


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_no_traces(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces() is None


def nvml() -> Any:
    """Plays the driver's library: two GPUs."""
    made: Any = ModuleType("pynvml")
    made.NVMLError = type("NVMLError", (Exception,), {})
    made.nvmlInit = lambda: None
    made.nvmlDeviceGetHandleByIndex = lambda index: index
    made.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    made.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(used=1 << 30, total=8 << 30)
    made.nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=25)
    return made


def test_a_gpu(counts: telemetry.Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = nvml()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    found = samples(Metrics("0.1.0", "1.31.1", gpu("cuda:1")).text(counts.copy(), (), "")[1])
    assert found["inference_gpu_memory_used_bytes", "device=cuda:1"] == 1 << 30
    assert found["inference_gpu_memory_total_bytes", "device=cuda:1"] == 8 << 30
    assert found["inference_gpu_utilization_ratio", "device=cuda:1"] == 0.25
    asked: list[Any] = []
    driver.nvmlDeviceGetHandleByIndex = driver.nvmlDeviceGetHandleByUUID = asked.append
    for allowed in ("", "3,1", "GPU-a,GPU-b"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
        assert gpu("cuda:1") is not None
    assert asked == [1, 1, "GPU-b"]


def test_a_gpu_that_nothing_tells_of(monkeypatch: pytest.MonkeyPatch, lines: io.StringIO) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu("cpu") is None
    assert lines.getvalue() == ""
    assert gpu("cuda:0") is None
    assert lines.getvalue().count("\n") == 1
    driver = nvml()

    def fail() -> None:
        raise driver.NVMLError

    driver.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert gpu("cuda:0") is None
    assert lines.getvalue().count("\n") == 2


async def test_a_profile_sees_every_thread_and_holds_up_none() -> None:
    stop = threading.Event()

    def waiting_here() -> None:
        stop.wait(20)

    thread = threading.Thread(target=waiting_here, name="seen")
    thread.start()
    profile = profiles.Profile()
    try:
        taking = asyncio.ensure_future(profile.take(0.2))
        turns = 0
        while not taking.done():
            await asyncio.sleep(0)
            turns += 1
            if turns == 1:
                with pytest.raises(profiles.BusyError):
                    await profile.take(0.1)
    finally:
        stop.set()
        thread.join()
    assert turns > 10
    stacks = taking.result().splitlines()
    assert all(re.fullmatch(r".+ [1-9]\d*", line) for line in stacks)
    assert any(line.startswith("seen;") and "waiting_here" in line for line in stacks)
    assert "/" not in taking.result()
    assert await profile.take(0.01) is not None
