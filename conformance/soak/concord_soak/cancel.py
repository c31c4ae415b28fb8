# SPDX-License-Identifier: Apache-2.0
"""`python -m concord_soak.cancel -- COMMAND`: how soon a cancelled request frees its place.

Two places. The executor's: a long run is cancelled while a short request waits behind it; from the cancel to the short
one's answer. The queue's: it holds one row and is full; that row is cancelled, and from then on requests arrive every
2 ms; from the cancel to the sending of the first that was taken. Both times hold the way there and back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from concord_soak.actors.limits import slow_request
from concord_soak.connection import Connection, Outcome
from concord_soak.output import quantile
from concord_soak.proof import figures, finish, proof_options
from concord_soak.stage import prepare
from concord_soak.tally import Tally
from concord_soak.truth import PREDICT

# Long enough that it ends by the cancel and not by itself: 20 million turns are half a minute.
_LONG = 20_000_000
_PROBE_SECONDS = 0.002
_MOST_PROBES = 1000


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--count", default=200, show_default=True, help="Cancels of each kind.")
@proof_options
def main(count: int, report: Path | None, name: str, command: tuple[str, ...]) -> None:
    """Measures how soon a cancelled request's place is free."""
    finish("cancel", name, report, lambda: cancel(command, count, report and report / "cancel"))


async def cancel(command: Sequence[str], count: int, keep: Path | None) -> dict[str, Any]:
    """The proof; see the module."""
    settings = {"slow": {"max_queue_rows": 1, "executors": 1, "batching": "direct"}}
    running: list[float] = []
    waiting: list[float] = []
    problems: list[str] = []
    with (
        prepare(command, fixtures=("identity", "slow"), model_settings=settings, keep=keep) as stage,
        await asyncio.to_thread(stage.start) as server,
    ):
        connection = Connection(server.grpc, stage.authority, Tally())
        await connection.ready()
        for _ in range(count):
            running.append(await _running(connection, problems))
            waiting.append(await _waiting(connection, problems))
            if problems:
                break
        await connection.close()
    return {
        "cancels_of_each_kind": len(running),
        **figures("executor_free", running),
        **figures("queue_free", waiting),
        "goals": "executor_free_ms_p99 < 200, queue_free_ms_p99 < 200",
        "met": not problems and max(quantile(running, 0.99), quantile(waiting, 0.99)) < 0.2,
        "problems": problems,
    }


def _call(connection: Connection, turns: int, request_id: str) -> asyncio.Task[Outcome]:
    data = slow_request("slow", turns, request_id).SerializeToString()
    return asyncio.ensure_future(connection.unary(PREDICT, data))


async def _received(connection: Connection) -> None:
    """Returns once the server has had time to place what was sent before."""
    for _ in range(2):
        await connection.unary("/grpc.health.v1.Health/Check", b"")
    await asyncio.sleep(0.01)


async def _cancelled(task: asyncio.Task[Outcome]) -> float:
    began = time.perf_counter()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return began


async def _running(connection: Connection, problems: list[str]) -> float:
    long = _call(connection, _LONG, "long")
    await _received(connection)
    short = _call(connection, 1, "short")
    await _received(connection)
    if short.done():
        problems.append(f"behind a long run: expected to wait, got {short.result()}")
    began = await _cancelled(long)
    outcome = await short
    if outcome.code != "OK":
        problems.append(f"behind a long run that was cancelled: expected an answer, got {outcome}")
    return outcome.ended - began


async def _waiting(connection: Connection, problems: list[str]) -> float:
    long = _call(connection, _LONG, "long")
    await _received(connection)
    queued = _call(connection, 1, "queued")
    await _received(connection)
    full = await _call(connection, 1, "full")
    if full.reason != "QUEUE_FULL":
        problems.append(f"a queue of 1 that holds 1: expected QUEUE_FULL, got {full}")
    began = await _cancelled(queued)
    probes: list[asyncio.Task[Outcome]] = []
    # One that is not refused at once has been taken: the next ones are refused again, the taken one waits.
    for number in range(_MOST_PROBES):
        probes.append(_call(connection, 1, f"probe-{number}"))
        await asyncio.sleep(_PROBE_SECONDS)
        if len([probe for probe in probes[:-20] if not probe.done()]) > 0:
            break
    await _cancelled(long)
    outcomes = await asyncio.gather(*probes)
    taken = [outcome.began - began for outcome in outcomes if outcome.code == "OK"]
    if not taken:
        problems.append("a cancelled request's place in the queue never came free")
        return float("inf")
    return min(taken)


if __name__ == "__main__":
    main()
