# SPDX-License-Identifier: Apache-2.0
"""What a call can fail with.

    ConcordError                  any failed call; the classes below say with which status code
    ├── InvalidArgumentError      the request does not fit the contract or the model; `violations` say where
    ├── NotFoundError             no such model, version or label
    ├── FailedPreconditionError   the model failed to load, or cannot do this call
    ├── UnavailableError          not now: loading, shutting down, or nobody answers at the address
    ├── ResourceExhaustedError    a limit; for a full queue `retry_delay` is set
    ├── DeadlineExceededError     the time ran out
    ├── CallCancelledError        the call was cancelled: by the server, or because the client was closed
    ├── UnauthenticatedError      no credentials, or unknown ones
    ├── PermissionDeniedError     known credentials that may not do this
    ├── UnimplementedError        the server does not serve this method
    └── InternalError             the model failed on this input, or the server has a defect

A code that no Concord server sends (UNKNOWN, ABORTED, ...) is a plain ConcordError. Misuse of the client itself -
contradicting options, a closed client - is a ValueError or RuntimeError, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
# Where gRPC carries a serialized google.rpc.Status.
_DETAILS_KEY = "grpc-status-details-bin"

_M = TypeVar("_M", bound=Message)


class Violation(NamedTuple):
    """One thing wrong with a request."""

    field: str
    """Path in the request in proto names, for example ``features["mean radius"]``."""
    description: str
    """What was expected and what came."""


class ConcordError(Exception):
    """A call failed. Built from a google.rpc.Status; survives pickling and copying as other exceptions do."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status)
        self.status = status
        """The whole status, with all details."""
        self.code: grpc.StatusCode = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        self.message: str = status.message
        self.reason = ""
        """Name of an inference.v1.ErrorReason without its prefix ("FEATURE_MISSING"), for programs. Empty where no
        Concord server spoke: a broken connection, a proxy, another kind of server."""
        self.metadata: dict[str, str] = {}
        """What the reason is about: model_id and model_version where they are known."""
        self.violations: tuple[Violation, ...] = ()
        """For InvalidArgumentError: everything that is wrong with the request, in order; at most 16."""
        self.retry_delay: float | None = None
        """Seconds after which a retry may help; None where the server names no delay."""
        for detail in status.details:
            if info := _unpack(detail, error_details_pb2.ErrorInfo):
                self.reason = info.reason
                self.metadata = dict(info.metadata)
            elif bad := _unpack(detail, error_details_pb2.BadRequest):
                self.violations = tuple(Violation(v.field, v.description) for v in bad.field_violations)
            elif retry := _unpack(detail, error_details_pb2.RetryInfo):
                self.retry_delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9

    def __str__(self) -> str:
        return f"{self.code.name}{f' {self.reason}' if self.reason else ''}: {self.message}"


class InvalidArgumentError(ConcordError):
    """The request does not fit the contract or the model. A retry meets the same."""


class NotFoundError(ConcordError):
    """No such model, version or label."""


class FailedPreconditionError(ConcordError):
    """The model version failed to load, or this kind of model cannot do this call."""


class UnavailableError(ConcordError):
    """Not now: the model is loading, the server is shutting down, or nobody answers. The client has retried already."""


class ResourceExhaustedError(ConcordError):
    """A limit was met. Only a full queue (reason QUEUE_FULL, `retry_delay` set) is worth a retry."""


class DeadlineExceededError(ConcordError):
    """The time ran out, on the way, in the server's queue or during execution."""


class CallCancelledError(ConcordError):
    """The call was cancelled: by the server, or because the client was closed meanwhile."""


class UnauthenticatedError(ConcordError):
    """No credentials, or none that the server knows."""


class PermissionDeniedError(ConcordError):
    """The server knows the caller, who may not do this."""


class UnimplementedError(ConcordError):
    """The server does not serve this method."""


class InternalError(ConcordError):
    """The model failed on this input (reason MODEL_EXECUTION_FAILED), or the server has a defect (reason INTERNAL)."""


_CLASSES: Mapping[grpc.StatusCode, type[ConcordError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CallCancelledError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
}


def error_from_status(status: status_pb2.Status) -> ConcordError:
    """The error that belongs to a status, for example one item's of a batch."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _CLASSES.get(code, ConcordError)(status)


def error_from_call(error: grpc.RpcError) -> ConcordError:
    """The error of a failed call, of grpc or grpc.aio."""
    # Every RpcError that a call raises is a grpc.Call as well; the type of grpc's does not say so.
    code: grpc.StatusCode = error.code()
    status = _status_details(error.trailing_metadata() or ())
    # A proxy may have changed the code after the details were written; the code is what holds.
    if status.code != code.value[0]:
        status = status_pb2.Status(code=code.value[0], message=error.details() or "")
    found = error_from_status(status)
    found.__cause__ = error
    return found


def cancelled_here() -> ConcordError:
    """The error of a call that ended because its client was closed."""
    return _made_here(grpc.StatusCode.CANCELLED, "the client was closed during the call")


def out_of_time() -> ConcordError:
    """The error of a call whose time was over before it was sent."""
    return _made_here(grpc.StatusCode.DEADLINE_EXCEEDED, "the time was over before the call")


def defect(message: str) -> ConcordError:
    """The error of a call whose answer no server should give."""
    return _made_here(grpc.StatusCode.INTERNAL, f"the server's answer breaks the contract: {message}")


def _made_here(code: grpc.StatusCode, message: str) -> ConcordError:
    return error_from_status(status_pb2.Status(code=code.value[0], message=message))


def refusal(reason: str, violations: Iterable[Violation], metadata: Mapping[str, str]) -> ConcordError:
    """An InvalidArgumentError found before sending, in the form in which a server would have sent it."""
    listed = list(violations)
    code: int = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    more = f" (and {len(listed) - 1} more)" if len(listed) > 1 else ""
    status = status_pb2.Status(code=code, message=listed[0].description + more)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="concord", metadata=metadata))
    bad = error_details_pb2.BadRequest()
    for violation in listed:
        bad.field_violations.add(field=violation.field, description=violation.description)
    status.details.add().Pack(bad)
    return error_from_status(status)


def _status_details(metadata: Iterable[Any]) -> status_pb2.Status:
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break  # details are extra: the code and message of the call still hold
    return status_pb2.Status()


def _unpack(detail: AnyMessage, kind: type[_M]) -> _M | None:
    message = kind()
    try:
        return message if detail.Unpack(message) else None
    except DecodeError:
        return None
