# SPDX-License-Identifier: Apache-2.0
"""Known failures: a list with reasons that cannot go stale.

One entry a line: a case id, or a pattern with `*`, then blanks, then the reason. Empty lines and lines that begin with
`#` are left out. A listed case still runs; when it passes, the run fails. So does an entry that no case of the suite
matches. A pattern must name its profile, and may match only a few cases: a list that excuses everything says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["MOST_MATCHES", "Entry", "KnownFailingError", "entry_for", "parse_known_failing", "stale_entries"]

MOST_MATCHES = 20
_PATTERN = re.compile(r"[a-z0-9_]+(\.[a-z0-9_*]+)+")


class KnownFailingError(ValueError):
    """A list that cannot be used."""


@dataclass(frozen=True)
class Entry:
    """One known failure."""

    pattern: str
    reason: str
    line: int

    def matches(self, case_id: str) -> bool:
        """Whether the entry is about this case."""
        expression = "".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", self.pattern))
        return re.fullmatch(expression, case_id) is not None


def parse_known_failing(text: str, case_ids: Iterable[str]) -> list[Entry]:
    """The entries of a list; `case_ids` are all of the suite. Raises KnownFailingError naming the line."""
    ids = list(case_ids)
    entries: list[Entry] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        pattern, _, reason = stripped.partition(" ")
        if not _PATTERN.fullmatch(pattern):
            raise KnownFailingError(
                f"line {number}: expected a case id, or a pattern that begins with a profile, got {pattern!r}"
            )
        if not reason.strip():
            raise KnownFailingError(f"line {number}: {pattern}: the reason is missing")
        entry = Entry(pattern, reason.strip(), number)
        count = sum(entry.matches(case_id) for case_id in ids)
        if count > MOST_MATCHES:
            raise KnownFailingError(
                f"line {number}: {pattern}: matches {count} cases; a pattern may match at most {MOST_MATCHES}"
            )
        if "*" in pattern and ids and count == len(ids):
            raise KnownFailingError(f"line {number}: {pattern}: matches every case")
        for other in entries:
            if other.pattern == pattern:
                raise KnownFailingError(f"line {number}: {pattern}: is in line {other.line} already")
        entries.append(entry)
    return entries


def entry_for(entries: Sequence[Entry], case_id: str) -> Entry | None:
    """The first entry that is about this case."""
    return next((entry for entry in entries if entry.matches(case_id)), None)


def stale_entries(entries: Sequence[Entry], case_ids: Iterable[str]) -> list[Entry]:
    """The entries that match no case of the suite."""
    ids = list(case_ids)
    return [entry for entry in entries if not any(entry.matches(case_id) for case_id in ids)]
