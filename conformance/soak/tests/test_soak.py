# SPDX-License-Identifier: Apache-2.0
"""The soak bites: a server with one fault fails it, one without passes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from concord_soak.soak import Report, run_soak

FAKE = Path(__file__).resolve().parent / "fake_server.py"
# What each fault must be reported as.
FOUND = {
    "wrong byte": "expected predictions",
    "leaks descriptors": "descriptors, got",
    "loses requests": "a call under way at SIGTERM: expected its answer",
    "miscounts": "Check OK: expected",
    "ends badly": "expected exit code 0, got 4",
    "dies": "ended by itself",
}


async def soak(fault: str, monkeypatch: pytest.MonkeyPatch) -> Report:
    # What leaks never goes, so there is nothing to wait for.
    monkeypatch.setattr("concord_soak.soak._SETTLE_SECONDS", 2.0)
    command = [sys.executable, str(FAKE), "--fault", fault]
    return await run_soak(command, name="fake", seconds=2, seed=1, only=("predictions", "health"))


async def test_a_faultless_server_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    report = await soak("none", monkeypatch)
    assert report.problems == []
    assert report.metrics_compared
    assert report.seen["answers checked"] > 0


@pytest.mark.parametrize("fault", FOUND)
async def test_a_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = await soak(fault, monkeypatch)
    assert any(FOUND[fault] in problem for problem in report.problems), report.problems
