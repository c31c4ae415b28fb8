# SPDX-License-Identifier: Apache-2.0
"""Spans of calls, to an OTLP receiver; the caller's trace goes on, as W3C trace context says.

A call's spans are made when it has ended, with the times that it really began and ended: nothing of a call needs its
span before. OpenTelemetry is imported where it is used, since most servers do not.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from concord_server.fault import shown
from concord_server.telemetry.log import log

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from concord_server.telemetry.calls import Record

__all__ = ["Parent", "Traces", "parent_of", "traces"]

_log = log(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADERS = ("traceparent", "tracestate")
# Errors of the server, by OpenTelemetry's conventions for gRPC; the others are the caller's.
_SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
_CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class Parent(NamedTuple):
    """A span's ids in hexadecimal, empty where there is none, and whether its trace is sampled."""

    trace_id: str = ""
    span_id: str = ""
    sampled: bool = False
    context: Context | None = None


_NO_PARENT: Final = Parent()


def parent_of(headers: Iterable[tuple[str, str | bytes]] | None) -> Parent:
    """The caller's span. Headers that are not valid are as if they had not come."""
    carrier: dict[str, list[str]] = {}
    for name, value in headers or ():
        if name in _HEADERS and isinstance(value, str):
            carrier.setdefault(name, []).append(value)
    if len(carrier.get("traceparent", ())) != 1:
        return _NO_PARENT
    context = _propagator().extract(carrier)
    from opentelemetry import trace

    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        return _NO_PARENT
    return Parent(f"{span.trace_id:032x}", f"{span.span_id:016x}", span.trace_flags.sampled, context)


@functools.cache
def _propagator() -> TraceContextTextMapPropagator:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # It would log whatever a caller sends, as often as it is sent.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
    return TraceContextTextMapPropagator()


class Traces:
    """Makes the spans of calls and sends them, in a thread of its own."""

    def __init__(self) -> None:
        """Reads the standard variables of OpenTelemetry: endpoint, sampler, service name and resource."""
        from opentelemetry import context, trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = SERVICE_NAME in OTELResourceDetector().detect().attributes
        resource = Resource.create({} if named else {SERVICE_NAME: "concord"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._trace = trace
        self._nothing = context.Context()
        self._tracer = self._provider.get_tracer("concord_server")

    def show(self, record: Record, parent: Parent, end: float, code: str, reason: str) -> Parent:
        """Makes the spans of a call that ended at `end`, by time.perf_counter(); gives the call's own."""
        # Of the wall's clock and the other, what the difference is now.
        offset = time.time_ns() - time.perf_counter_ns()

        def at(seconds: float) -> int:
            return offset + int(seconds * 1e9)

        service, method = record.method.service, record.method.method
        span = self._tracer.start_span(
            f"{service}/{method}",
            parent.context or self._nothing,
            kind=self._trace.SpanKind.SERVER,
            start_time=at(record.begin),
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "rpc.grpc.status_code": _CODES.index(code),
                "model": record.model_id,
                "version": record.version,
                "request_id": shown(record.request_id),
                **({"reason": reason} if reason else {}),
            },
        )
        if span.is_recording():
            inside = self._trace.set_span_in_context(span, self._nothing)
            for ran in record.executions:
                began = max(ran.until - ran.compute_seconds, record.begin)
                queued = max(began - ran.queue_seconds, record.begin)
                self._tracer.start_span("queue", inside, start_time=at(queued)).end(at(began))
                rows = {"batch_rows": ran.rows}
                self._tracer.start_span("compute", inside, attributes=rows, start_time=at(began)).end(at(ran.until))
            for text in record.generated:
                began = text.began or text.until
                self._tracer.start_span("queue", inside, start_time=at(text.came)).end(at(began))
                if text.began:
                    tokens = {"prompt_tokens": text.prompt_tokens}
                    first = text.first or text.until
                    self._tracer.start_span("prefill", inside, attributes=tokens, start_time=at(began)).end(at(first))
                if text.first:
                    tokens = {"tokens": text.tokens, "batch_rows": text.rows}
                    span_of = self._tracer.start_span("decode", inside, attributes=tokens, start_time=at(text.first))
                    span_of.end(at(text.until))
            if code in _SERVER_ERRORS:
                span.set_status(self._trace.StatusCode.ERROR)
            span.end(at(end))
        own = span.get_span_context()
        return Parent(f"{own.trace_id:032x}", f"{own.span_id:016x}", own.trace_flags.sampled)

    def stop(self, seconds: float) -> None:
        """Sends what is left, and gives up after so many seconds. Blocks."""
        # The provider's own limit does not hold while the receiver does not answer.
        ended = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ended.start()
        ended.join(seconds)
        if ended.is_alive():
            _log.warning("traces that were not sent are given up")


def traces() -> Traces | None:
    """Traces, where an endpoint is set for them and they are not turned off."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() == "none":
        return None
    try:
        return Traces()
    except ImportError:
        _log.warning("no traces: an OTLP endpoint is set, and opentelemetry-exporter-otlp-proto-grpc is not installed")
        return None
