# SPDX-License-Identifier: Apache-2.0
"""Tables of a run, for people: python -m bench.report RESULTS.json [FOLDER].

Writes FOLDER/results.md, and a copy of the results without the curves' points; without FOLDER it prints.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.goals import goals, policies
from bench.stats import Samples

# What a core costs for an hour in a large cloud, about; only ratios between servers depend on nothing but measurements.
CORE_HOUR_DOLLARS = 0.04
TITLES = {
    "m1": "M1: boosted trees, 30 named features",
    "m1x": "M1 with its 30 features as one array",
    "m2": "M2: a perceptron of 58 MB",
    "cnn": "CNN: five convolutions",
    "array": "An array of 1 MB",
}


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; a dash for none."""
    if math.isnan(value):
        return "-"
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def point_of(samples: Samples, model: str) -> str:
    """The point at which a model's servers are told of: 64 callers, else the most."""
    points = {p for _, m, p in samples.keys() if m == model and p.endswith("callers")}  # noqa: SIM118
    return max(points, key=lambda p: (p == "64 callers", int(p.split()[0])), default="")


def is_policy(server: str) -> bool:
    """Whether it is our Go server under a policy: a table of its own."""
    return server.startswith("go-")


def servers_of(samples: Samples, model: str) -> list[str]:
    """In the order of the run."""
    return list(dict.fromkeys(s for s, m, _ in samples.keys() if m == model and not is_policy(s)))  # noqa: SIM118


def model_tables(samples: Samples, model: str) -> list[str]:
    """What a model's servers did."""
    point = point_of(samples, model)
    lines = [f"## {TITLES[model]}", "", f"{point.capitalize()}, medians of the rounds:", ""]
    rows = []
    for server in servers_of(samples, model):
        at = point if not server.startswith("raw") else "1 callers"
        if not samples.rounds(server, model, at):
            continue

        def median(measure: str, server: str = server, at: str = at) -> float:
            return samples.median(server, model, at, measure)

        faster = samples.ratio("go", server, model, point, "throughput", at)
        cpu = samples.ratio(server, "go", model, at, "cpu", point)
        dollars = median("cpu") * 1000 / 3600 * CORE_HOUR_DOLLARS
        row = [server if at == point else f"{server} (one thread)", number(median("throughput"))]
        row += [str(faster) if faster and server != "go" else "", number(median("p50")), number(median("p99"))]
        row += [number(median("p99.9")), number(median("cpu")), str(cpu) if cpu and server != "go" else ""]
        row += [f"{dollars:.4f}", number(median("rss")), number(median("pss"))]
        row.append(str(samples.with_errors.get((server, model, at), 0)))
        rows.append(row)
    head = ["server", "requests/s", "go's over it", "p50 ms", "p99 ms", "p99.9 ms", "CPU s/1000", "its CPU over go's"]
    head += ["$/million", "RSS MB", "PSS MB", "rounds with errors"]
    lines += table(head, rows)
    points = list(dict.fromkeys(p for _, m, p in samples.keys() if m == model and p.endswith("callers")))  # noqa: SIM118
    points = sorted((p for p in points if p != "2 callers"), key=lambda p: int(p.split()[0]))
    if len(points) > 1:
        for measure, title in (("throughput", "Requests/s"), ("p50", "p50 in ms"), ("p99", "p99 in ms")):
            rows = [
                [s, *(number(samples.median(s, model, p, measure)) for p in points)]
                for s in servers_of(samples, model)
                if not s.startswith("raw")
            ]
            lines += [f"{title} by callers:", "", *table(["server", *points], rows)]
    return lines + open_tables(samples, model)


