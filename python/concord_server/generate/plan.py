# SPDX-License-Identifier: Apache-2.0
"""What the engine does next: who gets which slot, whose prompt advances, who takes a step. No clock is in here.

conformance/generate tells the rules and proves them, for both servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from concord_server.generate.pace import Pace

__all__ = ["Move", "Round", "Seat", "plan"]


class Seat(Protocol):
    """A generation as the plan sees it."""

    @property
    def since(self) -> float:
        """When it came. Of those who came at once, the one in the lower slot was first."""

    @property
    def cached(self) -> int:
        """Tokens in its slot's cache."""

    @property
    def length(self) -> int:
        """Tokens of its prompt: it decodes once they are all in the cache."""


class Move(NamedTuple):
    """Takes a generation to another slot, with so many tokens of its cache."""

    source: int
    target: int
    tokens: int


class Round(NamedTuple):
    """What is done next, in this order."""

    join: list[int]
    """The slots of the first of those who wait, in their order."""
    moves: list[Move]
    """One after the other."""
    slot: int
    """Whose prompt advances; -1: nobody's."""
    tokens: int
    """By how many tokens, in one run."""
    decode: list[int]
    """The slots that then take one step together, in ascending order; whose prompt has just ended is among them."""


def plan(slots: Sequence[Seat | None], waiting: Sequence[Seat], pace: Pace, most: int) -> Round:
    """Makes a round for those who have slots, None where one is free, and those who wait, the oldest first.

    `most` is the most tokens of a prompt in one run.
    """
    after = list(slots)  # the slots as they will be
    join: list[int] = []
    moves: list[Move] = []
    if None in after:
        for slot, seat in enumerate(after):
            if len(join) == len(waiting):
                break
            if seat is None:
                after[slot] = waiting[len(join)]
                join.append(slot)
        last = len(after) - 1
        for hole in range(len(after)):
            while last > hole and after[last] is None:
                last -= 1
            if hole >= last:
                break
            mover = after[last]
            if after[hole] is None and mover is not None:
                after[hole], after[last] = mover, None
                moves.append(Move(last, hole, mover.cached))
    decode: list[int] = []
    chosen, tokens = -1, 0
    oldest: Seat | None = None
    for slot, seat in enumerate(after):
        if seat is None:
            continue
        if seat.cached >= seat.length:
            decode.append(slot)
        elif oldest is None or seat.since < oldest.since:
            chosen, oldest = slot, seat
    if oldest is not None:
        left = oldest.length - oldest.cached
        tokens = pace.chunk(left, most, bool(decode))
        if tokens == left:
            decode.append(chosen)
            decode.sort()
    return Round(join, moves, chosen, tokens, decode)
