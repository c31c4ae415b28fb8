# SPDX-License-Identifier: Apache-2.0
"""Each call from its beginning to its end: counted always, logged where it is sampled, traced where that is asked for.

Most servers neither log nor trace their requests: then a call costs its counts, and its headers are not even read.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol
from urllib.parse import unquote

from concord_server.fault import shown
from concord_server.telemetry.counts import Counts, Series
from concord_server.telemetry.log import log
from concord_server.telemetry.traces import Parent, Traces, parent_of

__all__ = ["Calls", "Context", "Execution", "Generated", "Method", "Record"]

_log = log(__name__)


class Context(Protocol):
    """What is asked of a call where it is logged or traced."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """The caller's headers."""

    def peer(self) -> str:
        """Where the caller is, as gRPC writes it: ipv4:127.0.0.1:40000."""


class Generated(NamedTuple):
    """A text that was generated: times by time.perf_counter(), 0 where it never came so far, and what it took."""

    came: float
    """When it began to wait for a slot."""
    began: float
    """When it had its slot."""
    first: float
    """When its first token was there."""
    until: float
    """When it ended."""
    compute_seconds: float
    """Of the executions that it had a part in."""
    prompt_tokens: int
    tokens: int
    rows: int


class Execution(NamedTuple):
    """An execution that answered a request: when it was over, by time.perf_counter(), and what a caller is told."""

    until: float
    queue_seconds: float
    compute_seconds: float
    rows: int


UNSERVED: Final = "unknown"
"""The service and the method of all that is not served."""

_MILLION = 1_000_000
_MOST_EXECUTIONS = 16


class Method:
    """A method as telemetry knows it."""

    __slots__ = ("method", "series", "service")

    def __init__(self, service: str, method: str, series: dict[tuple[str, str], Series]) -> None:
        self.service = service
        self.method = method
        self.series = series


class Record:
    """What is known of a call. Its handler tells who answers it and how it ran; one thread at a time has it."""

    # Most calls leave most of these as they are.
    request_id = ""
    model_id = ""
    version = ""
    failed: Sequence[str] = ()
    """The reasons of the requests of a batch that are answered with an error."""
    _mixed = False
    generated: Sequence[Generated] = ()
    """The texts that were generated for it, the first 16."""
    _executions: tuple[tuple[float, float, float, int], ...] = ()  # plain: most are never looked at

    def __init__(self, method: Method, context: Context) -> None:
        self.method = method
        self.context = context
        self.begin = time.perf_counter()

    def answers(self, model_id: str, version: str) -> None:
        """Says which version answers; a call that several answer counts for none of them."""
        if self._mixed:
            return
        if not self.model_id:
            self.model_id, self.version = model_id, version
        elif self.model_id != model_id or self.version != version:
            self._mixed = True
            self.model_id = self.version = ""

    def ran(self, queue_seconds: float, compute_seconds: float, rows: int, ended: float = 0) -> None:
        """Tells of an execution that answered a request of the call; `ended` by time.perf_counter(), 0 is now."""
        execution = (ended or time.perf_counter(), queue_seconds, compute_seconds, rows)
        known = self._executions
        if not known:
            self._executions = (execution,)
        elif len(known) < _MOST_EXECUTIONS and not any(ended == one[0] and rows == one[3] for one in known):
            self._executions = (*known, execution)

    def generates(self, text: Generated) -> None:
        """Tells of a text that was generated for the call."""
        if len(self.generated) < _MOST_EXECUTIONS:
            self.generated = (*self.generated, text)

    @property
    def executions(self) -> Sequence[Execution]:
        """Those that the call's requests were part of, the first 16."""
        return [Execution(*one) for one in self._executions]

    def item_failed(self, reason: str) -> None:
        """Says that one request of a batch is answered with an error."""
        if not isinstance(self.failed, list):
            self.failed = []
        self.failed.append(reason)


class Calls:
    """Follows calls. Its methods are called from one event loop."""

    def __init__(self, counts: Counts | None = None, traces: Traces | None = None, log_ppm: int = 0) -> None:
        """`log_ppm` is the share of calls that get a line in the log, in parts of a million."""
        self.counts = counts if counts is not None else Counts()
        self._traces = traces
        self._log_ppm = log_ppm

    def method(self, name: str) -> Method:
        """A method that is served, by its path /package.Service/Method."""
        service, _, method = name.removeprefix("/").partition("/")
        return Method(service, method, self.counts.method(service, method))

    def unserved(self) -> Method:
        """What stands for all methods that are not served."""
        return self.method(f"/{UNSERVED}/{UNSERVED}")

    def set_log_ppm(self, log_ppm: int) -> None:
        """Sets the share of calls that are logged from now on, in parts of a million."""
        self._log_ppm = log_ppm

    def begin(self, method: Method, context: Context) -> Record:
        """A call has come. Each beginning has one end."""
        self.counts.open_calls += 1
        return Record(method, context)

    def end(self, record: Record, code: str = "OK", reason: str = "") -> None:
        """A call is answered: with the code's canonical name and, where it is an error, its reason."""
        end = time.perf_counter()
        counts, method = self.counts, record.method
        counts.open_calls -= 1
        series = method.series.get((record.model_id, record.version))
        if series is None:
            series = counts.series(method.series, record.model_id, record.version)
        series.codes[code] = series.codes.get(code, 0) + 1
        series.seconds.observe(end - record.begin)
        if reason:
            counts.reject(reason)
        else:
            for failed in record.failed:
                counts.reject(failed)
        if self._traces is not None or self._log_ppm:
            self._show(record, end, code, reason)

    def _show(self, record: Record, end: float, code: str, reason: str) -> None:
        parent = parent_of(record.context.invocation_metadata())
        own = self._traces.show(record, parent, end, code, reason) if self._traces is not None else None
        ppm = self._log_ppm
        if ppm and (parent.sampled or random.random() * _MILLION < ppm):  # noqa: S311 - a choice, not a secret
            _write(record, own or parent, end, code, reason)


def _write(record: Record, span: Parent, end: float, code: str, reason: str) -> None:
    executions = [
        *record.executions,
        *(
            Execution(text.until, (text.began or text.until) - text.came, text.compute_seconds, text.rows)
            for text in record.generated
        ),
    ]
    _log.info(
        "request",
        request_id=shown(record.request_id),
        trace_id=span.trace_id,
        span_id=span.span_id,
        method=f"{record.method.service}/{record.method.method}",
        model=record.model_id,
        version=record.version,
        code=code,
        reason=reason,
        duration_ms=_ms(end - record.begin),
        queue_ms=_ms(max((ran.queue_seconds for ran in executions), default=0)),
        compute_ms=_ms(max((ran.compute_seconds for ran in executions), default=0)),
        batch_rows=max((ran.rows for ran in executions), default=0),
        peer=_address(record.context.peer()),
    )


def _address(peer: str) -> str:
    """gRPC's ipv6:%5B::1%5D:40000 as people write it."""
    kind, _, address = unquote(peer).partition(":")
    return address if kind in ("ipv4", "ipv6") else kind


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
