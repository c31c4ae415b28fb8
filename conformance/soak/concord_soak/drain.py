# SPDX-License-Identifier: Apache-2.0
"""`python -m concord_soak.drain -- COMMAND`: a hundred servers ended by SIGTERM at work; none loses a request.

In each run some calls are under way - the server has them: it answered a later call on the same connection - and more
keep arriving when the signal comes, at a random moment. Those under way must be answered. Those that arrive later are
answered, or refused by SERVER_DRAINING, or their connection ends before the server has begun them: UNAVAILABLE, which
every retry policy covers; how many that were is shown. Anything else is lost: another status, an answer that is wrong.
The server then ends with exit code 0.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from concord_proto.inference.v1 import inference_service_pb2 as service

from concord_soak.actors.limits import slow_request
from concord_soak.connection import Connection, Outcome
from concord_soak.gauges import Gauges
from concord_soak.process import Server
from concord_soak.proof import figures, finish, proof_options
from concord_soak.stage import prepare
from concord_soak.tally import Tally
from concord_soak.truth import PREDICT, answer_problem

_ONE = service.PredictResponse(model_version="1", predictions={"y": 1.0}).SerializeToString(deterministic=True)
_CONNECTIONS = 4
_HELD = 24
_CALLERS = 8
_MOST_SECONDS = 60.0


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--runs", default=100, show_default=True, help="Servers started and ended.")
@click.option("--seed", default=1, show_default=True, help="Of all that is random.")
@proof_options
def main(runs: int, seed: int, report: Path | None, name: str, command: tuple[str, ...]) -> None:
    """Ends servers at work and looks for lost requests."""
    finish("drain", name, report, lambda: drain(command, runs, seed, report and report / "drain"))


async def drain(command: Sequence[str], runs: int, seed: int, keep: Path | None) -> dict[str, Any]:
    """The proof; see the module."""
    rng = random.Random(seed)  # noqa: S311
    problems: list[str] = []
    ended: Counter[str] = Counter()
    took: list[float] = []
    clean = 0
    with prepare(command, fixtures=("identity", "slow"), keep=keep) as stage:
        for number in range(runs):
            with await asyncio.to_thread(stage.start) as server:
                wrong = await _run(server, stage.authority, rng, ended, took)
            clean += not wrong
            problems += [f"run {number}: {text}" for text in wrong]
            if keep is not None and not wrong:
                stage.log.unlink(missing_ok=True)
    return {
        "runs": runs,
        "runs_that_lost_nothing": clean,
        **{key.replace(" ", "_"): count for key, count in sorted(ended.items())},
        **figures("drain", took),
        "goals": "runs_that_lost_nothing = runs",
        "met": clean == runs,
        "problems": problems,
    }


async def _run(
    server: Server, authority: bytes, rng: random.Random, ended: Counter[str], took: list[float]
) -> list[str]:
    wrong: list[str] = []
    gauges = Gauges(server.pid, server.http)
    connections = [Connection(server.grpc, authority, Tally()) for _ in range(_CONNECTIONS)]
    for connection in connections:
        await connection.ready()

    async def held(number: int) -> None:
        request_id = f"held-{number}"
        data = slow_request("slow", rng.choice([1000, 20_000, 100_000]), request_id).SerializeToString()
        outcome = await connections[number % _CONNECTIONS].unary(PREDICT, data)
        if text := _lost(outcome, request_id, may_be_refused=False):
            wrong.append(f"under way at SIGTERM: {text}")
        ended["under way, answered" if outcome.code == "OK" else "under way, lost"] += 1

    async def late(caller: int) -> None:
        end = time.monotonic() + _MOST_SECONDS
        number = 0
        while time.monotonic() < end:
            number += 1
            request_id = f"late-{caller}-{number}"
            data = slow_request("slow", rng.choice([10, 2000]), request_id).SerializeToString()
            outcome = await connections[caller % _CONNECTIONS].unary(PREDICT, data)
            if text := _lost(outcome, request_id, may_be_refused=True):
                wrong.append(f"arriving while it ends: {text}")
                ended["later, lost"] += 1
                return
            if outcome.code != "OK":
                ended["later, refused" if outcome.reason else "later, no connection"] += 1
                if not outcome.reason:
                    return
                await asyncio.sleep(0.005)
            else:
                ended["later, answered"] += 1

    callers = [asyncio.ensure_future(late(caller)) for caller in range(_CALLERS)]
    calls = [asyncio.ensure_future(held(number)) for number in range(_HELD)]
    await asyncio.sleep(0)
    for connection in connections:
        # Its answer comes after the calls before it on this connection have been received.
        await connection.unary("/grpc.health.v1.Health/Check", b"")
    # Received is not yet taken: a handler that begins after the signal says SERVER_DRAINING.
    await gauges.under_way(sum(not call.done() for call in calls) + 1, 0.3)
    await asyncio.sleep(rng.uniform(0, 0.05))
    began = time.perf_counter()
    server.terminate()
    await asyncio.gather(*calls, *callers)
    wrong += await asyncio.to_thread(server.end_problems)
    took.append(time.perf_counter() - began)
    for connection in connections:
        await connection.close()
    return wrong


def _lost(outcome: Outcome, request_id: str, *, may_be_refused: bool) -> str:
    if outcome.code == "OK":
        return answer_problem(service.PredictResponse, request_id, _ONE, outcome.data, "slow")
    draining = not outcome.reason or (outcome.reason == "SERVER_DRAINING" and outcome.retry)
    if may_be_refused and outcome.code == "UNAVAILABLE" and draining:
        return ""
    return f"expected its answer{', or to be refused' if may_be_refused else ''}, got {outcome}"


if __name__ == "__main__":
    main()
