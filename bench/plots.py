# SPDX-License-Identifier: Apache-2.0
"""Plots of a run: python -m bench.plots RESULTS.json FOLDER, in the environment build/bench/plots."""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "concord"
SHOWN = ("go", "python", "python-x2", "fastapi-def", "fastapi-async", "litserve-batch", "triton", "mlserver-grpc")
SHOWN += ("echo-go", "echo-go-hand-run", "echo-python-aio")
COLOURS = dict(zip(SHOWN, plt.get_cmap("tab20").colors, strict=False))


def style(server: str) -> dict[str, Any]:
    """Ours are thick, floors dotted."""
    ours = server in ("go", "python", "python-x2")
    line = ":" if server.startswith("echo") else "-"
    return {"color": COLOURS[server], "linewidth": 2.5 if ours else 1.2, "linestyle": line, "label": server}


def finish(axes: Any, title: str, file: Path) -> None:
    """Labels and the file."""
    axes.set_title(title)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    figure = axes.get_figure()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def by_callers(samples: list[dict[str, Any]], model: str, folder: Path) -> None:
    """Throughput by callers: medians of the rounds."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for s in samples:
        if s["model"] == model and s["point"].endswith("callers") and s["server"] in SHOWN:
            found[s["server"]][s["callers"]].append(s["throughput"])
    if max((len(levels) for levels in found.values()), default=0) < 2:
        return
    _, axes = plt.subplots(figsize=(8, 5))
    for server, levels in found.items():
        callers = sorted(levels)
        axes.plot(callers, [statistics.median(levels[c]) for c in callers], marker=".", **style(server))
    axes.set(xscale="log", yscale="log", xlabel="callers", ylabel="requests/s")
    finish(axes, f"Throughput by callers, {model}", folder / f"throughput-{model}.svg")


def distribution(samples: list[dict[str, Any]], model: str, point: str, folder: Path) -> None:
    """The share of answers within a time: of each share the median over the rounds."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for s in samples:
        if s["model"] == model and s["point"] == point and s["server"] in SHOWN and not s["errors"]:
            for share, latency in s["latency_ms"]["curve"]:
                found[s["server"]][share].append(latency)
    if not found:
        return
    _, axes = plt.subplots(figsize=(8, 5))
    for server, shares in found.items():
        ordered = sorted(shares)
        axes.plot([statistics.median(shares[s]) for s in ordered], ordered, **style(server))
    axes.set(xscale="log", xlabel="ms", ylabel="share of the answers within it", ylim=(0, 1.01))
    name = point.replace(" ", "-").replace(".", "")
    finish(axes, f"Latency, {model}, {point}", folder / f"latency-{model}-{name}.svg")


def main() -> None:
    """All plots."""
    parser = argparse.ArgumentParser(description="Plots of a run.")
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    samples = json.loads(arguments.results.read_text())["samples"]
    for model in ("m1", "m2"):
        by_callers(samples, model, arguments.folder)
        for point in ("64 callers", "open 0.5", "open 0.8"):
            distribution(samples, model, point, arguments.folder)


if __name__ == "__main__":
    main()
