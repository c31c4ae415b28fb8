# SPDX-License-Identifier: Apache-2.0
"""Medians and ratios of what a run measured, and whether two runs differ."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

__all__ = ["Change", "Ratio", "Samples", "change", "value"]

# So many rounds that were not disturbed make those unnecessary that were.
QUIET_ROUNDS = 3

# Measures by name: where they lie in a sample, and whether more is better.
MEASURES = {
    "throughput": (("throughput",), True),
    "cpu": (("cpu_seconds_per_1000",), False),
    "p50": (("latency_ms", "p50"), False),
    "p99": (("latency_ms", "p99"), False),
    "p99.9": (("latency_ms", "p99.9"), False),
    "rss": (("rss_mb",), False),
    "pss": (("pss_mb",), False),
}


def value(sample: Mapping[str, Any], measure: str) -> float:
    """One measure of a sample; NaN where it has none."""
    found: Any = sample
    for part in MEASURES[measure][0]:
        found = found.get(part)
        if found is None:
            return float("nan")
    return float(found)


@dataclass(frozen=True)
class Ratio:
    """One server's measure over another's: the median of the rounds, the least and the greatest, the rounds."""

    median: float
    least: float
    greatest: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.3g}x ({self.least:.3g} to {self.greatest:.3g})"


class Samples:
    """The samples of a run, by server, model and point.

    Those with errors stay out and are counted. So do those that were disturbed by other processes, as long as three
    rounds of the same were not.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._by_key: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
        self.with_errors: dict[tuple[str, str, str], int] = {}
        self.disturbed = 0
        for sample in report["samples"]:
            key = (sample["server"], sample["model"], sample["point"])
            if sample["errors"] or not sample["requests"]:
                self.with_errors[key] = self.with_errors.get(key, 0) + 1
            else:
                self._by_key.setdefault(key, {})[sample["round"]] = sample
        for key, rounds in self._by_key.items():
            quiet = {n: s for n, s in rounds.items() if not s.get("disturbed")}
            if len(quiet) >= QUIET_ROUNDS:
                self._by_key[key] = quiet
            else:
                self.disturbed += len(rounds) - len(quiet)

    def keys(self) -> list[tuple[str, str, str]]:
        """Server, model and point of everything that was measured, in the order of the run."""
        return list(self._by_key)

    def rounds(self, server: str, model: str, point: str) -> Mapping[int, Mapping[str, Any]]:
        """The samples by round."""
        return self._by_key.get((server, model, point), {})

    def values(self, server: str, model: str, point: str, measure: str) -> list[float]:
        """One measure in all rounds."""
        return [value(s, measure) for s in self.rounds(server, model, point).values()]

    def median(self, server: str, model: str, point: str, measure: str) -> float:
        """The median of the rounds; NaN of none."""
        values = self.values(server, model, point, measure)
        return statistics.median(values) if values else float("nan")

    def best(self, servers: Sequence[str], model: str, point: str, measure: str) -> str:
        """The server whose median is best; "" where none was measured."""
        more = MEASURES[measure][1]
        measured = [s for s in servers if self.rounds(s, model, point)]
        medians = {s: self.median(s, model, point, measure) for s in measured}
        return max(medians, key=lambda s: medians[s] if more else -medians[s], default="")

    def ratio(self, ours: str, theirs: str, model: str, point: str, measure: str, other: str = "") -> Ratio | None:
        """`ours` over `theirs` in the same rounds. `other`: the point of `theirs`, where it is another one."""
        a, b = self.rounds(ours, model, point), self.rounds(theirs, model, other or point)
        ratios = [value(a[n], measure) / value(b[n], measure) for n in a if n in b and value(b[n], measure) > 0]
        if not ratios:
            return None
        return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


@dataclass(frozen=True)
class Change:
    """New over old: the ratio of the medians, its 95% interval by bootstrap, and Mann-Whitney's probability that chance
    alone gives as great a difference."""

    ratio: float
    low: float
    high: float
    probability: float

    @property
    def certain(self) -> bool:
        """Whether chance is a poor explanation, by both."""
        return self.probability < 0.05 and not self.low <= 1 <= self.high


def change(old: Sequence[float], new: Sequence[float], *, seed: int = 0, times: int = 4000) -> Change:
    """Compares the rounds of two runs. Fewer than 4 rounds in each can never be certain.

    Raises ValueError where there is nothing to compare.
    """
    if not old or not new:
        raise ValueError("expected at least one value of each run")
    a, b = np.asarray(old, float), np.asarray(new, float)
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b)) and np.all(a > 0) and np.all(b > 0)):
        raise ValueError("expected positive numbers")
    random = np.random.default_rng(seed)
    medians = [np.median(v[random.integers(0, len(v), (times, len(v)))], axis=1) for v in (a, b)]
    low, high = np.quantile(medians[1] / medians[0], [0.025, 0.975])
    probability = mannwhitneyu(
        b, a, alternative="two-sided", method="exact" if len(a) * len(b) < 400 else "auto"
    ).pvalue
    return Change(float(np.median(b) / np.median(a)), float(low), float(high), float(probability))
