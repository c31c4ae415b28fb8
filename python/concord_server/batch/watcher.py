# SPDX-License-Identifier: Apache-2.0
"""What the outside sees of a queue: whoever counts need not be known here."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Watcher", "nobody"]


class Watcher(Protocol):
    """Sees what becomes of a version's rows. Its methods are called from the event loop and must not block."""

    def queued(self, rows: int) -> None:
        """The rows that wait changed by that many: entered where positive, left where negative."""

    def began(self, wait_seconds: float) -> None:
        """A request begins to run after that wait."""

    def ran(self, requests: int, rows: int, compute_seconds: float) -> None:
        """One execution has ended."""


class _Nobody:
    def queued(self, rows: int) -> None:
        pass

    def began(self, wait_seconds: float) -> None:
        pass

    def ran(self, requests: int, rows: int, compute_seconds: float) -> None:
        pass


def nobody(_model_id: str, _version: str) -> Watcher:
    """Watches nothing."""
    return _Nobody()
