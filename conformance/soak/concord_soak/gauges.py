# SPDX-License-Identifier: Apache-2.0
"""What the server's process holds: read from its /metrics, else from /proc."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Gauges", "Sample", "Scrape", "parse_metrics", "slope_per_minute"]

_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_TASKS = ("go_goroutines", "python_asyncio_tasks")

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """One answer of /metrics."""

    series: dict[str, dict[Labels, float]]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all series of the name that have these labels; 0 where there is none."""
        wanted = set(labels.items())
        return sum(value for key, value in self.series.get(name, {}).items() if wanted <= key)

    def calls(self, without_model: str = "") -> dict[tuple[str, str, str], float]:
        """Calls that ended, by service, method and code; those that one model answered may be left out."""
        counts: dict[tuple[str, str, str], float] = {}
        for key, value in self.series.get("inference_requests_total", {}).items():
            labels = dict(key)
            if without_model and labels.get("model") == without_model:
                continue
            by = (labels.get("service", ""), labels.get("method", ""), labels.get("code", ""))
            counts[by] = counts.get(by, 0) + value
        return counts


@dataclass(frozen=True)
class Sample:
    """What a process holds at a time; a count that cannot be read is None."""

    rss_bytes: int
    threads: int
    descriptors: int
    tasks: int | None = None
    open_streams: int | None = None
    children: int = 0


def parse_metrics(text: str) -> Scrape:
    """Reads the Prometheus text format."""
    series: dict[str, dict[Labels, float]] = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        found = _LINE.match(line)
        if found is None:
            raise ValueError(f"expected a sample of the Prometheus text format, got {line[:200]!r}")
        name, labels, value = found.groups()
        key = frozenset((label, _unescape(text)) for label, text in _LABEL.findall(labels or ""))
        series.setdefault(name, {})[key] = float(value)
    return Scrape(series)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)


def slope_per_minute(samples: Sequence[tuple[float, float]]) -> float:
    """The slope of value over seconds by least squares, per minute; 0 for fewer than two times."""
    if len(samples) < 2:
        return 0.0
    mean_time = sum(time for time, _ in samples) / len(samples)
    mean = sum(value for _, value in samples) / len(samples)
    spread = sum((time - mean_time) ** 2 for time, _ in samples)
    if spread == 0:
        return 0.0
    return 60 * sum((time - mean_time) * (value - mean) for time, value in samples) / spread


class Gauges:
    """Reads one process."""

    def __init__(self, pid: int, http: str) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._url = f"http://{http}/metrics"

    async def scrape(self) -> Scrape | None:
        """/metrics, or None where the server has none."""
        return await asyncio.to_thread(self._scrape)

    def _scrape(self) -> Scrape | None:
        try:
            with urllib.request.urlopen(self._url, timeout=30) as answer:  # noqa: S310
                return parse_metrics(answer.read().decode("utf-8"))
        except urllib.error.HTTPError as error:
            error.close()
            return None

    async def under_way(self, calls: int, seconds: float = 30.0) -> None:
        """Returns once the server's handlers have so many calls, or has no metrics to say so, or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            scrape = await self.scrape()
            if scrape is None or "inference_open_streams" not in scrape.series:
                return
            if scrape.sum("inference_open_streams") >= calls:
                return
            await asyncio.sleep(0.01)

    async def sample(self) -> Sample:
        """What the process holds now. Raises OSError where it is no more."""
        scrape = await self.scrape()
        tasks = streams = None
        if scrape is not None:
            tasks = next((int(scrape.sum(name)) for name in _TASKS if name in scrape.series), None)
            if "inference_open_streams" in scrape.series:
                streams = int(scrape.sum("inference_open_streams"))
        status = dict(
            line.split(":", 1)
            for line in (self._proc / "status").read_text(encoding="utf-8").splitlines()
            if ":" in line
        )
        children = 0
        for task in (self._proc / "task").iterdir():
            try:
                children += len((task / "children").read_text(encoding="ascii").split())
            except OSError:
                continue  # a thread that has just ended, or a kernel that does not tell
        return Sample(
            rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
            threads=int(status["Threads"]),
            descriptors=sum(1 for _ in (self._proc / "fd").iterdir()),
            tasks=tasks,
            open_streams=streams,
            children=children,
        )