def open_tables(samples: Samples, model: str) -> list[str]:
    """Latencies at a rate."""
    rows = []
    for server, m, point in samples.keys():  # noqa: SIM118
        if m != model or not point.startswith("open"):
            continue
        rate = statistics.median(float(s["rate"]) for s in samples.rounds(server, model, point).values())
        row = [server, f"{point.split()[1]} of its peak", number(rate)]
        row += [number(samples.median(server, model, point, q)) for q in ("p50", "p99", "p99.9")]
        rows.append([*row, number(samples.median(server, model, point, "cpu"))])
    if not rows:
        return []
    head = ["server", "rate", "requests/s asked", "p50 ms", "p99 ms", "p99.9 ms", "CPU s/1000"]
    return ["Open loop, latency from when the request should have gone out:", "", *table(head, rows)]


def start_table(report: dict[str, Any]) -> list[str]:
    """Time to the first answer."""
    if not report["starts"]:
        return []
    servers = list(dict.fromkeys(s["server"] for s in report["starts"]))
    rows = []
    for server in servers:
        found = [s for s in report["starts"] if s["server"] == server]
        row = [server]
        for key in ("first_answer_ms", "rss_mb", "pss_mb", "cpu_seconds"):
            row.append(number(statistics.median(float(s[key]) for s in found)))
        rows.append(row)
    lines = [
        "## From start to first answer",
        "",
        "With M1; our servers have the verdict of admission from an earlier start.",
    ]
    return [*lines, "", *table(["server", "ms", "RSS MB", "PSS MB", "CPU s until then"], rows)]


def disturbances(report: dict[str, Any], samples: Samples) -> list[str]:
    """A warning where the machine did something else."""
    if not samples.disturbed:
        return []
    text = f"**Other processes used more than a tenth of the cores in {samples.disturbed} of {len(report['samples'])} "
    return ["", text + "measurements that count below**: throughput and latency of those are too bad, CPU by less."]


def write(report: dict[str, Any]) -> str:
    """The whole page."""
    samples = Samples(report)
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    lines = [
        "# Speed, side by side",
        "",
        f"{report['date']}, {report['rounds']} rounds, {report['seconds']} s for each measurement, by",
        f"`{report['command']}`.",
        "How it is measured: [README.md](README.md).",
        "",
        f"Machine: {machine}. The load generator runs on the same cores.",
        "",
        "Ratios are those of one round; told is their median, and the least and the greatest.",
        *disturbances(report, samples),
        "",
        "## Goals",
        "",
        *table(["goal", "wanted", "measured", "met"], [g.cells() for g in goals(report, samples)]),
        "## Chosen against fixed policies",
        "",
        "Go's throughput by the policy that it chose itself, over the best fixed one at that number of callers. "
        "Where it chose a policy that is also measured fixed, what lies between the two is the noise of this run.",
        "",
        *table(
            ["model", "callers", "inline", "direct", "adaptive", "chosen", "chosen over the best"],
            policies(report, samples),
        ),
    ]
    models = list(dict.fromkeys(m for _, m, _ in samples.keys()))  # noqa: SIM118
    for model in models:
        if servers_of(samples, model):
            lines += model_tables(samples, model)
    lines += start_table(report)
    missing = [f"- {server}: {why}" for server, why in report["missing"].items()] or ["None."]
    lines += ["## Missing", "", *missing, "", "## Failed", ""]
    failed = [f"- {text}" for text in report["failed"]] or ["Nothing."]
    wrong = [f"- {' '.join(key)}: errors in {n} rounds" for key, n in samples.with_errors.items()]
    return "\n".join([*lines, *failed, *wrong]) + "\n"


def main() -> None:
    """Writes or prints the tables."""
    parser = argparse.ArgumentParser(description="Tables of a run.")
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    report = json.loads(arguments.results.read_text())
    text = write(report)
    if not arguments.folder:
        print(text)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "results.md").write_text(text)
    for sample in report["samples"]:
        sample["latency_ms"].pop("curve", None)
    lines = [json.dumps(sample) for sample in report.pop("samples")]
    kept = json.dumps(report, indent=1)[:-2] + ',\n "samples": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    json.loads(kept)
    (arguments.folder / "results.json").write_text(kept)


if __name__ == "__main__":
    main()
