# SPDX-License-Identifier: Apache-2.0
"""The failures that a caller sees: a reason for programs, a message for people, the place in the request.

How a failure travels is not the subject here.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "MAX_VIOLATIONS",
    "Fault",
    "Reason",
    "Violation",
    "cancelled",
    "deadline_exceeded",
    "from_violations",
    "internal",
    "invalid",
    "quote",
    "scrub",
    "shown",
    "too_long",
]

MAX_VIOLATIONS = 16
"""Most violations that one fault reports."""

_SHOWN_CHARACTERS = 64
_RUNTIME_CHARACTERS = 300


class Reason(enum.StrEnum):
    """Why a call failed; the names are those of inference.v1.ErrorReason without its prefix."""

    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    VERSION_NOT_FOUND = "VERSION_NOT_FOUND"
    LABEL_NOT_FOUND = "LABEL_NOT_FOUND"
    MODEL_ID_INVALID = "MODEL_ID_INVALID"
    MODEL_VERSION_INVALID = "MODEL_VERSION_INVALID"
    FEATURE_MISSING = "FEATURE_MISSING"
    FEATURE_UNKNOWN = "FEATURE_UNKNOWN"
    FEATURE_TYPE_MISMATCH = "FEATURE_TYPE_MISMATCH"
    FEATURE_SHAPE_MISMATCH = "FEATURE_SHAPE_MISMATCH"
    FEATURE_OUT_OF_RANGE = "FEATURE_OUT_OF_RANGE"
    TENSOR_MISSING = "TENSOR_MISSING"
    TENSOR_UNKNOWN = "TENSOR_UNKNOWN"
    TENSOR_DTYPE_MISMATCH = "TENSOR_DTYPE_MISMATCH"
    TENSOR_SHAPE_MISMATCH = "TENSOR_SHAPE_MISMATCH"
    TENSOR_DATA_INVALID = "TENSOR_DATA_INVALID"
    OUTPUT_UNKNOWN = "OUTPUT_UNKNOWN"
    CONFIG_INVALID = "CONFIG_INVALID"
    BATCH_EMPTY = "BATCH_EMPTY"
    BATCH_TOO_LARGE = "BATCH_TOO_LARGE"
    REQUEST_MALFORMED = "REQUEST_MALFORMED"
    METHOD_NOT_SUPPORTED = "METHOD_NOT_SUPPORTED"
    MODEL_FAILED = "MODEL_FAILED"
    MODEL_LOADING = "MODEL_LOADING"
    SERVER_DRAINING = "SERVER_DRAINING"
    QUEUE_FULL = "QUEUE_FULL"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"
    STREAM_LIMIT = "STREAM_LIMIT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    MODEL_EXECUTION_FAILED = "MODEL_EXECUTION_FAILED"
    INTERNAL = "INTERNAL"
    METHOD_UNIMPLEMENTED = "METHOD_UNIMPLEMENTED"
    SERVICE_NOT_FOUND = "SERVICE_NOT_FOUND"
    VERSION_EXISTS = "VERSION_EXISTS"
    LABEL_INVALID = "LABEL_INVALID"
    STAGING_UNSET = "STAGING_UNSET"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    PROMPT_INVALID = "PROMPT_INVALID"


class Violation(NamedTuple):
    """One thing wrong with a request.

    `field` is the path in the request in proto names, for example `features["mean radius"]`.
    """

    reason: Reason
    field: str
    message: str


class Fault(Exception):
    """A failure that a caller sees; its text is the message for the caller.

    `model_id` and `model_version` are empty where unknown or malformed. `__cause__` is for the log alone.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        model_id: str = "",
        model_version: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.model_id = model_id
        self.model_version = model_version
        self.retry_seconds = 0.0
        """When a retry may help; 0 is what the reason says."""

    def at(self, model_id: str, model_version: str = "") -> Fault:
        """This fault, with the model that it concerns; a model already named stays."""
        if not self.model_id:
            self.model_id, self.model_version = model_id, model_version
        return self


def invalid(reason: Reason, field: str, text: str) -> Fault:
    """The fault of one violation; its message is `<field>: <text>`."""
    return from_violations([Violation(reason, field, f"{field}: {text}")])


def from_violations(violations: Sequence[Violation]) -> Fault:
    """The fault of all that is wrong with a request, of which the first MAX_VIOLATIONS are reported; at least one."""
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return Fault(first.reason, first.message + more, violations=violations[:MAX_VIOLATIONS])


def internal(cause: BaseException) -> Fault:
    """Hides a defect of the server from the caller and keeps it for the log."""
    fault = Fault(Reason.INTERNAL, "internal error")
    fault.__cause__ = cause
    return fault


def deadline_exceeded() -> Fault:
    """The caller's deadline passed before there was an answer."""
    return Fault(Reason.DEADLINE_EXCEEDED, "the deadline passed")


def too_long(most_seconds: float) -> Fault:
    """The call took longer than the server lets any."""
    text = f"the server's longest time for a request passed: {round(most_seconds * 1000)} ms"
    return Fault(Reason.DEADLINE_EXCEEDED, text)


def cancelled() -> Fault:
    """The caller no longer waits."""
    return Fault(Reason.CANCELLED, "the caller cancelled")


def shown(text: str) -> str:
    """At most the first 64 characters of a text that came with a request, then `...`."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def quote(text: str) -> str:
    """At most the first 64 characters of a text, quoted as in JSON, then `...`."""
    quoted = json.dumps(text[:_SHOWN_CHARACTERS], ensure_ascii=False)
    return quoted if len(text) <= _SHOWN_CHARACTERS else quoted + "..."


_PATH = re.compile(r"[^ \t\r\n]*[/\\][^ \t\r\n]*")
_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]+")
_BREAKS = re.compile(r"[ \t\r\n]+")


def scrub(message: str) -> str:
    """A library's own message made fit for callers: one line, no path, no address, at most 300 characters."""
    # Lone surrogates stand for bytes that were no UTF-8; no message can carry them.
    message = message.encode("utf-8", "replace").decode("utf-8")
    message = _PATH.sub("<...>", message)
    message = _ADDRESS.sub("<...>", message)
    return _BREAKS.sub(" ", message).strip(" ")[:_RUNTIME_CHARACTERS]
