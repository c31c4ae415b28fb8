# SPDX-License-Identifier: Apache-2.0
"""Faults to gRPC statuses with their details."""

from __future__ import annotations

from typing import NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from concord_server.fault import Fault, Reason
from concord_server.model import is_id, is_version

__all__ = ["TABLE", "code_of", "status_of", "trailers_of"]

_DOMAIN = "concord"
# A status travels in HTTP/2 headers, and many clients take 8 KiB of them in all.
_MAX_STATUS_BYTES = 6 << 10
# A version number may be of any length, metadata may not.
_MAX_VERSION_CHARACTERS = 128

_CODE = grpc.StatusCode


class Row(NamedTuple):
    """What gRPC makes of a reason."""

    code: grpc.StatusCode
    retry_seconds: float = 0
    """0: a retry does not help."""


# The only place where reasons meet status codes.
TABLE = {
    Reason.MODEL_NOT_FOUND: Row(_CODE.NOT_FOUND),
    Reason.VERSION_NOT_FOUND: Row(_CODE.NOT_FOUND),
    Reason.LABEL_NOT_FOUND: Row(_CODE.NOT_FOUND),
    Reason.SERVICE_NOT_FOUND: Row(_CODE.NOT_FOUND),
    Reason.MODEL_ID_INVALID: Row(_CODE.INVALID_ARGUMENT),
    Reason.MODEL_VERSION_INVALID: Row(_CODE.INVALID_ARGUMENT),
    Reason.FEATURE_MISSING: Row(_CODE.INVALID_ARGUMENT),
    Reason.FEATURE_UNKNOWN: Row(_CODE.INVALID_ARGUMENT),
    Reason.FEATURE_TYPE_MISMATCH: Row(_CODE.INVALID_ARGUMENT),
    Reason.FEATURE_SHAPE_MISMATCH: Row(_CODE.INVALID_ARGUMENT),
    Reason.FEATURE_OUT_OF_RANGE: Row(_CODE.INVALID_ARGUMENT),
    Reason.TENSOR_MISSING: Row(_CODE.INVALID_ARGUMENT),
    Reason.TENSOR_UNKNOWN: Row(_CODE.INVALID_ARGUMENT),
    Reason.TENSOR_DTYPE_MISMATCH: Row(_CODE.INVALID_ARGUMENT),
    Reason.TENSOR_SHAPE_MISMATCH: Row(_CODE.INVALID_ARGUMENT),
    Reason.TENSOR_DATA_INVALID: Row(_CODE.INVALID_ARGUMENT),
    Reason.OUTPUT_UNKNOWN: Row(_CODE.INVALID_ARGUMENT),
    Reason.CONFIG_INVALID: Row(_CODE.INVALID_ARGUMENT),
    Reason.BATCH_EMPTY: Row(_CODE.INVALID_ARGUMENT),
    Reason.BATCH_TOO_LARGE: Row(_CODE.INVALID_ARGUMENT),
    Reason.REQUEST_MALFORMED: Row(_CODE.INVALID_ARGUMENT),
    Reason.METHOD_NOT_SUPPORTED: Row(_CODE.FAILED_PRECONDITION),
    Reason.MODEL_FAILED: Row(_CODE.FAILED_PRECONDITION),
    Reason.MODEL_LOADING: Row(_CODE.UNAVAILABLE, retry_seconds=1),
    Reason.SERVER_DRAINING: Row(_CODE.UNAVAILABLE, retry_seconds=1),
    Reason.QUEUE_FULL: Row(_CODE.RESOURCE_EXHAUSTED, retry_seconds=0.1),
    Reason.MESSAGE_TOO_LARGE: Row(_CODE.RESOURCE_EXHAUSTED),
    Reason.OUTPUT_TOO_LARGE: Row(_CODE.RESOURCE_EXHAUSTED),
    Reason.STREAM_LIMIT: Row(_CODE.RESOURCE_EXHAUSTED),
    Reason.DEADLINE_EXCEEDED: Row(_CODE.DEADLINE_EXCEEDED),
    Reason.CANCELLED: Row(_CODE.CANCELLED),
    Reason.UNAUTHENTICATED: Row(_CODE.UNAUTHENTICATED),
    Reason.PERMISSION_DENIED: Row(_CODE.PERMISSION_DENIED),
    Reason.MODEL_EXECUTION_FAILED: Row(_CODE.INTERNAL),
    Reason.INTERNAL: Row(_CODE.INTERNAL),
    Reason.METHOD_UNIMPLEMENTED: Row(_CODE.UNIMPLEMENTED),
    Reason.VERSION_EXISTS: Row(_CODE.ALREADY_EXISTS),
    Reason.LABEL_INVALID: Row(_CODE.INVALID_ARGUMENT),
    Reason.STAGING_UNSET: Row(_CODE.FAILED_PRECONDITION),
    Reason.PROMPT_TOO_LONG: Row(_CODE.INVALID_ARGUMENT),
    Reason.PROMPT_INVALID: Row(_CODE.INVALID_ARGUMENT),
}


def code_of(fault: Fault) -> grpc.StatusCode:
    """The status code of a fault."""
    return TABLE[fault.reason].code


def status_of(fault: Fault) -> status_pb2.Status:
    """The status of a fault, with its details."""
    code, retry_seconds = TABLE[fault.reason]
    status = status_pb2.Status(code=code.value[0], message=fault.message)
    info = error_details_pb2.ErrorInfo(reason=fault.reason, domain=_DOMAIN)
    if is_id(fault.model_id):
        info.metadata["model_id"] = fault.model_id
        if is_version(fault.model_version) and len(fault.model_version) <= _MAX_VERSION_CHARACTERS:
            info.metadata["model_version"] = fault.model_version
    status.details.add().Pack(info)
    if code is _CODE.INVALID_ARGUMENT:
        bad = error_details_pb2.BadRequest()
        room = _MAX_STATUS_BYTES - status.ByteSize()
        for violation in fault.violations:
            bad.field_violations.add(field=violation.field, description=violation.message)
            if bad.ByteSize() > room and len(bad.field_violations) > 1:
                bad.field_violations.pop()
                break
        status.details.add().Pack(bad)
    if retry_seconds:
        retry_seconds = fault.retry_seconds or retry_seconds
        delay = Duration(seconds=int(retry_seconds), nanos=round(retry_seconds % 1 * 1e3) * 1_000_000)
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def trailers_of(fault: Fault) -> tuple[tuple[str, str | bytes], ...]:
    """The trailers of a call that ends with a fault: its status with the details, and when to come back."""
    status = ("grpc-status-details-bin", status_of(fault).SerializeToString())
    if fault.reason is not Reason.QUEUE_FULL:
        return (status,)
    # gRPC's clients that retry by themselves wait so long.
    seconds = fault.retry_seconds or TABLE[fault.reason].retry_seconds
    return (status, ("grpc-retry-pushback-ms", str(round(seconds * 1000))))
