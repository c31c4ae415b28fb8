# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of a run's statistics, on made-up samples."""

from __future__ import annotations

import math

import pytest

from bench.compare import compare
from bench.stats import Samples, change


def sample(server: str, number: int, throughput: float, **more: object) -> dict[str, object]:
    latency = {"p50": 1.0, "p99": 2.0, "p99.9": 3.0}
    return {
        "server": server, "model": "m1", "point": "64 callers", "round": number, "throughput": throughput,
        "cpu_seconds_per_1000": 1 / throughput, "latency_ms": latency, "errors": 0, "requests": 10, **more,
    }  # fmt: skip


def test_ratios_are_those_of_one_round() -> None:
    # The machine halves its speed from round to round; the ratio stays.
    report = {"samples": [sample(s, n, k * 0.5**n) for n in range(3) for s, k in (("a", 300.0), ("b", 100.0))]}
    samples = Samples(report)
    ratio = samples.ratio("a", "b", "m1", "64 callers", "throughput")
    assert ratio is not None
    assert (ratio.median, ratio.least, ratio.greatest, ratio.rounds) == (3.0, 3.0, 3.0, 3)
    assert samples.median("a", "m1", "64 callers", "throughput") == 150
    assert samples.best(["a", "b", "c"], "m1", "64 callers", "throughput") == "a"
    assert samples.best(["a", "b"], "m1", "64 callers", "cpu") == "a"
    assert samples.best(["c"], "m1", "64 callers", "cpu") == ""
    assert samples.ratio("a", "c", "m1", "64 callers", "throughput") is None
    assert math.isnan(samples.median("c", "m1", "64 callers", "cpu"))


def test_a_round_that_one_server_lacks_does_not_count() -> None:
    report = {"samples": [sample("a", 0, 300), sample("b", 0, 100), sample("a", 1, 9000)]}
    ratio = Samples(report).ratio("a", "b", "m1", "64 callers", "throughput")
    assert ratio is not None
    assert (ratio.median, ratio.rounds) == (3, 1)


def test_samples_with_errors_stay_out() -> None:
    report = {"samples": [sample("a", 0, 300), sample("a", 1, 900, errors=1), sample("a", 2, 900, requests=0)]}
    samples = Samples(report)
    assert samples.values("a", "m1", "64 callers", "throughput") == [300]
    assert samples.with_errors == {("a", "m1", "64 callers"): 2}


def test_disturbed_samples_stay_out_where_enough_were_not() -> None:
    quiet = [sample("a", n, 100) for n in range(3)]
    loud = [sample("a", 3, 10, disturbed=True), sample("b", 0, 10, disturbed=True), sample("b", 1, 100)]
    samples = Samples({"samples": quiet + loud})
    assert samples.values("a", "m1", "64 callers", "throughput") == [100, 100, 100]
    assert samples.values("b", "m1", "64 callers", "throughput") == [10, 100]
    assert samples.disturbed == 1


def test_a_clear_change_is_certain() -> None:
    found = change([100, 101, 99, 102, 98], [120, 121, 119, 122, 118])
    assert found.ratio == pytest.approx(1.2)
    assert 1.1 < found.low < 1.2 < found.high < 1.3
    assert found.probability == pytest.approx(2 / 252)  # the two extreme orders of 10 over 5
    assert found.certain


def test_noise_is_not_certain() -> None:
    found = change([100, 120, 90, 110, 95], [105, 118, 92, 100, 111])
    assert not found.certain
    assert found.low < 1 < found.high


def test_three_rounds_cannot_be_certain() -> None:
    assert not change([1, 1.01, 0.99], [2, 2.01, 1.99]).certain


@pytest.mark.parametrize(("old", "new"), [([], [1.0]), ([1.0], []), ([0.0], [1.0]), ([1.0], [math.nan])])
def test_what_cannot_be_compared(old: list[float], new: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        change(old, new)


def test_compare_divides_by_the_echo_of_the_round() -> None:
    def report(speed: float, share: float) -> dict[str, object]:
        made = []
        for n in range(5):
            made += [sample("echo-go", n, speed * (1 + n / 50)), sample("go", n, speed * (1 + n / 49) * share)]
        return {"samples": made}

    # The machine is half as fast, the server as good as before.
    lines = {name: found for name, _, found, _ in compare(report(100, 0.8), report(50, 0.8), absolute=False)}
    assert lines["go m1 64 callers throughput"].ratio == pytest.approx(1)
    assert not lines["go m1 64 callers throughput"].certain
    assert lines["echo-go m1 64 callers throughput"].certain
    lines = {name: found for name, _, found, _ in compare(report(100, 0.8), report(50, 0.8), absolute=True)}
    assert lines["go m1 64 callers throughput"].ratio == pytest.approx(0.5)
