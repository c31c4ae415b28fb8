# SPDX-License-Identifier: Apache-2.0
"""Measures every server side by side: `make bench`, `make bench-quick`.

One server runs at a time. A round starts each configuration once, measures it at its points, stops it; then comes the
next round, so that what else the machine does falls on all alike. What is told of two servers are ratios of the same
round, and their median over the rounds.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from concord_proto.inference.v1 import model_catalog_service_pb2 as catalog
from concord_proto.inference.v1 import model_catalog_service_pb2_grpc, model_pb2

from bench.configurations import ROOT, Configuration, Places, configurations, write_mlserver
from bench.machine import describe

START_SECONDS = 120
STOP_SECONDS = 20
# A measurement is disturbed where others used more than this share of the cores meanwhile; it may be made again.
DISTURBED = 0.1
OPEN_CALLERS = 512
# Whose time to the first answer is measured, with model m1.
STARTED = (
    "go",
    "python",
    "python-x2",
    "fastapi-def",
    "fastapi-def-x2",
    "litserve",
    "mlserver-grpc",
    "triton",
    "echo-go",
)


class StartError(Exception):
    """A server did not give a right answer in time."""


def free_port() -> int:
    """A port of three that are free, one after the other."""
    for _ in range(100):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                for after in (1, 2):
                    with socket.socket() as other:
                        other.bind(("127.0.0.1", port + after))
            except OSError:
                continue
            return port
    raise StartError("expected three free ports in a row, got none in 100 attempts")


def filled(configuration: Configuration, port: int, folder: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment with the port in their places."""
    stands = {"{port}": str(port), "{port1}": str(port + 1), "{folder}": folder}

    def fill(text: str) -> str:
        for name, value in stands.items():
            text = text.replace(name, value)
        return text

    environment = {name: fill(value) for name, value in configuration.environment.items()}
    return [fill(part) for part in configuration.command], {**os.environ, **environment, "ORT_DISABLE_TELEMETRY": "1"}


def load_command(places: Places, configuration: Configuration, port: int) -> list[str]:
    """The load generator on a server, without what to measure."""
    file = places.files / configuration.model
    command = [f"{places.built}/bin/load", "--target", f"127.0.0.1:{port}", "--protocol", configuration.protocol]
    command += ["--method", configuration.method, "--answer", configuration.form]
    return [*command, "--request", f"{file}.request.{configuration.request}", "--expect", f"{file}.json"]


def measured(command: list[str], seconds: float, **more: Any) -> dict[str, Any]:
    """Runs what prints one JSON object."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, **more)  # noqa: S603
    if done.returncode:
        raise StartError(done.stderr.strip()[-500:] or f"exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def calm(command: list[str], seconds: float, attempts: int, **more: Any) -> dict[str, Any]:
    """Measures again while others are busy; gives the least disturbed measurement, marked where it is disturbed too."""
    least: dict[str, Any] = {}
    for _ in range(attempts):
        result = measured(command, seconds, **more)
        cores = len(os.sched_getaffinity(0)) * float(result.get("seconds", 0))
        result["others"] = float(result.get("other_cpu_seconds", 0)) / cores if cores else 0.0
        result["disturbed"] = result["others"] > DISTURBED
        if not least or result["others"] < least["others"]:
            least = result
        if not least["disturbed"] or least["errors"]:
            break
    return least


@contextmanager
def serving(places: Places, configuration: Configuration) -> Iterator[tuple[int, int]]:
    """Starts a server, waits for a right answer, gives its port and process id, and ends it with all it started."""
    port = free_port()
    logs = places.built / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        (logs / f"{configuration.server}-{configuration.model}.log").open("wb") as log,
    ):
        if configuration.server.startswith("mlserver"):
            write_mlserver(Path(folder), configuration, port)
        command, environment = filled(configuration, port, folder)
        process = subprocess.Popen(  # noqa: S603 - the servers that are measured
            command, env=environment, cwd=configuration.folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for_answer(load_command(places, configuration, port), process)
            yield port, process.pid
        finally:
            stop(process)


def wait_for_answer(load: list[str], process: subprocess.Popen[bytes]) -> None:
    """Asks until there is a right answer."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise StartError(f"the server ended with exit code {process.returncode}")
        result = measured([*load, "--callers", "1", "--warm", "0", "--seconds", "0.05"], 60)
        if result["requests"] and not result["errors"]:
            return
        time.sleep(0.1)
    raise StartError(f"no right answer within {START_SECONDS} s: {result.get('first_error', '')}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM; who stays is killed, with the group that it started in, which is its own."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_SECONDS)


