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
    least: tuple[tuple[int, float], ...] = ()
    """The same with the least seconds: on a busy machine these tell more of the model than of its neighbours."""
    row_bytes: int = 0
    """Of the inputs of one row that was measured."""
    steady: bool = False
    """Whether the time follows from the lengths of the inputs alone, whatever their values."""
    unbatchable_reason: str = ""
    """Why rows must not share an execution although the manifest says so; empty where nothing speaks against it."""

    @property
    def alone(self) -> float | None:
        """What a row takes alone; None where that was not measured."""
        return next((seconds for rows, seconds in self.least if rows == 1), None)
