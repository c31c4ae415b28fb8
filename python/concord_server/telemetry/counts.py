# SPDX-License-Identifier: Apache-2.0
"""The numbers behind the metrics, as plain integers and lists.

All of it is of one event loop and needs no lock: a request costs a few additions here. metrics.py gives the numbers
their names, when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

from concord_server.fault import Reason

__all__ = [
    "ROW_BOUNDS",
    "SECONDS_BOUNDS",
    "Counts",
    "GenerationCounts",
    "Histogram",
    "Rows",
    "Series",
    "VersionCounts",
]

SECONDS_BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
ROW_BOUNDS: Final = tuple(float(1 << power) for power in range(11))

_Key = tuple[str, str]
"""A model's id and a version's number; both empty where no version answered."""

Rows = list[tuple[str, tuple[str, ...], "float | tuple[Sequence[float], Sequence[int], float]"]]
"""Copied numbers: the metric's name, the values of its labels, and a number or a histogram's bounds, counts and sum."""


class Histogram:
    """How often values fell between bounds, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value; one that is a bound counts below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> tuple[Sequence[float], Sequence[int], float]:
        """Bounds, counts and sum as they are now."""
        return self.bounds, tuple(self.counts), self.sum


class Series:
    """The calls of one method that one version answered."""

    __slots__ = ("codes", "seconds")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.seconds = Histogram(SECONDS_BOUNDS)


class VersionCounts:
    """What becomes of the rows of one version: a batch.Watcher."""

    __slots__ = ("compute", "generations", "queue", "rows", "state", "waiting")

    def __init__(self) -> None:
        self.state = ""
        self.generations: GenerationCounts | None = None
        self.waiting = 0
        self.queue = Histogram(SECONDS_BOUNDS)
        self.compute = Histogram(SECONDS_BOUNDS)
        self.rows = Histogram(ROW_BOUNDS)

    def queued(self, rows: int) -> None:
        """The rows that wait changed by that many."""
        self.waiting += rows

    def began(self, wait_seconds: float) -> None:
        """A request began to run after that wait."""
        # As observe, written out here and below: every request comes by, and calls are what costs.
        queue = self.queue
        queue.counts[bisect_left(SECONDS_BOUNDS, wait_seconds)] += 1
        queue.sum += wait_seconds

    def ran(self, requests: int, rows: int, compute_seconds: float) -> None:
        """One execution has ended."""
        compute, by_rows = self.compute, self.rows
        compute.counts[bisect_left(SECONDS_BOUNDS, compute_seconds)] += requests
        compute.sum += compute_seconds * requests
        by_rows.counts[bisect_left(ROW_BOUNDS, rows)] += 1
        by_rows.sum += rows


class GenerationCounts:
    """What becomes of the generations of one version: a generate.Watcher."""

    __slots__ = ("_version", "cache_bytes", "first_seconds", "generated", "has_slot", "waits")

    def __init__(self, version: VersionCounts) -> None:
        self._version = version
        self.cache_bytes = 0
        self.waits = 0
        self.has_slot = 0
        self.generated = 0
        self.first_seconds = Histogram(SECONDS_BOUNDS)

    def waiting(self, change: int) -> None:
        """The generations that wait for a slot changed by that many."""
        self.waits += change
        self._version.waiting += change

    def running(self, change: int) -> None:
        """The generations that have a slot changed by that many."""
        self.has_slot += change

    def began(self, wait_seconds: float) -> None:
        """A generation has its slot after that wait."""
        self._version.queue.observe(wait_seconds)

    def shared(self, generations: int) -> None:
        """An execution has ended that so many generations shared."""
        self._version.rows.observe(generations)

    def first(self, seconds: float) -> None:
        """A generation has its first token, so long after its request came."""
        self.first_seconds.observe(seconds)

    def tokens(self, count: int) -> None:
        """So many tokens were generated."""
        self.generated += count

    def ended(self, compute_seconds: float) -> None:
        """A generation that had a slot has ended; the executions that it had a part in took so long."""
        self._version.compute.observe(compute_seconds)


class Counts:
    """All numbers of one process. Its methods are called from the event loop only."""

    def __init__(self) -> None:
        self.open_calls = 0
        # A reason that has not occurred yet is 0: what is not there cannot be seen to grow.
        self.rejected = dict.fromkeys(("UNSPECIFIED", *map(str, Reason)), 0)
        self._methods: dict[tuple[str, str], dict[_Key, Series]] = {}
        self._versions: dict[_Key, VersionCounts] = {}

    def method(self, service: str, method: str) -> dict[_Key, Series]:
        """The series of a method, by who answered."""
        return self._methods.setdefault((service, method), {})

    def series(self, method: dict[_Key, Series], model_id: str, version: str) -> Series:
        """The series of a method and a version.

        Only versions that the repository holds have one: what a caller writes never becomes a label, and a call that
        ends after its version has left brings nothing of it back.
        """
        key = (model_id, version)
        if key not in self._versions:
            key = ("", "")
        series = method.get(key)
        if series is None:
            series = method[key] = Series()
        return series

    def watch(self, model_id: str, version: str) -> VersionCounts:
        """The numbers of a version; versions of a name that come one after the other share them."""
        return self._versions.setdefault((model_id, version), VersionCounts())

    def watch_generations(self, model_id: str, version: str, cache_bytes: int) -> GenerationCounts:
        """The numbers of a version that generates text, whose keys and values take so much memory."""
        counts = self.watch(model_id, version)
        if counts.generations is None:
            counts.generations = GenerationCounts(counts)
        counts.generations.cache_bytes = cache_bytes
        return counts.generations

    def set_state(self, model_id: str, version: str, state: str | None) -> None:
        """Says which state a version is in; None is that it has left, and its numbers leave with it."""
        if state is not None:
            self.watch(model_id, version).state = state
            return
        key = (model_id, version)
        self._versions.pop(key, None)
        for series in self._methods.values():
            series.pop(key, None)

    def reject(self, reason: str) -> None:
        """Counts an error that a caller was answered with."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def copy(self) -> Rows:
        """All numbers as they are now; so little work that the event loop can do it while calls are under way."""
        rows: Rows = [("open_streams", (), self.open_calls)]
        rows += [("rejected", (reason,), count) for reason, count in self.rejected.items()]
        for (service, method), by_version in self._methods.items():
            for (model_id, version), series in by_version.items():
                rows += [
                    ("requests", (service, method, model_id, version, code), count)
                    for code, count in series.codes.items()
                ]
                rows.append(("request_duration_seconds", (method, model_id, version), series.seconds.copy()))
        for key, counts in self._versions.items():
            rows += [
                ("stage_duration_seconds", ("queue", *key), counts.queue.copy()),
                ("stage_duration_seconds", ("compute", *key), counts.compute.copy()),
                ("batch_rows", key, counts.rows.copy()),
                ("queue_rows", key, counts.waiting),
            ]
            if (made := counts.generations) is not None:
                rows += [
                    ("tokens", key, made.generated),
                    ("time_to_first_token_seconds", key, made.first_seconds.copy()),
                    ("generations", (*key, "running"), made.has_slot),
                    ("generations", (*key, "waiting"), made.waits),
                    ("kv_cache_bytes", key, made.cache_bytes),
                ]
            if counts.state:
                rows += [("model_state", (*key, state), float(state == counts.state)) for state in STATES]
        return rows

    @property
    def versions(self) -> Mapping[_Key, VersionCounts]:
        """The versions that have numbers."""
        return self._versions


STATES: Final = ("loading", "ready", "failed", "draining")
"""The states that a version is in, as the metrics name them."""