def policy(port: int, model: str) -> str:
    """How one of our servers runs the model, by its catalog."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = model_catalog_service_pb2_grpc.ModelCatalogServiceStub(channel)
        shown = stub.GetModel(catalog.GetModelRequest(model_id=model), timeout=10).model
    ready = next(v for v in shown.versions if v.version == shown.default_version)
    chosen = model_pb2.BatchingPolicy.Name(ready.execution.policy).removeprefix("BATCHING_POLICY_").lower()
    reason = str(ready.execution.unbatchable_reason)
    return f"{chosen}: {reason}" if reason else chosen


class Run:
    """A run under way: what was measured so far, written after each configuration."""

    def __init__(self, places: Places, arguments: argparse.Namespace) -> None:
        self.places, self.seconds, self.warm = places, arguments.seconds, arguments.warm
        self.levels: tuple[int, ...] | None = tuple(arguments.callers) if arguments.callers else None
        self.attempts: int = arguments.attempts
        self.shares, self.out = not arguments.closed_only, arguments.out
        self.report: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "command": "python -m bench.run " + " ".join(sys.argv[1:]),
            "machine": describe(),
            "seconds": self.seconds,
            "rounds": 0,
            "missing": {},
            "failed": [],
            "policies": {},
            "samples": [],
            "starts": [],
        }

    def round(self, number: int, chosen: list[Configuration], starts: bool) -> None:
        """Each configuration once."""
        for configuration in chosen:
            if configuration.missing:
                self.report["missing"][configuration.server] = "its environment could not be made"
                continue
            try:
                (self.once if configuration.once else self.serve)(number, configuration)
                if starts and configuration.model == "m1" and configuration.server in STARTED:
                    self.start(number, configuration)
            except (StartError, subprocess.TimeoutExpired) as error:
                text = f"{configuration.server} {configuration.model}, round {number}: {error}"
                self.report["failed"].append(text)
                print(text, file=sys.stderr, flush=True)
            self.write()
        self.report["rounds"] = number + 1
        self.write()

    def serve(self, number: int, configuration: Configuration) -> None:
        """One server at all its points."""
        with serving(self.places, configuration) as (port, pid):
            if configuration.server.startswith(("go", "python")):
                key = f"{configuration.server} {configuration.model}"
                self.report["policies"].setdefault(key, []).append(policy(port, configuration.model))
            load = [*load_command(self.places, configuration, port), "--pid", str(pid)]
            load += ["--seconds", str(self.seconds), "--warm", str(self.warm)]
            peak = 0.0
            for callers in configuration.levels:
                if self.levels and callers not in self.levels:
                    continue
                result = calm([*load, "--callers", str(callers)], 60 + self.seconds, self.attempts)
                peak = max(peak, result["throughput"])
                self.add(number, configuration, f"{callers} callers", result)
            for share in configuration.open if self.shares and peak else ():
                rate = ["--rate", f"{peak * share:.0f}", "--callers", str(OPEN_CALLERS)]
                self.add(
                    number, configuration, f"open {share}", calm([*load, *rate], 120 + self.seconds, self.attempts)
                )

    def once(self, number: int, configuration: Configuration) -> None:
        """The model without a server."""
        for callers in configuration.levels:
            command, environment = filled(configuration, 0, "")
            command = [c.replace("{callers}", str(callers)).replace("{seconds}", str(self.seconds)) for c in command]
            result = calm(command, 60 + self.seconds, self.attempts, env=environment, cwd=configuration.folder)
            self.add(number, configuration, f"{callers} callers", result)

    def start(self, number: int, configuration: Configuration) -> None:
        """The time to the first right answer; whatever a server keeps between starts is there by now."""
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            if configuration.server.startswith("mlserver"):
                write_mlserver(Path(folder), configuration, port)
            command, environment = filled(configuration, port, folder)
            load = [*load_command(self.places, configuration, port), "--start", "--", *command]
            result = measured(load, START_SECONDS + 60, env=environment, cwd=configuration.folder)
        self.report["starts"].append({"round": number, "server": configuration.server, **result})
        print(f"{number} {configuration.server:18} first answer after {result['first_answer_ms']:.0f} ms", flush=True)

    def add(self, number: int, configuration: Configuration, point: str, result: dict[str, Any]) -> None:
        """Keeps one measurement."""
        sample = {
            "round": number,
            "server": configuration.server,
            "model": configuration.model,
            "point": point,
            **result,
        }
        self.report["samples"].append(sample)
        latency = result["latency_ms"]
        print(
            f"{number} {configuration.server:18} {configuration.model:5} {point:11} {result['throughput']:9.0f}/s "
            f"p50 {latency['p50']:8.3f} p99 {latency['p99']:8.3f} ms  {result['cpu_seconds_per_1000']:.4f} CPU s/1000 "
            f"{result.get('rss_mb', 0):5.0f} MB  others {result['others']:4.0%}  errors {result['errors']} "
            f"{result.get('first_error', '')[:100]}",
            flush=True,
        )

    def write(self) -> None:
        """The report so far."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps(self.report) + "\n")
        part.replace(self.out)


def main() -> int:
    """Runs the rounds. Exit code 1: something failed or answered wrong."""
    parser = argparse.ArgumentParser(description="Measures every server side by side.")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/results.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--warm", type=float, default=0.5)
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of SERVER:MODEL")
    parser.add_argument("--callers", type=int, nargs="*", help="only these levels of the closed loop")
    parser.add_argument("--closed-only", action="store_true")
    parser.add_argument("--attempts", type=int, default=3, help="at a measurement that others disturb")
    parser.add_argument("--no-starts", action="store_true")
    parser.add_argument("--minutes", type=float, default=180, help="no round begins after so long")
    parser.add_argument("--go", type=Path, default=ROOT / "bin/inference-server", help="the Go server that is measured")
    parser.add_argument("--python", type=Path, default=ROOT / "python", help="folder of the Python server's packages")
    parser.add_argument(
        "--library", type=Path, default=next((ROOT / "bin").glob("libonnxruntime.so*"), Path("missing"))
    )
    arguments = parser.parse_args()
    places = Places(
        ROOT / "build/bench", arguments.go.resolve(), arguments.python.resolve(), arguments.library.resolve()
    )
    chosen = [
        c
        for c in configurations(places)
        if any(fnmatch.fnmatch(f"{c.server}:{c.model}", pattern) for pattern in arguments.only)
    ]
    run = Run(places, arguments)
    # Whoever ends the run ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
    end = time.monotonic() + arguments.minutes * 60
    for number in range(arguments.rounds):
        if time.monotonic() > end:
            break
        run.round(number, chosen, not arguments.no_starts)
    wrong = [s for s in run.report["samples"] if s["errors"]]
    print(f"{len(run.report['samples'])} measurements in {arguments.out}, {len(wrong)} with errors")
    return 1 if wrong or run.report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
