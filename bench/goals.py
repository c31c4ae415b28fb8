# SPDX-License-Identifier: Apache-2.0
"""What a run must show, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.stats import Samples

DEF, ASYNC = ("fastapi-def", "fastapi-def-x2"), ("fastapi-async", "fastapi-async-x2")
FASTAPI, LITSERVE = (*DEF, *ASYNC), ("litserve", "litserve-batch")
MLSERVER, TRITON = ("mlserver-grpc", "mlserver-http"), ("triton",)
CALLERS = "64 callers"
FIXED = ("inline", "direct", "adaptive")


@dataclass(frozen=True)
class Goal:
    """A goal with what was measured; `met` is None where that is missing."""

    name: str
    wanted: str
    measured: str
    met: bool | None

    def cells(self) -> list[str]:
        """For a table."""
        return [self.name, self.wanted, self.measured, {True: "yes", False: "**no**", None: "not measured"}[self.met]]


def at_least(samples: Samples, ours: str, theirs: Sequence[str], model: str, wanted: float, who: str) -> Goal:
    """Throughput over that of the best of `theirs`."""
    best = samples.best(theirs, model, CALLERS, "throughput")
    ratio = samples.ratio(ours, best, model, CALLERS, "throughput") if best else None
    name = f"{ours}, {model}: throughput over {who}"
    if ratio is None:
        return Goal(name, f"at least {wanted}x", "-", None)
    also = f" ({best} is the best)" if len(theirs) > 1 else ""
    return Goal(name, f"at least {wanted}x", f"{ratio}{also}", ratio.median >= wanted)


def at_most_cpu(samples: Samples, ours: str, theirs: str, wanted: float) -> Goal:
    """CPU of a request over another's."""
    ratio = samples.ratio(ours, theirs, "m1", CALLERS, "cpu")
    name = f"{ours}, m1: CPU of a request over {theirs}"
    return Goal(name, f"at most {wanted}x", str(ratio or "-"), ratio and ratio.median <= wanted)  # type: ignore[arg-type]


def above_raw(samples: Samples) -> Goal:
    """Latency with one caller."""
    served, raw = samples.median("go", "m1", "1 callers", "p50"), samples.median("raw-c", "m1", "1 callers", "p50")
    name, wanted = "go, m1: p50 with one caller above the raw run", "at most 0.2 ms"
    if served != served or raw != raw:  # NaN
        return Goal(name, wanted, "-", None)
    return Goal(name, wanted, f"{served - raw:.3f} ms ({served:.3f} - {raw:.3f})", served - raw <= 0.2)


def started(report: Mapping[str, Any], server: str, key: str, wanted: float, name: str, unit: str) -> Goal:
    """What a start took."""
    found = [float(s[key]) for s in report["starts"] if s["server"] == server]
    if not found:
        return Goal(name, f"at most {wanted:g} {unit}", "-", None)
    median = statistics.median(found)
    measured = f"{median:.0f} {unit} ({min(found):.0f} to {max(found):.0f})"
    return Goal(name, f"at most {wanted:g} {unit}", measured, median <= wanted)


def memory(samples: Samples) -> Goal:
    """Against FastAPI, told as it is."""
    ratio = samples.ratio("fastapi-def", "go", "m1", CALLERS, "rss")
    return Goal("m1: RSS of FastAPI, one worker, over go", "told as it is", str(ratio or "-"), True if ratio else None)


def policies(report: Mapping[str, Any], samples: Samples) -> list[list[str]]:
    """Rows of throughput: model, callers, each fixed policy, the chosen one with its name, chosen over the best."""
    rows = []
    for server, model, point in samples.keys():  # noqa: SIM118 - not a mapping
        if server != "go-auto":
            continue
        medians = {p: samples.median(f"go-{p}", model, point, "throughput") for p in FIXED}
        chosen = samples.median("go-auto", model, point, "throughput")
        best = samples.best([f"go-{p}" for p in FIXED], model, point, "throughput")
        ratio = samples.ratio("go-auto", best, model, point, "throughput") if best else None
        names = sorted({str(p).partition(":")[0] for p in report["policies"].get(f"go-auto {model}", [])})
        row = [model, point.split()[0], *(f"{medians[p]:,.0f}" for p in FIXED)]
        rows.append([*row, f"{chosen:,.0f} ({', '.join(names)})", str(ratio or "-")])
    return rows


def policy_goal(samples: Samples) -> Goal:
    """The worst of all."""
    found = []
    for server, model, point in samples.keys():  # noqa: SIM118 - not a mapping
        if server == "go-auto":
            best = samples.best([f"go-{p}" for p in FIXED], model, point, "throughput")
            ratio = samples.ratio("go-auto", best, model, point, "throughput") if best else None
            if ratio:
                found.append((ratio.median, f"{model} at {point}"))
    name, wanted = "go: chosen policy over the best fixed one, the worst of all models and callers", "at least 0.85x"
    if not found:
        return Goal(name, wanted, "-", None)
    worst, where = min(found)
    return Goal(name, wanted, f"{worst:.2f}x ({where})", worst >= 0.85)


def goals(report: Mapping[str, Any], samples: Samples) -> list[Goal]:
    """All of them."""
    return [
        at_least(samples, "go", DEF, "m1", 15, "FastAPI `def`"),
        at_least(samples, "go", ASYNC, "m1", 8, "FastAPI `async def`"),
        at_least(samples, "go", LITSERVE, "m1", 20, "LitServe"),
        at_least(samples, "go", TRITON, "m1", 10, "Triton with a Python model"),
        at_least(samples, "go", MLSERVER, "m1", 20, "MLServer"),
        at_least(samples, "go", ("echo-go",), "m1", 1.25, "gRPC echo with the standard codec"),
        at_most_cpu(samples, "go", "echo-go-hand-run", 1.15),
        above_raw(samples),
        at_least(samples, "go", FASTAPI, "m2", 8, "FastAPI"),
        at_least(samples, "go", LITSERVE, "m2", 3, "LitServe"),
        at_least(samples, "go", TRITON, "m2", 2, "Triton with a Python model"),
        policy_goal(samples),
        at_least(samples, "python", FASTAPI, "m2", 5, "FastAPI"),
        at_least(samples, "python", DEF[:1], "m1", 1.15, "FastAPI `def`, one worker"),
        at_least(samples, "python-x2", DEF[:1], "m1", 2, "FastAPI `def`, one worker"),
        at_least(samples, "python-x2", DEF[1:], "m1", 1.15, "FastAPI `def`, two workers"),
        at_most_cpu(samples, "python", "fastapi-async", 1.0),
        started(report, "go", "rss_mb", 65, "go, m1: RSS", "MB"),
        started(report, "go", "first_answer_ms", 60, "go, m1: start to first answer, verdict kept", "ms"),
        memory(samples),
    ]
