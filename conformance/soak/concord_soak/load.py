# SPDX-License-Identifier: Apache-2.0
"""Two ways to load a server: callers who wait for their answers, and arrivals that wait for nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from concord_soak.connection import Outcome

__all__ = ["Load", "closed_loop", "open_loop"]

_TICK_SECONDS = 0.002

# Makes the call of a number, counted from 0.
Call = Callable[[int], Awaitable[Outcome]]


@dataclass
class Load:
    """What was sent within `seconds`, how it ended by `whole_seconds`, how late the client itself was."""

    seconds: float = 0.0
    sent: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)
    client_cpu_seconds: float = 0.0
    whole_seconds: float = 0.0

    @property
    def answered_per_second(self) -> float:
        """Goodput."""
        return sum(outcome.code == "OK" for outcome in self.outcomes) / self.seconds if self.seconds else 0.0


async def closed_loop(callers: int, seconds: float, call: Call) -> Load:
    """So many callers, each with one call at a time. Calls that end later than `seconds` are not counted."""
    load = Load()
    cpu, began = time.process_time(), time.perf_counter()
    end = began + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            number = load.sent
            load.sent += 1
            outcome = await call(number)
            if outcome.ended <= end:
                load.outcomes.append(outcome)

    await asyncio.gather(*(caller() for _ in range(callers)))
    load.seconds, load.client_cpu_seconds = seconds, time.process_time() - cpu
    return load


async def open_loop(rate: float, seconds: float, call: Call) -> Load:
    """`rate` calls a second at equal distances, whatever becomes of them; returns when all have ended.

    Goodput is measured until the last arrival: answers that come after it are left out of `outcomes`, since the queue
    then has nothing more to do.
    """
    load = Load()
    tasks: list[asyncio.Task[Outcome]] = []
    cpu, began = time.process_time(), time.perf_counter()
    total = int(rate * seconds)
    while load.sent < total:
        now = time.perf_counter() - began
        due = min(total, int(now * rate) + 1)
        if due > load.sent:
            load.late_seconds.append(max(0.0, now - load.sent / rate))
        while load.sent < due:
            tasks.append(asyncio.ensure_future(call(load.sent)))
            load.sent += 1
        await asyncio.sleep(_TICK_SECONDS)
    end = time.perf_counter()
    load.seconds = end - began
    outcomes = await asyncio.gather(*tasks)
    load.outcomes = [outcome for outcome in outcomes if outcome.code != "OK" or outcome.ended <= end]
    load.client_cpu_seconds, load.whole_seconds = time.process_time() - cpu, time.perf_counter() - began
    return load
