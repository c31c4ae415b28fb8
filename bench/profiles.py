# SPDX-License-Identifier: Apache-2.0
"""Where the servers' time goes under 64 callers on M1, as text: python -m bench.profiles FOLDER.

The Go server by its own pprof, the Python server by its own /debug/profile, both on their loopback HTTP listeners. What
samples a Python process from inside gets its turn where the process lets go of the lock, and so sees too much of what
is there: hence a second look by py-spy, from outside.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from bench.configurations import ROOT, Configuration, Places, configurations
from bench.run import load_command, serving

SECONDS = 8
TOP = 60
PROFILES = {"go": "/debug/pprof/profile", "python": "/debug/profile"}
# Where in a function: functions are added up.
LINE = re.compile(r":\d+(?=\)?$)")


def profiled(places: Places, configuration: Configuration, path: str) -> tuple[bytes, dict[str, Any]]:
    """What the server's profile says while 64 callers ask, and the measurement meanwhile. Path "": by py-spy."""
    with serving(places, configuration) as (port, pid):
        load = [*load_command(places, configuration, port), "--pid", str(pid), "--callers", "64"]
        load += ["--warm", "1", "--seconds", str(SECONDS + 1)]
        with subprocess.Popen(load, stdout=subprocess.PIPE, text=True) as asking:  # noqa: S603 - our own generator
            if path:
                url = f"http://127.0.0.1:{port + 1}{path}?seconds={SECONDS}"
                with urllib.request.urlopen(url, timeout=SECONDS + 60) as answer:
                    profile: bytes = answer.read()
            else:
                profile = spied(places, pid)
            out, _ = asking.communicate(timeout=120)
    said: dict[str, Any] = json.loads(out)
    return profile, said


def spied(places: Places, pid: int) -> bytes:
    """What py-spy sees; nothing where it may not look."""
    with tempfile.NamedTemporaryFile() as file:
        command = [f"{places.built}/plots/bin/py-spy", "record", "--pid", str(pid), "--duration", str(SECONDS)]
        command += ["--rate", "250", "--threads", "--nonblocking", "--format", "raw", "--output", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            print(done.stderr[-300:], file=sys.stderr)
        return Path(file.name).read_bytes()


def go_top(places: Places, profile: bytes) -> str:
    """go tool pprof's own text: the functions by what they and all they call take, then by what they take alone."""
    texts = []
    with tempfile.NamedTemporaryFile(suffix=".pb.gz") as file:
        file.write(profile)
        file.flush()
        for order in ("-cum", "-flat"):
            command = ["go", "tool", "pprof", "-top", order, f"-nodecount={TOP}", str(places.go), file.name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            lines = done.stdout.splitlines()
            texts.append("\n".join(line for line in lines if not line.startswith(("File:", "Build ID"))))
    return "\n\n".join(texts) + "\n"


def python_top(profile: bytes) -> str:
    """Of each thread: the share of the samples in which a function is anywhere on the stack, and innermost."""
    cumulative: dict[str, Counter[str]] = {}
    innermost: dict[str, Counter[str]] = {}
    totals: Counter[str] = Counter()
    for line in profile.decode().splitlines():
        stack, _, times = line.rpartition(" ")
        if not times.isdigit():
            continue
        thread, *functions = (LINE.sub("", part) for part in stack.split(";"))
        totals[thread] += int(times)
        anywhere = cumulative.setdefault(thread, Counter())
        last = innermost.setdefault(thread, Counter())
        for function in set(functions):
            anywhere[function] += int(times)
        last[functions[-1] if functions else ""] += int(times)
    lines = []
    for thread, total in totals.most_common():
        lines += [f"{thread}: {total} samples", "     cum%  innermost%"]
        for function, count in cumulative[thread].most_common(TOP):
            share, inner = (100 * n / total for n in (count, innermost[thread][function]))
            lines.append(f"    {share:5.1f}  {inner:5.1f}  {function}")
        lines.append("")
    return "\n".join(lines)


def told(said: dict[str, Any]) -> str:
    """The measurement that went on meanwhile; being profiled costs a few percent."""
    rate, cpu = said["throughput"], said["cpu_seconds_per_1000"]
    return f"{rate:.0f} requests/s, {cpu:.4f} CPU seconds per 1000, {said['errors']} errors"


def main() -> None:
    """All profiles."""
    parser = argparse.ArgumentParser(description="Where the servers' time goes, as text.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="after", help="part of the files' names: before or after a change")
    parser.add_argument("--model", default="m1")
    parser.add_argument("--go", type=Path, default=ROOT / "bin/inference-server")
    parser.add_argument("--python", type=Path, default=ROOT / "python")
    library = next((ROOT / "bin").glob("libonnxruntime.so*"), Path("missing"))
    parser.add_argument("--library", type=Path, default=library)
    arguments = parser.parse_args()
    paths = (path.resolve() for path in (arguments.go, arguments.python, arguments.library))
    places = Places(ROOT / "build/bench", *paths)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for configuration in configurations(places):
        server = configuration.server
        if configuration.model != arguments.model or server not in PROFILES:
            continue
        for kind, path in (("", PROFILES[server]), ("-spy", "")):
            if kind and server == "go":
                continue
            profile, said = profiled(places, configuration, path)
            text = go_top(places, profile) if server == "go" else python_top(profile)
            head = f"{server}, {arguments.model}, 64 callers, {SECONDS} s\n{told(said)}\n\n"
            file = arguments.folder / f"profile-{server}{kind}-{arguments.model}-{arguments.name}.txt"
            file.write_text(head + text)
            print(file)


if __name__ == "__main__":
    main()
