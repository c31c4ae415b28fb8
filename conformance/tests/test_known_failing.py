# SPDX-License-Identifier: Apache-2.0
"""The list of known failures cannot go stale and cannot excuse everything."""

from __future__ import annotations

import pytest
from concord_conformance.known_failing import (
    MOST_MATCHES,
    KnownFailingError,
    entry_for,
    parse_known_failing,
    stale_entries,
)

IDS = [f"core.a.{i}" for i in range(30)] + ["batch.one", "batch.two", "health.x"]


def test_entries_have_a_pattern_and_a_reason() -> None:
    entries = parse_known_failing("# comment\n\nbatch.one   the reason, with blanks \nhealth.* another\n", IDS)
    assert [(entry.pattern, entry.reason, entry.line) for entry in entries] == [
        ("batch.one", "the reason, with blanks", 3),
        ("health.*", "another", 4),
    ]
    assert entry_for(entries, "batch.one") is entries[0]
    assert entry_for(entries, "health.x") is entries[1]
    assert entry_for(entries, "batch.two") is None


def test_a_star_stands_for_anything_and_a_dot_for_itself() -> None:
    (entry,) = parse_known_failing("core.a.1* reason", IDS)
    assert entry.matches("core.a.1")
    assert entry.matches("core.a.19")
    assert not entry.matches("core.a.2")
    assert not entry.matches("coreXa.1")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("batch.one", "the reason is missing"),
        ("* everything", "begins with a profile"),
        ("*.one reason", "begins with a profile"),
        ("core* reason", "begins with a profile"),
        ("core.a.* reason", f"at most {MOST_MATCHES}"),
        ("batch.one a\nbatch.one b", "is in line 1 already"),
    ],
)
def test_bad_lists_are_refused(line: str, says: str) -> None:
    with pytest.raises(KnownFailingError, match=says):
        parse_known_failing(line, IDS)


def test_a_pattern_that_matches_the_whole_suite_is_refused() -> None:
    with pytest.raises(KnownFailingError, match="matches every case"):
        parse_known_failing("batch.* reason", ["batch.one", "batch.two"])


def test_entries_without_a_case_are_stale() -> None:
    entries = parse_known_failing("batch.one a\nbatch.three b\n", IDS)
    assert [entry.pattern for entry in stale_entries(entries, IDS)] == ["batch.three"]
