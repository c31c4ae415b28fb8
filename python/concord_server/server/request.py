# SPDX-License-Identifier: Apache-2.0
"""What the methods that take requests and batches of them have in common."""

from __future__ import annotations

import secrets

import grpc

from concord_server import fault, telemetry
from concord_server.fault import Fault, Reason, shown
from concord_server.model import answer_too_large
from concord_server.server.status import code_of

__all__ = ["answer_too_large", "check_batch", "logged", "request_id_of"]

_log = telemetry.log(__name__)


def request_id_of(given: str) -> str:
    """The request's own id or, where that is empty, 128 random bits."""
    return given or secrets.token_hex(16)


def check_batch(requests: int, most: int) -> None:
    """Raises Fault where a batch holds no request, or more than `most`."""
    if requests == 0:
        raise fault.invalid(Reason.BATCH_EMPTY, "requests", "expected at least 1 request, got 0")
    if requests > most:
        text = f"expected at most {most} requests, got {requests}"
        raise fault.invalid(Reason.BATCH_TOO_LARGE, "requests", text)


def logged(request_id: str, failure: Fault) -> Fault:
    """Logs a fault that is not the caller's."""
    if code_of(failure) is grpc.StatusCode.INTERNAL:
        _log.error(
            "request failed",
            request_id=shown(request_id),
            reason=str(failure.reason),
            model_id=failure.model_id,
            model_version=failure.model_version,
            cause=str(failure.__cause__ or failure.message),
        )
    return failure
