# SPDX-License-Identifier: Apache-2.0
"""What was learnt of a version's executions at load."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Measured"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Nothing, where nothing could be measured."""

    times: tuple[tuple[int, float], ...] = ()
    """Rows in one execution and the median seconds that it took, by ascending rows."""
    row_bytes: int = 0
    """Of the inputs of one row that was measured."""
    steady: bool = False
    """Whether the time follows from the lengths of the inputs alone, whatever their values."""
    unbatchable_reason: str = ""
    """Why rows must not share an execution although the manifest says so; empty where nothing speaks against it."""

    def seconds(self, rows: int) -> float | None:
        """The median of executions of so many rows; None where that was not measured."""
        return next((seconds for count, seconds in self.times if count == rows), None)
