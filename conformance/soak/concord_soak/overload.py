# SPDX-License-Identifier: Apache-2.0
"""`python -m concord_soak.overload -- COMMAND`: ten times what the server can do.

Peak is measured first, by callers who wait (closed loop); then ten times as many calls a second arrive whatever
becomes of them (open loop). The two are repeated in turn and the medians taken, so that a machine that slows down
meets both. The model loops, on one executor with a short queue: it keeps one processor busy, and what is left is for
the load and for the refusals. Health is asked by a process of its own. The client's own lateness and processor time
are printed: where they are large the figures are the client's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import click
from concord_proto.inference.v1 import inference_service_pb2 as service

from concord_soak.actors.limits import slow_request
from concord_soak.connection import Connection, Outcome
from concord_soak.load import Load, closed_loop, open_loop
from concord_soak.output import quantile
from concord_soak.process import Server, busy_seconds
from concord_soak.proof import figures, finish, proof_options
from concord_soak.stage import Stage, prepare
from concord_soak.tally import Tally
from concord_soak.truth import PREDICT, answer_problem

_HEALTH = "/grpc.health.v1.Health/Check"
_ONE = service.PredictResponse(model_version="1", predictions={"y": 1.0}).SerializeToString(deterministic=True)
_CONNECTIONS = 4


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--turns", default=10_000, show_default=True, help="Turns of the model's loop, about a microsecond each.")
@click.option("--queue", default=16, show_default=True, help="Rows that the model's queue holds.")
@click.option("--times", default=10.0, show_default=True, help="How many times the peak arrives.")
@click.option("--rounds", default=10, show_default=True, help="How often peak and overload are measured.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each measurement.")
@proof_options
def main(
    turns: int,
    queue: int,
    times: float,
    rounds: int,
    seconds: float,
    report: Path | None,
    name: str,
    command: tuple[str, ...],
) -> None:
    """Measures goodput under overload against peak goodput."""
    finish(
        "overload",
        name,
        report,
        lambda: overload(command, turns, queue, times, rounds, seconds, report and report / "overload"),
    )


async def overload(
    command: Sequence[str], turns: int, queue: int, times: float, rounds: int, seconds: float, keep: Path | None
) -> dict[str, Any]:
    """The proof; see the module."""
    settings = {"slow": {"max_queue_rows": queue, "executors": 1, "batching": "direct"}}
    with (
        prepare(command, fixtures=("identity", "slow"), model_settings=settings, keep=keep) as stage,
        await asyncio.to_thread(stage.start) as server,
    ):
        return await _measure(stage, server, turns, min(4, queue), times, rounds, seconds)


async def _measure(
    stage: Stage, server: Server, turns: int, callers: int, times: float, rounds: int, seconds: float
) -> dict[str, Any]:
    problems: list[str] = []
    peaks: list[float] = []
    goods: list[float] = []
    shares: list[float] = []
    loads: list[Load] = []
    health: list[float] = []
    health_at_peak: list[float] = []
    server_cpu = machine_cpu = 0.0
    connections = [Connection(server.grpc, stage.authority, Tally()) for _ in range(_CONNECTIONS)]
    for connection in connections:
        await connection.ready()

    async def call(number: int) -> Outcome:
        request_id = f"r{number}"
        data = slow_request("slow", turns, request_id).SerializeToString()
        outcome = await connections[number % _CONNECTIONS].unary(PREDICT, data, deadline=30)
        if outcome.code == "OK":
            problem = answer_problem(service.PredictResponse, request_id, _ONE, outcome.data, "slow")
            problems.extend([problem] if problem else [])
        elif outcome.reason != "QUEUE_FULL" or not outcome.retry or not outcome.pushback_ms:
            problems.append(f"expected an answer or QUEUE_FULL with a time to come back, got {outcome}")
        return outcome

    await closed_loop(callers, 1.0, call)
    with _Health(server.grpc, stage.authority) as prober:
        for _ in range(rounds):
            prober.begin()
            peak = await closed_loop(callers, seconds, call)
            health_at_peak += await asyncio.to_thread(prober.end)
            peaks.append(peak.answered_per_second)
            cpu, all_cpu = server.cpu_seconds(), busy_seconds()
            prober.begin()
            load = await open_loop(times * peaks[-1], seconds, call)
            health += await asyncio.to_thread(prober.end)
            server_cpu += server.cpu_seconds() - cpu
            machine_cpu += busy_seconds() - all_cpu
            loads.append(load)
            goods.append(load.answered_per_second)
            shares.append(goods[-1] / peaks[-1] if peaks[-1] else float("nan"))
    for connection in connections:
        await connection.close()
    refused = [outcome.seconds for load in loads for outcome in load.outcomes if outcome.reason == "QUEUE_FULL"]
    if not refused:
        problems.append("nothing was refused: the queue took all of it")
    wall, whole = sum(load.seconds for load in loads), sum(load.whole_seconds for load in loads)
    return {
        "peak_per_second": round(statistics.median(peaks), 1),
        "offered_per_second": round(sum(load.sent for load in loads) / wall, 1),
        "goodput_per_second": round(statistics.median(goods), 1),
        "goodput_share_of_peak": round(statistics.median(shares), 3),
        "goodput_shares": [round(share, 3) for share in shares],
        "refused": len(refused),
        **figures("refused", refused),
        "health_checks": len(health),
        **figures("health", health),
        **figures("health_at_peak", health_at_peak),
        "client_late_ms_p99": round(quantile([late for load in loads for late in load.late_seconds], 0.99) * 1000, 2),
        "client_processors": round(sum(load.client_cpu_seconds for load in loads) / whole, 2),
        "server_processors": round(server_cpu / whole, 2),
        "all_processors": round(machine_cpu / whole, 2),
        "goals": "goodput_share_of_peak >= 0.8, refused_ms_p99 < 50, health_ms_p99 < 100",
        "met": statistics.median(shares) >= 0.8 and quantile(refused, 0.99) < 0.05 and quantile(health, 0.99) < 0.1,
        "problems": [f"{count} times: {problem}" for problem, count in Counter(problems).most_common(20)],
    }


class _Health:
    """A process that asks for the server's health every 10 ms between `begin` and `end`."""

    def __init__(self, address: str, authority: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, self._other = context.Pipe()
        self._asking = context.Event()
        self._process = context.Process(target=_ask, args=(address, authority, self._other, self._asking), daemon=True)

    def __enter__(self) -> _Health:
        self._process.start()
        self._other.close()  # its end alone: should it die, this one sees it
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("stop")
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def begin(self) -> None:
        """Asks from now on."""
        self._asking.set()
        self._pipe.send("begin")

    def end(self) -> list[float]:
        """Stops asking; the times that the answers took, in seconds. An answer but SERVING counts as a minute."""
        self._asking.clear()
        times: list[float] = self._pipe.recv()
        return times


def _ask(address: str, authority: bytes, pipe: Pipe, asking: Event) -> None:
    import grpc

    options = [("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options) as channel:
        check: Any = channel.unary_unary(_HEALTH)
        check(b"", timeout=30)
        pipe.send("ready")
        while pipe.recv() == "begin":
            times = []
            while asking.is_set():
                began = time.perf_counter()
                try:
                    right = check(b"", timeout=30) == b"\x08\x01"
                except grpc.RpcError:
                    right = False
                times.append(time.perf_counter() - began if right else 60.0)
                time.sleep(0.01)
            pipe.send(times)


if __name__ == "__main__":
    main()
