# SPDX-License-Identifier: Apache-2.0
"""What was wrong, by who found it."""

from __future__ import annotations

from collections import Counter

__all__ = ["Findings"]

_KEPT = 100


class Findings:
    """Counts everything that is wrong and keeps the first different texts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.texts: list[str] = []

    def add(self, who: str, text: str) -> None:
        """Something is wrong."""
        self.counts[who] += 1
        text = f"{who}: {text}"
        if len(self.texts) < _KEPT and text not in self.texts:
            self.texts.append(text)

    @property
    def total(self) -> int:
        """How many."""
        return self.counts.total()
