# SPDX-License-Identifier: Apache-2.0
"""What telemetry costs of the Python server's processor time, per request.

    .venv/bin/python python/tests/server/cost_of_telemetry.py [--model DIR/ID] [--turns N] [--requests N] [--traces]

One process serves on several ports: on one it counts nothing, on one it counts, with --traces on one it also makes
spans of every call. 64 callers ask one after the other, in a closed loop, by turns: of two processes each has a speed
of its own, which hides what is looked for. Prints the median microseconds of processor time per request of each (the
kernel's count over all threads), and the median of what a turn cost more than the one that counts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from concord_proto.inference.v1 import inference_service_pb2
from concord_proto.modelpackage.v1 import golden_pb2
from concord_server import ort, telemetry
from concord_server.batch import Engine, Policy, Settings
from concord_server.batch.watcher import nobody
from concord_server.repository import Repository
from concord_server.server import Health, Server
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

PREDICT = "/inference.v1.InferenceService/Predict"
CALLERS = 64
NAMES = ("without", "with", "traced")


class Bare:
    """The record of a call of which nothing is recorded."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()

    def answers(self, *told: Any) -> None:
        pass

    ran = item_failed = answers


class NoCalls(telemetry.Calls):
    """Counts nothing."""

    def begin(self, method: Any, context: Any) -> Any:
        return Bare()

    def end(self, record: Any, code: str = "OK", reason: str = "") -> None:
        pass


async def serve(models: Path) -> None:
    """Serves until it is killed; prints the ports."""
    repository = Repository(models, ort.Runtime(1).load, require_manifest=True)
    repository.list()
    await asyncio.to_thread(repository.load)
    servers = []
    traces = telemetry.traces()
    kinds: list[telemetry.Calls] = [NoCalls(), telemetry.Calls()]
    if traces is not None:
        kinds.append(telemetry.Calls(traces=traces))
    ports = []
    for calls in kinds:
        for entry in repository.entries:
            calls.counts.set_state(entry.model_id, "1", "ready")
        watch = nobody if isinstance(calls, NoCalls) else calls.counts.watch
        engine = Engine(lambda _: Settings(policy=Policy.INLINE, own_policy=True), watch=watch)
        limits = {"max_message_bytes": 100 << 20, "max_batch_requests": 1000}
        server = Server(repository, Health(("",)), engine, **limits, reflection=False, calls=calls)
        ports.append(await server.start("127.0.0.1:0"))
        servers.append(server)
    print(*ports, flush=True)
    await asyncio.Event().wait()


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request: object, context: object) -> object:
        return trace_service_pb2.ExportTraceServiceResponse()


async def measure(pid: int, ports: list[str], model: Path, turns: int, requests: int) -> list[list[float]]:
    """Microseconds per request, by port and turn."""
    golden = golden_pb2.GoldenSet.FromString((model / "1/golden.binpb").read_bytes())
    request = inference_service_pb2.PredictRequest(model_id=model.name)
    for name, value in golden.cases[0].features.features.items():
        request.features[name].CopyFrom(value)
    data = request.SerializeToString()
    asks = [grpc.aio.insecure_channel(f"127.0.0.1:{port}").unary_unary(PREDICT) for port in ports]

    def nanoseconds() -> int:
        return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))

    async def burst(ask: Any) -> None:
        left = iter(range(requests))

        async def caller() -> None:
            for _ in left:
                await ask(data)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    taken: list[list[float]] = [[] for _ in ports]
    for turn in range(turns + 5):
        order = [*range(len(ports))]
        for i in order if turn % 2 else order[::-1]:
            before = nanoseconds()
            await burst(asks[i])
            if turn >= 5:  # the first ones warm up
                taken[i].append((nanoseconds() - before) / requests / 1e3)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path("models/breast-cancer"))
    parser.add_argument("--turns", type=int, default=150)
    parser.add_argument("--requests", type=int, default=300, help="in one turn")
    parser.add_argument("--traces", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        import uvloop

        sys.setswitchinterval(0.001)  # as the server does
        uvloop.run(serve(asked.model.parent))
    variables = {}
    if asked.traces:
        receiver = grpc.server(ThreadPoolExecutor(1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(), receiver)
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{receiver.add_insecure_port('127.0.0.1:0')}"
        receiver.start()
    command = [sys.executable, __file__, "--serve", "--model", os.fspath(asked.model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}) as popen:
        try:
            assert popen.stdout is not None
            ports = popen.stdout.readline().split()
            taken = asyncio.run(measure(popen.pid, ports, asked.model, asked.turns, asked.requests))
        finally:
            popen.kill()
    for name, turns in zip(NAMES, taken, strict=False):
        more = statistics.median(one - other for one, other in zip(turns, taken[0], strict=True))
        share = statistics.median(one / other for one, other in zip(turns, taken[0], strict=True)) - 1
        print(f"{name:8} {statistics.median(turns):6.1f} us a request, {more:+.1f} us, {share * 100:+.1f} %")


if __name__ == "__main__":
    main()
