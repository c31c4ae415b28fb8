# SPDX-License-Identifier: Apache-2.0
"""Cases as data: reads conformance/cases/*.yaml strictly.

The YAML is that of proto JSON: only `true` and `false` are booleans, numbers look like JSON's, there are no dates,
no null and no key twice. What the schema (conformance.v1) does not know is an error, and so is a code, reason or path
that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import yaml
from concord_proto.conformance.v1 import suite_pb2
from concord_proto.inference.v1 import errors_pb2
from google.protobuf import json_format

from concord_conformance.fill import FillError, hex_bytes, parse_path
from concord_conformance.scratch import inside

__all__ = ["PROFILES", "LoadedCase", "LoadedSuite", "SuiteError", "load_file", "load_suites", "parse_suite"]

PROFILES = (
    "core",
    "batch",
    "stream",
    "tensor",
    "oip",
    "health",
    "ops",
    "security",
    "recommender",
    "version",
)

_Message = TypeVar("_Message", suite_pb2.Suite, suite_pb2.Case)

_ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
_REASONS = frozenset(name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name)
_CODES = frozenset(code.name for code in grpc.StatusCode)
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")
_TYPES = ("counter", "gauge", "histogram")
_STATUSES = frozenset({"SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"})


class SuiteError(ValueError):
    """A file of cases that cannot be used; says where and why."""


@dataclass(frozen=True)
class LoadedCase:
    """A case with what it takes over from its suite."""

    id: str
    profile: str
    level: int
    description: str
    steps: tuple[suite_pb2.Step, ...]
    server: suite_pb2.OwnServer | None = None


@dataclass(frozen=True)
class LoadedSuite:
    """A file of cases."""

    source: str
    profile: str
    probe: suite_pb2.Step | None
    cases: tuple[LoadedCase, ...]


def load_suites(directory: Path) -> list[LoadedSuite]:
    """Every *.yaml of a directory, by name. Raises SuiteError; ids are unique over all files."""
    files = sorted(directory.glob("*.yaml"))
    if not files:
        raise SuiteError(f"{directory}: holds no *.yaml")
    suites = [load_file(file) for file in files]
    seen: dict[str, str] = {}
    for suite in suites:
        for case in suite.cases:
            if case.id in seen:
                raise SuiteError(f"{suite.source}: case {case.id}: the id is in {seen[case.id]} already")
            seen[case.id] = suite.source
    return suites


def load_file(file: Path) -> LoadedSuite:
    """One file. Raises SuiteError."""
    return parse_suite(file.read_text(encoding="utf-8"), file.name)


def parse_suite(text: str, source: str) -> LoadedSuite:
    """A suite from YAML text; `source` names it in errors. Raises SuiteError."""
    try:
        # A subclass of SafeLoader: it makes no objects but those of JSON.
        document = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise SuiteError(f"{source}: {error}") from None
    if not isinstance(document, dict):
        raise SuiteError(f"{source}: expected a mapping")
    _refuse_null(document, source, "")
    # Case by case, so that an error says in which case it is.
    cases = document.pop("cases", None)
    if not isinstance(cases, list) or not cases:
        raise SuiteError(f"{source}: cases: expected a list that is not empty")
    suite = _message(document, suite_pb2.Suite(), source)
    if suite.profile not in PROFILES:
        raise SuiteError(f"{source}: profile: expected one of {', '.join(PROFILES)}, got {suite.profile!r}")
    if suite.level == suite_pb2.LEVEL_UNSPECIFIED:
        raise SuiteError(f"{source}: level: is not set")
    if suite.HasField("probe"):
        _check_step(suite.probe, f"{source}: probe")
        if not suite.probe.HasField("call") or suite.probe.background:
            raise SuiteError(f"{source}: probe: expected a call")
    loaded: list[LoadedCase] = []
    for number, entry in enumerate(cases):
        where = f"{source}: case {entry.get('id', number) if isinstance(entry, dict) else number}"
        case = _message(entry, suite_pb2.Case(), where)
        if not _ID.fullmatch(case.id) or not case.id.startswith(suite.profile + "."):
            raise SuiteError(f"{where}: id: expected {suite.profile}.<words>, lower case and dots, got {case.id!r}")
        if any(other.id == case.id for other in loaded):
            raise SuiteError(f"{where}: the id is there twice")
        if not case.description:
            raise SuiteError(f"{where}: description: is not set")
        if not case.steps:
            raise SuiteError(f"{where}: steps: expected at least one")
        for index, step in enumerate(case.steps):
            _check_step(step, f"{where}: steps[{index}]")
        _check_order(case, where)
        loaded.append(
            LoadedCase(
                case.id,
                suite.profile,
                case.level or suite.level,
                case.description,
                tuple(case.steps),
                case.server if case.HasField("server") else None,
            )
        )
    return LoadedSuite(source, suite.profile, suite.probe if suite.HasField("probe") else None, tuple(loaded))


class _Loader(yaml.SafeLoader):
    """YAML whose plain scalars are those of JSON."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "expected a text as key", key_node.start_mark)
            if key_node.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is there twice", key_node.start_mark
                )
            keys.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"true|false"), ["t", "f"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"null|~|"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"-?(0|[1-9][0-9]*)"), list("-0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"),
    list("-0123456789"),
)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
# A resolver's expression must match the whole scalar; PyYAML only looks at its beginning.
for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    _Loader.yaml_implicit_resolvers[_first] = [
        (tag, re.compile(f"(?:{pattern.pattern})\\Z")) for tag, pattern in _resolvers
    ]


