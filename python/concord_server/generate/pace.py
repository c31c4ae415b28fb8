# SPDX-License-Identifier: Apache-2.0
"""How much of a prompt one run may bring, so that those who generate don't wait for it."""

from __future__ import annotations

__all__ = ["CHUNK_STEPS", "LEAST_CHUNK", "Pace"]

LEAST_CHUNK = 8
"""Fewest tokens of a prompt that one run brings while others decode."""
CHUNK_STEPS = 2.0
"""How many steps of those who decode a chunk may take: with the step that follows, the longest gap stays below four."""

_WEIGHT = 1 / 4  # of one run in a running mean


class Pace:
    """Learns how long runs take."""

    __slots__ = ("step", "token")

    def __init__(self) -> None:
        self.step = 0.0
        """Seconds of a joined step, a running mean; 0 where none has run."""
        self.token = 0.0
        """Seconds for each token of a prompt in chunks while others decode, a running mean; 0 where none has run."""

    def stepped(self, seconds: float) -> None:
        """A joined step has ended."""
        self.step = _mean(self.step, seconds)

    def prefilled(self, tokens: int, seconds: float, beside: bool) -> None:
        """A chunk has ended; `beside` is that others decode meanwhile.

        A large one beside which nobody decodes says little of small ones, whose every token costs more.
        """
        if beside:
            self.token = _mean(self.token, seconds / tokens)

    def chunk(self, left: int, most: int, beside: bool) -> int:
        """How many of the tokens that are left come next."""
        count = most
        if beside:
            count = LEAST_CHUNK
            if self.step > 0 and self.token > 0:
                count = max(count, min(most, int(CHUNK_STEPS * self.step / self.token)))
        return min(left, count, most)


def _mean(before: float, value: float) -> float:
    return before + (value - before) * _WEIGHT if before else value
