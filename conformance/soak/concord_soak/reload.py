# SPDX-License-Identifier: Apache-2.0
"""`python -m concord_soak.reload -- COMMAND`: a hundred reloads under 500 requests a second: none fails, none is torn.

Each reload renames a new version of `stamp` in, moves the label to it and renames the old version out, while calls
arrive at a constant rate (open loop), half by label and half without a version. Version N answers x + N and 64 times
N, so an answer put together from two versions, under another's number or of a version that was no longer or not yet
there, is seen.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from concord_soak.actors.reloads import reloads
from concord_soak.connection import Outcome
from concord_soak.load import open_loop
from concord_soak.proof import figures, finish, proof_options
from concord_soak.stage import prepare
from concord_soak.stamps import stamp_request
from concord_soak.truth import PREDICT
from concord_soak.world import Turn, World

# Until all reloads are done the load goes on, in pieces of this length.
_PIECE_SECONDS = 5.0
_MOST_SECONDS = 3600.0


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--count", default=100, show_default=True, help="Reloads.")
@click.option("--rate", default=500.0, show_default=True, help="Requests a second.")
@click.option("--seed", default=1, show_default=True, help="Of all that is random.")
@proof_options
def main(count: int, rate: float, seed: int, report: Path | None, name: str, command: tuple[str, ...]) -> None:
    """Reloads a model again and again under load."""
    finish("reload", name, report, lambda: reload(command, count, rate, seed, report and report / "reload"))


async def reload(command: Sequence[str], count: int, rate: float, seed: int, keep: Path | None) -> dict[str, Any]:
    """The proof; see the module."""
    with prepare(command, fixtures=("identity",), keep=keep) as stage:
        stage.scratch.bring_in(stage.scratch.make_stamp(1))
        stage.scratch.label({"stable": 1})
        with await asyncio.to_thread(stage.start) as server:
            world = World(server.grpc, stage.authority, stage.scratch, [], [], [])
            for label in ("", "1", "stable"):
                world.stamps.may(label, 1)
            world.open_shared()
            for connection in world.shared:
                await connection.ready()
            return await _measure(world, count, rate, seed)


async def _measure(world: World, count: int, rate: float, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)  # noqa: S311
    failed: list[str] = []
    torn: list[str] = []
    took: list[float] = []
    turn = Turn(world, "reload", rng)

    async def call(number: int) -> Outcome:
        label, x = ("", "stable")[number % 2], float(number % 4096)
        outcome = await world.shared[number % len(world.shared)].unary(
            PREDICT, stamp_request(x, label, f"r{number}"), deadline=30
        )
        if outcome.code != "OK":
            failed.append(str(outcome))
        elif problem := world.stamps.problem(label, x, f"r{number}", outcome.data, outcome.began, outcome.ended):
            torn.append(problem)
        return outcome

    async def all_reloads() -> None:
        for _ in range(count):
            began = time.perf_counter()
            await reloads(turn)
            took.append(time.perf_counter() - began)
            if world.findings.total:
                return

    reloading = asyncio.ensure_future(all_reloads())
    times: list[float] = []
    sent, wall, cpu = 0, 0.0, 0.0
    while not reloading.done() and wall < _MOST_SECONDS:
        load = await open_loop(rate, _PIECE_SECONDS, call)
        times += [outcome.seconds for outcome in load.outcomes]
        sent, wall, cpu = sent + load.sent, wall + load.seconds, cpu + load.client_cpu_seconds
    await reloading
    await world.close_shared()
    problems = (
        world.findings.texts + [f"failed: {text}" for text in failed[:5]] + [f"torn: {text}" for text in torn[:5]]
    )
    if world.seen["reloads"] != count:
        problems.append(f"expected {count} reloads, got {world.seen['reloads']}")
    return {
        "reloads": world.seen["reloads"],
        "broken_versions_refused": world.seen["broken versions refused"],
        "requests": sent,
        "requests_per_second": round(sent / wall, 1) if wall else 0.0,
        "failed": len(failed),
        "torn": len(torn),
        **figures("request", times),
        **figures("reload", took),
        "client_processors": round(cpu / wall, 2) if wall else 0.0,
        "goals": "failed = 0, torn = 0",
        "met": not failed and not torn,
        "problems": problems,
    }


if __name__ == "__main__":
    main()
