# SPDX-License-Identifier: Apache-2.0
"""What people and programs read: tables and JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from concord_soak.soak import Report

__all__ = ["quantile", "show_soak", "table", "write_json"]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank); NaN for none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def table(rows: Sequence[tuple[str, Any]]) -> None:
    """Prints names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"  {name:<{width}}  {value:.4g}" if isinstance(value, float) else f"  {name:<{width}}  {value}")
    sys.stdout.flush()


def write_json(path: Path, report: Any) -> None:
    """Writes a report, or a mapping, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = report if isinstance(report, Mapping) else asdict(report)
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def show_soak(report: Report) -> None:
    """Prints a run of the soak."""
    click.echo(f"{report.server}: {'FAILED' if report.problems else 'passed'}: seed {report.seed}")
    before, after = report.baseline, report.after
    rows: list[tuple[str, Any]] = [
        ("seconds", round(report.seconds, 1)),
        ("calls", report.calls),
        ("server CPU seconds", round(report.server_cpu_seconds, 1)),
        ("RSS, MB (baseline, highest, after)", _three(report)),
        ("RSS slope, MB a minute", round(report.rss_slope_bytes_per_minute / 1e6, 2)),
    ]
    for key, name in (("descriptors", "descriptors"), ("threads", "threads"), ("tasks", "goroutines or tasks")):
        if before and after:
            rows.append((f"{name} (baseline, after)", f"{before[key]}, {after[key]}"))
    rows += [(f"seen: {note}", count) for note, count in report.seen.items()]
    rows.append(("metrics compared with the calls made", "yes" if report.metrics_compared else "no"))
    table(rows)
    for problem in report.problems:
        click.echo(f"  PROBLEM {problem}")


def _three(report: Report) -> str:
    values = [report.baseline.get("rss_bytes", 0), report.rss_highest_bytes, report.after.get("rss_bytes", 0)]
    return ", ".join(f"{value / 1e6:.0f}" for value in values)
