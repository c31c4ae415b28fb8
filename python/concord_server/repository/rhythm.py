# SPDX-License-Identifier: Apache-2.0
"""When a repository is looked at. There is no clock here: callers say what time it is, in seconds."""

from __future__ import annotations

__all__ = ["Rhythm"]

_GLANCE_AFTER = 0.025  # from a change, or from the last glance, to a glance
_SETTLE_AFTER = 1.0  # between two looks while something changes, where the period is longer
_GLANCES = 2  # after a change: a version is loaded when two have found it the same
_LOOKS = 2  # after a change, at the quick pace: so many make new files settled and missing ones gone
_REST = 10  # glances take no more than one part in so many of the time


class Rhythm:
    """Decides when a repository is looked at and when it is only glanced at."""

    def __init__(self, period: float, now: float) -> None:
        """`period` is the time between looks where nothing changes, more than 0."""
        self._period = period
        self._pace = min(period, _SETTLE_AFTER)
        self._look = now + period
        self._looks = 0
        self._glance = 0.0
        self._glances = 0

    def changed(self, now: float) -> None:
        """Says that something in the directory has changed. However often it is said, what is due stays due."""
        if not self._glances:
            self._glance = now + _GLANCE_AFTER
        self._glances = _GLANCES
        if not self._looks:
            self._look = min(self._look, now + self._pace)
        self._looks = _LOOKS

    @property
    def next(self) -> tuple[float, bool]:
        """When something is due, and whether that is a look rather than a glance."""
        if self._glances and self._glance < self._look:
            return self._glance, False
        return self._look, True

    def looked(self, now: float) -> None:
        """Says that a look that was due is done."""
        self._looks = max(0, self._looks - 1)
        self._look = now + (self._pace if self._looks else self._period)

    def glanced(self, now: float, took: float) -> None:
        """Says that a glance that was due is done, and how long it took."""
        self._glances -= 1
        self._glance = now + max(_GLANCE_AFTER, _REST * took)
