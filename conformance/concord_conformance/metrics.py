# SPDX-License-Identifier: Apache-2.0
"""Reads a server's metrics as a Prometheus server would, and holds them against what was expected."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from concord_proto.conformance.v1 import suite_pb2
from prometheus_client import parser
from prometheus_client.openmetrics import parser as open_metrics_parser

__all__ = ["MetricsError", "Scrape", "http_status", "metrics_problems", "parse_metrics", "scrape"]

_SECONDS = 20.0
_TEXT = "text/plain;version=0.0.4"
_OPEN_METRICS = "application/openmetrics-text;version=1.0.0"


class MetricsError(ValueError):
    """Metrics that cannot be had or read."""


@dataclass(frozen=True)
class Series:
    """One line of a scrape."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Scrape:
    """One scrape: series, and types by the family's name (a counter's with _total)."""

    series: tuple[Series, ...]
    types: Mapping[str, str]
    members: Mapping[str, tuple[Series, ...]]

    def total(self, name: str, labels: Mapping[str, str]) -> float:
        """The sum of the series of this name that have these labels; 0 where there are none."""
        return sum(one.value for one in self.matching(name, labels))

    def matching(self, name: str, labels: Mapping[str, str]) -> list[Series]:
        """The series of this name that have these labels, whatever others they have."""
        return [
            one
            for one in self.series
            if one.name == name and all(one.labels.get(key) == value for key, value in labels.items())
        ]


def scrape(url: str, *, open_metrics: bool = False) -> Scrape:
    """Asks once. Raises MetricsError."""
    request = urllib.request.Request(  # noqa: S310
        url, headers={"Accept": _OPEN_METRICS if open_metrics else _TEXT}
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            kind, text = answer.headers.get("Content-Type", ""), answer.read().decode("utf-8")
    except (OSError, ValueError) as error:
        raise MetricsError(f"metrics: cannot be read: {error}") from None
    wanted = "application/openmetrics-text" if open_metrics else "text/plain"
    if not kind.startswith(wanted):
        raise MetricsError(f"metrics: expected Content-Type {wanted}, got {kind!r}")
    return parse_metrics(text, open_metrics=open_metrics)


def http_status(url: str) -> int:
    """The status of a GET; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0


def parse_metrics(text: str, *, open_metrics: bool = False) -> Scrape:
    """Reads an exposition. Raises MetricsError, also for a series that is there twice."""
    read: Callable[[str], Iterable[Any]] = (
        open_metrics_parser.text_string_to_metric_families if open_metrics else parser.text_string_to_metric_families
    )
    series: list[Series] = []
    types: dict[str, str] = {}
    members: dict[str, tuple[Series, ...]] = {}
    try:
        for family in read(text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            own = tuple(
                Series(one.name, _labels(one.labels), float(one.value))
                for one in family.samples
                if not one.name.endswith("_created")
            )
            types[name], members[name] = family.type, own
            series += own
    except (ValueError, KeyError, IndexError) as error:
        raise MetricsError(f"metrics: are not what a Prometheus server reads: {error}") from None
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for one in series:
        key = (one.name, tuple(sorted(one.labels.items())))
        if key in seen:
            raise MetricsError(f"metrics: {_shown(one.name, one.labels)} is there twice")
        seen.add(key)
    return Scrape(tuple(series), types, members)


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    """A bucket's bound is a number: "1.0" and "1" are one bound."""
    return {key: f"{float(value):g}" if key == "le" else value for key, value in labels.items()}


def metrics_problems(expect: suite_pb2.MetricsExpectation, now: Scrape, before: Scrape | None) -> list[str]:
    """What one scrape does not show; `before` is the earlier one that the values are differences from."""
    problems = [problem for sample in expect.samples for problem in _sample_problems(sample, now, before)]
    for family in expect.families:
        problems += _family_problems(family, now)
    if expect.only_prefix:
        listed = {family.name for family in expect.families}
        problems += [
            f"{name}: is no metric of the contract"
            for name in now.types
            if name.startswith(expect.only_prefix) and name not in listed
        ]
    for pattern in expect.forbidden_labels:
        problems += [
            f"{_shown(one.name, one.labels)}: {pattern!r} is in a label"
            for one in now.series
            if any(re.search(pattern, value) for value in one.labels.values())
        ]
    return problems


def _sample_problems(sample: suite_pb2.Sample, now: Scrape, before: Scrape | None) -> list[str]:
    labels = dict(sample.labels)
    here = _shown(sample.name, labels)
    if sample.absent:
        return [f"{here}: expected no such series"] if now.matching(sample.name, labels) else []
    value = now.total(sample.name, labels)
    if before is not None:
        value -= before.total(sample.name, labels)
    problems = []
    if sample.HasField("equals") and value != sample.equals:
        problems.append(f"expected {sample.equals:g}")
    if sample.HasField("at_least") and value < sample.at_least:
        problems.append(f"expected at least {sample.at_least:g}")
    if sample.HasField("at_most") and value > sample.at_most:
        problems.append(f"expected at most {sample.at_most:g}")
    more = " more than before" if before is not None else ""
    return [f"{here}: {problem}{more}, got {value:g}" for problem in problems]


def _family_problems(family: suite_pb2.Family, now: Scrape) -> list[str]:
    kind = now.types.get(family.name)
    members = now.members.get(family.name, ())
    if kind is None:
        return [] if family.optional else [f"{family.name}: is missing"]
    if not members:
        return [] if family.optional else [f"{family.name}: has no series"]
    if kind != family.type:
        return [f"{family.name}: expected a {family.type}, got a {kind}"]
    problems = []
    wanted = sorted(family.labels)
    for one in members:
        labels = sorted(set(one.labels) - ({"le"} if family.type == "histogram" else set()))
        if labels != wanted:
            problems.append(f"{one.name}: expected the labels {wanted}, got {labels}")
            break
    if family.buckets:
        bounds: dict[tuple[tuple[str, str], ...], list[float]] = {}
        for one in members:
            if one.name.endswith("_bucket"):
                key = tuple(sorted((name, value) for name, value in one.labels.items() if name != "le"))
                bounds.setdefault(key, []).append(float(one.labels["le"]))
        expected = [*family.buckets, float("inf")]
        problems += [
            f"{family.name}: expected buckets up to {expected}, got {got}" for got in bounds.values() if got != expected
        ][:1]
    return problems


def _shown(name: str, labels: Mapping[str, str]) -> str:
    return f"{name}{{{','.join(f'{key}={value!r}' for key, value in sorted(labels.items()))}}}"