def _refuse_null(value: object, source: str, path: str) -> None:
    if value is None:
        raise SuiteError(f"{source}: {path}: has no value")
    if isinstance(value, dict):
        for key, below in value.items():
            _refuse_null(below, source, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            _refuse_null(below, source, f"{path}[{index}]")


def _message(document: object, message: _Message, where: str) -> _Message:
    if not isinstance(document, dict):
        raise SuiteError(f"{where}: expected a mapping")
    try:
        return json_format.ParseDict(document, message)
    except json_format.ParseError as error:
        raise SuiteError(f"{where}: {error}") from None


def _check_step(step: suite_pb2.Step, where: str) -> None:
    call, expect = step.call, step.expect
    if step.WhichOneof("action") is not None:
        _check_action(step, where)
        return
    if call.WhichOneof("rpc") is None:
        raise SuiteError(f"{where}: call: names no method")
    if step.HasField("expect") == bool(step.shares):
        raise SuiteError(f"{where}: expect: is not set" if not step.shares else f"{where}: expect or shares, not both")
    for number, share in enumerate(step.shares):
        if share.at_least < 0 or (share.HasField("at_most") and share.at_most < share.at_least):
            raise SuiteError(f"{where}: shares[{number}]: expected 0 <= at_least <= at_most")
        _check_expectation(share.expect, f"{where}: shares[{number}].expect")
    if step.background and (step.until or step.while_running):
        raise SuiteError(f"{where}: a background call is judged later: no until, no while_running")
    for name in ("batch_size", "deadline_ms", "cancel_after_ms", "repeat", "concurrency", "connections", "pause_ms"):
        if getattr(call, name) < 0:
            raise SuiteError(f"{where}: call.{name}: expected at least 0")
    try:
        hex_bytes(call.append_hex)
        hex_bytes(call.raw.hex)
        for piece in call.append_pieces:
            hex_bytes(piece.hex)
        for fill in call.fills:
            parse_path(fill.path)
    except FillError as error:
        raise SuiteError(f"{where}: call: {error}") from None
    if call.batch_size and call.WhichOneof("rpc") not in ("batch_predict", "tensor_batch_predict"):
        raise SuiteError(f"{where}: call.batch_size: is for batches only")
    if call.unread and call.WhichOneof("rpc") != "stream_predict":
        raise SuiteError(f"{where}: call.unread: is for streams only")
    _check_expectation(expect, f"{where}: expect")


def _check_action(step: suite_pb2.Step, where: str) -> None:
    if step.HasField("call") or step.HasField("expect") or step.shares or step.background or step.until:
        raise SuiteError(f"{where}: is an action, and has what belongs to a call")
    match step.WhichOneof("action"):
        case "arrived":
            if min(step.arrived.messages, step.arrived.more) != 0 or step.arrived.messages + step.arrived.more < 1:
                raise SuiteError(f"{where}: arrived: expected messages or more, at least 1")
        case "metrics":
            _check_metrics(step.metrics, f"{where}: metrics")
        case "http":
            if not step.http.path.startswith("/"):
                raise SuiteError(f"{where}: http.path: expected it to begin with /")
        case "repository":
            change = step.repository
            paths = {
                "copy": (getattr(change.copy, "from"), change.copy.to, *change.copy.files),
                "remove": (change.remove,),
                "write": (change.write.path,),
            }.get(change.WhichOneof("change") or "", ("",))
            if change.copy.bytes and not change.copy.files:
                raise SuiteError(f"{where}: repository: expected the files of which there are to be only so many bytes")
            if not all(inside(path) for path in paths):
                raise SuiteError(f"{where}: repository: expected paths below its root, got {list(paths)}")
        case "signal":
            if step.signal not in _SIGNALS:
                raise SuiteError(f"{where}: signal: expected one of {', '.join(_SIGNALS)}, got {step.signal!r}")


def _check_metrics(expect: suite_pb2.MetricsExpectation, where: str) -> None:
    if not (expect.samples or expect.families or expect.forbidden_labels):
        raise SuiteError(f"{where}: expects nothing")
    for sample in expect.samples:
        bounds = [name for name in ("equals", "at_least", "at_most") if sample.HasField(name)]
        if not sample.name or sample.absent == bool(bounds):
            raise SuiteError(f"{where}: sample {sample.name!r}: expected a name, and absent or a bound")
    for family in expect.families:
        if family.type not in _TYPES:
            raise SuiteError(f"{where}: family {family.name!r}: expected a type of {', '.join(_TYPES)}")
    for pattern in expect.forbidden_labels:
        _check_pattern(pattern, where)


def _check_order(case: suite_pb2.Case, where: str) -> None:
    """Names are given before they are used, and once; what needs a server of the case's own has one."""
    calls: set[str] = set()
    scrapes: set[str] = set()
    for index, step in enumerate(case.steps):
        action = step.WhichOneof("action")
        used = list(step.while_running)
        if action in ("await", "cancel", "finish", "read"):
            used.append(getattr(step, action))
        elif action == "arrived":
            used.append(step.arrived.call)
        for name in used:
            if name not in calls:
                raise SuiteError(f"{where}: steps[{index}]: no background call {name!r} before it")
        if action == "metrics" and step.metrics.since and step.metrics.since not in scrapes:
            raise SuiteError(f"{where}: steps[{index}]: no scrape {step.metrics.since!r} before it")
        for name, names in ((step.background, calls), (step.scrape, scrapes)):
            if name and name in names:
                raise SuiteError(f"{where}: steps[{index}]: the name {name!r} is there twice")
            names.add(name)
        if action in ("repository", "signal", "exit") and not case.HasField("server"):
            raise SuiteError(f"{where}: steps[{index}]: {action} needs a server of the case's own")
    for model in case.server.models:
        if not inside(model):
            raise SuiteError(f"{where}: server.models: expected a fixture, got {model!r}")


def _check_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise SuiteError(f"{where}: {pattern!r}: {error}") from None


def _check_expectation(expect: suite_pb2.Expectation, where: str) -> None:
    for code in _given(expect.code, expect.other_allowed_codes):
        if code not in _CODES:
            raise SuiteError(f"{where}: {code!r} is no status code")
    if expect.reason and expect.reason not in _REASONS:
        raise SuiteError(f"{where}: {expect.reason!r} is no reason")
    failing = expect.code not in ("", "OK")
    about_errors = (
        expect.reason,
        expect.message,
        expect.message_pattern,
        expect.violations,
        expect.error_metadata,
        expect.details_optional,
    )
    if not failing and any(about_errors) and not any(code != "OK" for code in expect.other_allowed_codes):
        raise SuiteError(f"{where}: says something of an error, but expects none")
    for pattern in (expect.message_pattern, *expect.forbidden, *(trailer.pattern for trailer in expect.trailers)):
        _check_pattern(pattern, where)
    try:
        for fill in expect.fills:
            parse_path(fill.path)
    except FillError as error:
        raise SuiteError(f"{where}: {error}") from None
    if expect.absolute_tolerance < 0 or expect.relative_tolerance < 0:
        raise SuiteError(f"{where}: a tolerance is negative")
    for status in expect.health.statuses:
        if status not in _STATUSES:
            raise SuiteError(f"{where}: {status!r} is no health status")
    for index, result in enumerate(expect.batch.results):
        _check_expectation(result, f"{where}.batch.results[{index}]")


def _given(first: str, others: Iterable[str]) -> Iterator[str]:
    if first:
        yield first
    yield from others
