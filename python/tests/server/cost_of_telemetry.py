# SPDX-License-Identifier: Apache-2.0
"""What telemetry costs of the Python server's processor time, per request.

    .venv/bin/python python/tests/server/cost_of_telemetry.py [--model DIR/ID] [--turns N] [--requests N] [--log-ppm N]

Two servers run, one of which counts nothing; 64 callers ask one and then the other, in a closed loop, turn by turn.
Prints the median microseconds of user and system time per request of each, and the median of what a turn cost more
than the turn before it of the server that counts nothing. --traces adds a third server, whose spans go to a receiver
that throws them away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from concord_proto.inference.v1 import inference_service_pb2
from concord_proto.modelpackage.v1 import golden_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

PREDICT = "/inference.v1.InferenceService/Predict"
CALLERS = 64

WITH = "import sys; from concord_server.__main__ import main; sys.exit(main(sys.argv[1:]))"
WITHOUT = (
    """
import sys, time
from concord_server import batch, telemetry
from concord_server.batch.watcher import nobody

class Bare:
    def __init__(self):
        self.begin = time.perf_counter()
    def answers(self, *told): pass
    ran = item_failed = answers

telemetry.Calls.begin = lambda self, method, context: Bare()
telemetry.Calls.end = lambda self, record, code="OK", reason="": None
telemetry.Counts.watch = lambda self, model_id, version: nobody(model_id, version)
telemetry.Counts.set_state = lambda self, model_id, version, state: None
"""
    + WITH
)


class Server:
    """A server in a process of its own, and its turns: seconds of processor time per request."""

    def __init__(self, code: str, models: Path, *more: str, **variables: str) -> None:
        arguments = ["--models", os.fspath(models), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *more]
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **variables},
        )
        assert self.popen.stdout is not None
        self.target: str = json.loads(self.popen.stdout.readline())["grpc"]
        self.turns: list[float] = []

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(target: str, data: bytes, requests: int) -> None:
    """Asks so many times, 64 at a time."""
    left = iter(range(requests))
    async with grpc.aio.insecure_channel(target) as channel:
        ask = channel.unary_unary(PREDICT)

        async def caller() -> None:
            for _ in left:
                await ask(data)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request: object, context: object) -> object:
        return trace_service_pb2.ExportTraceServiceResponse()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path("models/breast-cancer"))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--log-ppm", default="0")
    parser.add_argument("--traces", action="store_true")
    asked = parser.parse_args()
    golden = golden_pb2.GoldenSet.FromString((asked.model / "1/golden.binpb").read_bytes())
    request = inference_service_pb2.PredictRequest(model_id=asked.model.name)
    for name, value in golden.cases[0].features.features.items():
        request.features[name].CopyFrom(value)
    data = request.SerializeToString()
    models = asked.model.parent
    servers = {"without": Server(WITHOUT, models), "with": Server(WITH, models, "--request-log-ppm", asked.log_ppm)}
    if asked.traces:
        receiver = grpc.server(ThreadPoolExecutor(1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(), receiver)
        port = receiver.add_insecure_port("127.0.0.1:0")
        receiver.start()
        servers["traced"] = Server(WITH, models, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    try:
        for turn in range(asked.turns + 1):
            order = [*servers.values()]
            for server in order if turn % 2 else reversed(order):
                before = server.processor_seconds()
                await load(server.target, data, asked.requests)
                if turn:  # the first one warms up
                    server.turns.append((server.processor_seconds() - before) / asked.requests)
    finally:
        for server in servers.values():
            server.popen.terminate()
            server.popen.wait(60)
    base = servers["without"].turns
    for name, server in servers.items():
        median = statistics.median(server.turns)
        spread = f"{min(server.turns) * 1e6:.0f} to {max(server.turns) * 1e6:.0f}"
        more = statistics.median(one / other for one, other in zip(server.turns, base, strict=True)) - 1
        print(f"{name:8} {median * 1e6:6.1f} us a request ({spread}), {more * 100:+.1f} %")


if __name__ == "__main__":
    asyncio.run(main())
