# SPDX-License-Identifier: Apache-2.0
"""Compares two runs: `make bench-compare OLD=a.json NEW=b.json`.

Machines and hours differ in speed, so each measure of throughput and CPU is first divided by that of the gRPC echo in
the same round, where both runs have it; `--absolute` leaves that out. Exit code 1: something got worse, and chance is
a poor explanation.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.stats import MEASURES, Change, Samples, change, value

REFERENCE = "echo-go"
COMPARED = ("throughput", "cpu", "p50", "p99")


def series(samples: Samples, server: str, model: str, point: str, measure: str, relative: bool) -> list[float]:
    """The values of all rounds, divided by the reference's in the same round."""
    rounds = samples.rounds(server, model, point)
    if not relative:
        return [value(s, measure) for s in rounds.values()]
    reference = samples.rounds(REFERENCE, model, point)
    return [value(s, measure) / value(reference[n], measure) for n, s in rounds.items() if n in reference]


def compare(old: dict[str, Any], new: dict[str, Any], absolute: bool) -> list[tuple[str, str, Change, bool]]:
    """What was measured in both runs: what, relative or not, how it changed, whether more is better."""
    a, b = Samples(old), Samples(new)
    lines = []
    for key in a.keys():  # noqa: SIM118 - not a mapping
        server, model, point = key
        if not b.rounds(*key):
            continue
        relative = not absolute and server != REFERENCE
        relative = relative and all(s.rounds(REFERENCE, model, point) for s in (a, b))
        for measure in COMPARED:
            try:
                found = change(series(a, *key, measure, relative), series(b, *key, measure, relative))
            except ValueError:
                continue
            name = f"{server} {model} {point} {measure}"
            lines.append((name, "of the echo's" if relative else "", found, MEASURES[measure][1]))
    return lines


def main() -> int:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description="Compares two runs of the benchmarks.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--absolute", action="store_true", help="do not divide by the gRPC echo of the same round")
    parser.add_argument("--all", action="store_true", help="print what did not change, too")
    arguments = parser.parse_args()
    old, new = (json.loads(path.read_text()) for path in (arguments.old, arguments.new))
    lines = compare(old, new, arguments.absolute)
    worse = 0
    print(f"{'':48} {'new/old':>8}  95% interval     p")
    for name, relative, found, more in lines:
        gained = (found.ratio > 1) == more
        verdict = ("better" if gained else "WORSE") if found.certain else ""
        worse += verdict == "WORSE"
        if verdict or arguments.all:
            interval = f"{found.low:.3f} to {found.high:.3f}"
            print(f"{name:48} {found.ratio:8.3f}  {interval}  {found.probability:.3f}  {verdict} {relative}".rstrip())
    certain = sum(found.certain for _, _, found, _ in lines)
    print(
        f"{len(lines)} compared, {certain} changed, {worse} of them for the worse; {len(lines) - certain} may be chance"
    )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
