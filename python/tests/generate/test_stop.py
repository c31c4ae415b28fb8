# SPDX-License-Identifier: Apache-2.0
"""The vectors of conformance/sampling, and what must hold for all texts."""

from __future__ import annotations

import json
from pathlib import Path

from concord_server.generate.stop import StopTexts
from hypothesis import given
from hypothesis import strategies as st

VECTORS = Path(__file__).parents[3] / "conformance" / "sampling"


def test_stops() -> None:
    cases = json.loads((VECTORS / "stops.json").read_text("utf-8"))
    assert len(cases) > 400
    for case in cases:
        stops = StopTexts(case["stops"])
        for i, want in enumerate(case["steps"]):
            free, stopped = stops.add(case["tokens"][i])
            assert list(free) == want, case
            assert stopped == (case["stopped"] and i == len(case["steps"]) - 1), case
        assert stops.rest() == case.get("rest", []), case
        assert stops.rest() == []


TEXTS = st.text("abあ", max_size=6)


@given(st.lists(TEXTS), st.lists(st.text("abあ", min_size=1, max_size=5), max_size=4))
def test_any(tokens: list[str], stops: list[str]) -> None:
    """What is delivered is the whole text before the stop text that is complete first, wherever tokens end."""
    texts = StopTexts(stops)
    delivered: list[str] = []
    taken, stopped = 0, False
    for token in tokens:
        free, stopped = texts.add(token)
        delivered += free
        taken += 1
        if stopped:
            break
    if not stopped:
        delivered += texts.rest()
    whole = "".join(tokens)
    want = whole
    for end in range(1, len(whole) + 1):
        found = [stop for stop in stops if whole[:end].endswith(stop)]
        if found:
            want = whole[: end - max(map(len, found))]
            break
    assert "".join(delivered) == want
    assert len(delivered) == taken


def test_a_long_stop_text_costs_what_is_generated() -> None:
    stops = StopTexts(["a" * (1 << 24) + "b", "ab" * (1 << 20)])
    for _ in range(2000):
        assert stops.add("aaaa") == ([], False)
    assert len(stops.rest()) == 2000
    assert all(len(text._border) <= 8002 for text in stops._texts)
