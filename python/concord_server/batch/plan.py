# SPDX-License-Identifier: Apache-2.0
"""The policy: which of those who wait run together, and when. No clock and no queue of its own is in here.

conformance/batch tells the rules and proves them, for both servers.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["Decision", "Drop", "Limits", "Waiting", "plan"]


class Waiting(Protocol):
    """A request in a queue. Times are of one clock, in one unit."""

    @property
    def at(self) -> float:
        """When it came."""

    @property
    def deadline(self) -> float:
        """From when on nobody wants its answer; infinite where there is none."""

    @property
    def rows(self) -> int:
        """Rows that it brings, at least 1."""

    @property
    def shape(self) -> Hashable:
        """Requests of equal shapes may share an execution."""

    @property
    def cancelled(self) -> bool:
        """Whether its caller has gone."""


W = TypeVar("W", bound=Waiting)


class Drop(enum.Enum):
    """Why a request never runs."""

    DEADLINE = "deadline"
    CANCELLED = "cancelled"


class Limits(NamedTuple):
    """What bounds an execution."""

    max_rows: int
    """Most rows of several requests; at least 1."""
    max_delay: float = 0
    """How long an execution that is not full waits for more."""


class Decision(NamedTuple, Generic[W]):
    """What is to be done now."""

    dropped: list[tuple[W, Drop]]
    """In the queue's order."""
    run: list[W]
    """One execution; empty where none is due."""
    wait: float | None
    """Where none is due: when the first will be, unless the queue changes; None where nobody waits."""


@dataclass(slots=True)
class _Batch(Generic[W]):
    """The oldest requests of one shape that fit together."""

    requests: list[W] = field(default_factory=list)
    rows: int = 0
    full: bool = False

    def offer(self, request: W, max_rows: int) -> None:
        if self.full:
            return
        if self.requests and self.rows + request.rows > max_rows:
            self.full = True  # whoever comes later must not overtake
            return
        self.requests.append(request)
        self.rows += request.rows
        self.full = self.rows >= max_rows


def plan(queue: Iterable[W], now: float, limits: Limits) -> Decision[W]:
    """Says what to drop and what to run of a queue, the oldest first."""
    max_rows, max_delay = limits
    dropped: list[tuple[W, Drop]] = []
    batches: dict[Hashable, _Batch[W]] = {}  # by shape, the one with the oldest request first
    for request in queue:
        if request.cancelled:
            dropped.append((request, Drop.CANCELLED))
        elif request.deadline <= now:
            dropped.append((request, Drop.DEADLINE))
        else:
            batch = batches.get(request.shape)
            if batch is None:
                batch = batches[request.shape] = _Batch()
            batch.offer(request, max_rows)
    wait: float | None = None
    for batch in batches.values():
        end = batch.requests[0].at + max_delay
        if batch.full or end <= now or any(request.deadline <= end for request in batch.requests):
            return Decision(dropped, batch.requests, None)
        wait = end if wait is None else min(wait, end)
    return Decision(dropped, [], wait)
