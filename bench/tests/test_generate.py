# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the benchmark of text generation."""

from __future__ import annotations

import os
import time

import pytest

from bench.generate import Series, cpu_seconds, gaps_around, report, together


def test_rates_count_only_while_all_run() -> None:
    # From 2 to 4: the first has three tokens there, the second four.
    assert together([[0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 9.0], [2.0, 2.5, 3.0, 3.5, 4.0]]) == pytest.approx(7 / 2)
    assert together([[0.0, 1.0], [2.0, 3.0]]) == 0


def test_gaps_before_and_while() -> None:
    before, during = gaps_around([[0, 1, 2, 5, 6, 20], [0.5, 1.5]], begin=3, end=5.5)
    assert before == [1, 1, 1]
    assert during == [3, 1]


def test_cpu_is_counted() -> None:
    before = cpu_seconds(os.getpid())
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert 0.1 < cpu_seconds(os.getpid()) - before < 5


def test_the_table_says_which_goals_are_missed() -> None:
    series = Series()
    for value in (0.9, 1.0, 0.93):
        series.add("bare", "prefill, ms", 100 * value)
        series.add("go", "one stream / bare loop", value)
        series.add("python", "one stream / bare loop", value + 0.05)
        series.add("go", "CPU of a token beside the bare loop, us", 49)
        series.add("python", "CPU of a token beside the bare loop, us", 301)
    table = report(series, {"cores": "2"}, "m", 3)
    assert "| prefill, ms | 93.0 (90.0 to 100.0) |  |  |  |" in table
    ratios = "0.93 (0.90 to 1.00) | 0.98 (0.95 to 1.05) | at least 0.95: missed by go"
    assert f"| one stream / bare loop |  | {ratios} |" in table
    assert table[-1].endswith("| go at most 50, python at most 300: missed by python |")
