# SPDX-License-Identifier: Apache-2.0
"""The metrics by their names, for scrapers: this process's, or the sum over several.

The numbers are counted in plain Python (counts.py) and become prometheus_client's families only when somebody asks:
its own counters take a lock for each value, which would cost a request several times as much.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from concord_server.telemetry.counts import Rows
from concord_server.telemetry.gpu import Gpu

__all__ = ["Metrics"]

# By name without prefix: type, labels, what it tells.
_FAMILIES: Final[dict[str, tuple[str, tuple[str, ...], str]]] = {
    "requests": ("counter", ("service", "method", "model", "version", "code"), "Calls that ended."),
    "request_duration_seconds": (
        "histogram",
        ("method", "model", "version"),
        "From the first byte of a call at its handler to its answer.",
    ),
    "stage_duration_seconds": (
        "histogram",
        ("stage", "model", "version"),
        "Of each request that ran, its wait and the execution that held it.",
    ),
    "batch_rows": ("histogram", ("model", "version"), "Rows of each execution."),
    "queue_rows": ("gauge", ("model", "version"), "Rows that wait now."),
    "tokens": ("counter", ("model", "version"), "Tokens generated."),
    "time_to_first_token_seconds": (
        "histogram",
        ("model", "version"),
        "From the arrival of a request to the first token of its text.",
    ),
    "generations": (
        "gauge",
        ("model", "version", "state"),
        "Texts that are generated now, and those that wait.",
    ),
    "kv_cache_bytes": ("gauge", ("model", "version"), "Most memory of the keys and values of all generations."),
    "rejected": ("counter", ("reason",), "Errors by reason, each item of a batch for itself."),
    "model_state": ("gauge", ("model", "version", "state"), "1 for the state that the version is in."),
    "open_streams": ("gauge", (), "Calls under way."),
}

# Of several processes: most numbers add up, these do not.
_MERGE: Final[dict[str, Callable[[float, float], float]]] = {
    "inference_model_state": max,
    "inference_build_info": max,
    "inference_gpu_memory_used_bytes": max,
    "inference_gpu_memory_total_bytes": max,
    "inference_gpu_utilization_ratio": max,
    "python_info": max,
    "process_max_fds": min,
    "process_start_time_seconds": min,
}

_STATUS = Path("/proc/self/status")


class Metrics:
    """The metrics of one process. Its methods may be called from any thread."""

    def __init__(self, version: str, onnxruntime: str, gpu: Gpu | None = None) -> None:
        """`version` is the server's. Where an event loop runs, the number of its tasks is shown."""
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._build = {"server": "python", "version": version, "onnxruntime": onnxruntime}
        self._gpu = gpu
        registry = CollectorRegistry(auto_describe=False)
        self._own: Sequence[Collector] = (
            ProcessCollector(registry=None),
            PlatformCollector(registry=registry),
            GCCollector(registry=registry),
        )

    def text(self, rows: Rows, others: Iterable[bytes], accept: str) -> tuple[str, bytes]:
        """The answer to a scraper of that Accept header: its content type, and the text.

        `rows` are what Counts.copy gave, `others` what `packed` gave in other processes.
        """
        families = self._families(rows)
        for other in others:
            families = _merged(families, _unpacked(other))
        encode, content_type = choose_encoder(accept)
        return content_type, bytes(encode(_Families(families)))

    def packed(self, rows: Rows) -> bytes:
        """All metrics of this process, for `text` in another one."""
        families = [
            [family.name, family.documentation, family.type, [[s.name, s.labels, s.value] for s in family.samples]]
            for family in self._families(rows)
        ]
        return json.dumps(families).encode()

    def _families(self, rows: Rows) -> list[Metric]:
        families = {name: Metric(f"inference_{name}", text, kind) for name, (kind, _labels, text) in _FAMILIES.items()}
        for name, values, value in rows:
            labels = dict(zip(_FAMILIES[name][1], values, strict=True))
            if isinstance(value, tuple):
                _add_histogram(families[name], labels, *value)
            else:
                suffix = "_total" if families[name].type == "counter" else ""
                families[name].add_sample(f"inference_{name}{suffix}", labels, value)
        made = [_summed(family) for family in families.values()]
        made.append(_gauge("inference_build_info", "What serves here.", 1, self._build))
        if self._gpu is not None:
            made += [_gauge(*told) for told in self._gpu.look()]
        for collector in self._own:
            made += collector.collect()
        made.append(_gauge("process_threads", "Number of threads of the process.", _threads(), {}))
        if self._loop is not None:
            tasks = len(asyncio.all_tasks(self._loop))
            made.append(_gauge("python_asyncio_tasks", "Tasks of the event loop.", tasks, {}))
        return made


class _Families(Collector):
    """What an encoder takes for a registry."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _add_histogram(
    family: Metric, labels: dict[str, str], bounds: Sequence[float], counts: Sequence[int], total: float
) -> None:
    below = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        below += count
        le = str(floatToGoString(bound))  # type: ignore[no-untyped-call]
        family.add_sample(f"{family.name}_bucket", {**labels, "le": le}, below)
    family.add_sample(f"{family.name}_count", labels, below)
    family.add_sample(f"{family.name}_sum", labels, total)


def _gauge(name: str, text: str, value: float, labels: dict[str, str]) -> Metric:
    family = Metric(name, text, "gauge")
    family.add_sample(name, labels, value)
    return family


def _summed(family: Metric) -> Metric:
    """A family in which samples of the same labels are one: two services may have a method of one name."""
    return _merged([family], [])[0]


def _merged(families: Iterable[Metric], others: Iterable[Metric]) -> list[Metric]:
    made: dict[str, Metric] = {}
    samples: dict[str, dict[tuple[Any, ...], float]] = {}
    for family in (*families, *others):
        made.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        merge = _MERGE.get(family.name)
        into = samples.setdefault(family.name, {})
        for sample in family.samples:
            key = (sample.name, *sample.labels.items())
            before = into.get(key)
            if before is None:
                into[key] = sample.value
            else:
                into[key] = merge(before, sample.value) if merge else before + sample.value
    for name, family in made.items():
        for (sample_name, *labels), value in samples[name].items():
            family.add_sample(sample_name, dict(labels), value)
    return list(made.values())


def _unpacked(packed: bytes) -> list[Metric]:
    families = []
    for name, text, kind, samples in json.loads(packed):
        family = Metric(name, text, kind)
        for sample in samples:
            family.add_sample(*sample)
        families.append(family)
    return families


def _threads() -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("Threads:"):
            return int(line.split()[1])
    return 0
