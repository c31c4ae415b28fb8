# SPDX-License-Identifier: Apache-2.0
"""Predict for small models that run on the event loop, from the bytes of the request to those of the answer.

It answers what it has seen before and what is plainly right, as the general way would; everything else, every error
among it, it leaves to that.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from concord_server.batch import Engine
from concord_server.fault import Fault
from concord_server.feature import Plan
from concord_server.model import Call
from concord_server.repository import Repository
from concord_server.server.inference import answer_of
from concord_server.server.request import logged, request_id_of
from concord_server.telemetry import Record

__all__ = ["Quick"]

_MODEL_ID, _REQUEST_ID, _FEATURES = 0x0A, 0x12, 0x1A  # PredictRequest.model_id=1, request_id=2 and features=3
_SMALL = 0x7F
_TIMING = b"\x32\x0c\x0d%b\x15%b\x18\x01"
_milliseconds = struct.Struct("<f").pack


class Quick:
    """Answers requests on the event loop."""

    def __init__(self, repository: Repository, engine: Engine, max_request_seconds: Callable[[], float]) -> None:
        """`max_request_seconds` is the server's own limit of a request's time; 0 while it drains."""
        self._repository = repository
        self._engine = engine
        self._max_request_seconds = max_request_seconds

    def __call__(self, data: bytes, remaining: Callable[[], float | None], record: Record) -> bytes | None:
        """The bytes of the answer; None: the general way has the word. Raises Fault where the run failed.

        `remaining` is how many seconds the caller waits; None is for ever.
        """
        if len(data) < 4 or data[0] != _MODEL_ID or data[1] > _SMALL:
            return None
        at = 2 + data[1]
        model_id = data[2:at]
        given = b""
        if data[at : at + 1] == b"\x12":
            length = data[at + 1] if at + 1 < len(data) else 0x80
            if length > _SMALL:
                return None
            given = data[at + 2 : at + 2 + length]
            at += 2 + length
        if at >= len(data) or data[at] != _FEATURES or not model_id.isascii() or not given.isascii():
            return None
        try:
            model = self._repository.resolve(model_id.decode(), "")
        except Fault:
            return None
        plan = model.features
        seconds = self._max_request_seconds()
        if not isinstance(plan, Plan) or seconds <= 0:
            return None
        queue = self._engine.inline(model)
        if queue is None:
            return None
        row = plan.layouts.read(data, at)
        if row is None or not queue.is_inline(row):
            return None
        request_id = record.request_id = request_id_of(given.decode())
        record.answers(model.model_id, model.version)
        left = remaining()
        call = Call(None if left is None else time.monotonic() + left)
        call.within(seconds)
        try:
            result = queue.run_inline(model, row, plan.wanted, call)
            record.ran(result.queue_seconds, result.compute_seconds, result.rows, result.ended)
            parts = plan.answer.parts(result.outputs) if result.rows == 1 else None
            version = model.version.encode()
            if parts is None or len(version) > _SMALL:
                return answer_of(model, plan, request_id, result, record.begin).SerializeToString()
        except Fault as failure:
            raise logged(request_id, failure) from None
        name = request_id.encode()
        return b"".join(
            (
                b"\x0a",
                bytes([len(name)]),
                name,
                *parts,
                b"\x22",
                bytes([len(version)]),
                version,
                _TIMING % (_milliseconds(result.queue_seconds * 1e3), _milliseconds(result.compute_seconds * 1e3)),
                b"\x1d",
                _milliseconds((time.perf_counter() - record.begin) * 1e3),
            )
        )
