# SPDX-License-Identifier: Apache-2.0
"""`python -m concord_soak.expired -- COMMAND`: of 10,000 requests whose deadline passes while they wait, none runs.

One long run keeps the only executor busy; behind it requests wait whose deadlines pass long before its end. The
server's own count of executions (`inference_batch_rows_count`) may rise by the long runs alone. Requests of a round in
which the long run ended too early (on a slow machine) prove nothing; the round is not counted and made again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from concord_soak.actors.limits import slow_request
from concord_soak.connection import Connection
from concord_soak.gauges import Gauges
from concord_soak.proof import figures, finish, proof_options
from concord_soak.stage import prepare
from concord_soak.tally import Tally
from concord_soak.truth import PREDICT

_DEADLINE_SECONDS = 0.05
_CONNECTIONS = 4


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--count", default=10_000, show_default=True, help="Requests that expire.")
@click.option("--at-once", default=500, show_default=True, help="How many of them wait behind one run.")
@click.option("--turns", default=600_000, show_default=True, help="Turns of the run that they wait behind.")
@proof_options
def main(count: int, at_once: int, turns: int, report: Path | None, name: str, command: tuple[str, ...]) -> None:
    """Counts expired requests that ran."""
    finish("expired", name, report, lambda: expired(command, count, at_once, turns, report and report / "expired"))


async def expired(command: Sequence[str], count: int, at_once: int, turns: int, keep: Path | None) -> dict[str, Any]:
    """The proof; see the module."""
    settings = {"slow": {"max_queue_rows": at_once + 8, "executors": 1, "batching": "direct"}}
    problems: list[str] = []
    ended: list[float] = []
    proved = executed = rounds = again = 0
    with (
        prepare(command, fixtures=("identity", "slow"), model_settings=settings, keep=keep) as stage,
        await asyncio.to_thread(stage.start) as server,
    ):
        gauges = Gauges(server.pid, server.http)
        connections = [Connection(server.grpc, stage.authority, Tally()) for _ in range(_CONNECTIONS)]
        for connection in connections:
            await connection.ready()
        while proved < count and rounds < 10 * -(-count // at_once):
            rounds += 1
            before = await _executions(gauges)
            if before is None:
                problems.append("metrics: no inference_batch_rows_count of slow: executions cannot be counted")
                break
            blocker = asyncio.ensure_future(
                connections[0].unary(PREDICT, slow_request("slow", turns, "blocker").SerializeToString())
            )
            # An answer on the same connection: the server has the blocker; then time to begin with it.
            await connections[0].unary("/grpc.health.v1.Health/Check", b"")
            await asyncio.sleep(_DEADLINE_SECONDS)
            outcomes = await asyncio.gather(
                *(
                    connections[number % _CONNECTIONS].unary(
                        PREDICT,
                        slow_request("slow", 1, f"late-{number}").SerializeToString(),
                        deadline=_DEADLINE_SECONDS,
                    )
                    for number in range(min(at_once, count - proved))
                )
            )
            all_ended = time.perf_counter()
            blocked = await blocker
            ran = (await _until_counted(gauges, before + 1)) - before
            if blocked.code != "OK":
                problems.append(f"the long run: expected its answer, got {blocked}")
                break
            if blocked.ended <= all_ended:
                again += 1
                continue
            for outcome in outcomes:
                if outcome.code not in ("DEADLINE_EXCEEDED", "CANCELLED"):
                    problems.append(f"an expired request: expected DEADLINE_EXCEEDED, got {outcome}")
            proved += len(outcomes)
            executed += int(ran) - 1
            ended += [outcome.seconds - _DEADLINE_SECONDS for outcome in outcomes]
        for connection in connections:
            await connection.close()
    if executed:
        problems.append(f"{executed} expired requests ran")
    if proved < count and not problems:
        problems.append(f"only {proved} of {count} could be proved: give the long run more --turns")
    return {
        "expired": proved,
        "executed": executed,
        "rounds": rounds,
        "rounds_not_counted": again,
        **figures("ended_after_deadline", ended),
        "goals": "executed = 0",
        "met": proved >= count and not executed,
        "problems": problems,
    }


async def _executions(gauges: Gauges) -> float | None:
    scrape = await gauges.scrape()
    # A version that has not run has no series yet.
    if scrape is None or "inference_build_info" not in scrape.series:
        return None
    return scrape.sum("inference_batch_rows_count", model="slow")


async def _until_counted(gauges: Gauges, count: float) -> float:
    """The count of executions once it has reached `count` and then stood still; a server counts a run when it ends."""
    last, still = -1.0, 0
    for _ in range(200):
        now = await _executions(gauges) or 0.0
        still = still + 1 if now >= count and now == last else 0
        last = now
        if still >= 3:
            break
        await asyncio.sleep(0.02)
    return last


if __name__ == "__main__":
    main()
