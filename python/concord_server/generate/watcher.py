# SPDX-License-Identifier: Apache-2.0
"""What the outside sees of generations: whoever counts need not be known here."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Watcher", "nobody"]


class Watcher(Protocol):
    """Sees what becomes of a version's generations. Its methods are called from the event loop and must not block."""

    def waiting(self, change: int) -> None:
        """The generations that wait for a slot changed by that many."""

    def running(self, change: int) -> None:
        """The generations that have a slot changed by that many."""

    def began(self, wait_seconds: float) -> None:
        """A generation has its slot after that wait."""

    def shared(self, generations: int) -> None:
        """An execution has ended that so many generations shared."""

    def first(self, seconds: float) -> None:
        """A generation has its first token, so long after its request came."""

    def tokens(self, count: int) -> None:
        """So many tokens were generated."""

    def ended(self, compute_seconds: float) -> None:
        """A generation that had a slot has ended; the executions that it had a part in took so long."""


class _Nobody:
    def waiting(self, change: int) -> None:
        pass

    def running(self, change: int) -> None:
        pass

    def began(self, wait_seconds: float) -> None:
        pass

    def shared(self, generations: int) -> None:
        pass

    def first(self, seconds: float) -> None:
        pass

    def tokens(self, count: int) -> None:
        pass

    def ended(self, compute_seconds: float) -> None:
        pass


def nobody(_model_id: str, _version: str, _cache_bytes: int) -> Watcher:
    """Watches nothing."""
    return _Nobody()
