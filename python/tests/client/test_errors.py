# SPDX-License-Identifier: Apache-2.0
"""A status becomes a typed error with everything that its details say."""

from __future__ import annotations

import copy
import types
from typing import TYPE_CHECKING, Any

import concord_client
import grpc
import pytest
from concord_client import ConcordError, InvalidArgumentError, Violation
from concord_client._errors import error_from_status
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from tests.client.conftest import Connect, FakeServer

CLASSES = {
    grpc.StatusCode.INVALID_ARGUMENT: concord_client.InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: concord_client.NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: concord_client.FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: concord_client.ResourceExhaustedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: concord_client.DeadlineExceededError,
    grpc.StatusCode.CANCELLED: concord_client.CallCancelledError,
    grpc.StatusCode.UNAUTHENTICATED: concord_client.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: concord_client.PermissionDeniedError,
    grpc.StatusCode.UNIMPLEMENTED: concord_client.UnimplementedError,
    grpc.StatusCode.INTERNAL: concord_client.InternalError,
    grpc.StatusCode.UNAVAILABLE: concord_client.UnavailableError,
    grpc.StatusCode.UNKNOWN: ConcordError,
    grpc.StatusCode.ABORTED: ConcordError,
    grpc.StatusCode.DATA_LOSS: ConcordError,
}


@pytest.fixture
def rejecting(server: FakeServer, rejection: Any) -> FakeServer:
    def reject(request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata((("grpc-status-details-bin", rejection),))
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")

    server.predict = reject
    return server


def detailed() -> status_pb2.Status:
    status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message='feature "a": no (and 1 more)')
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field='features["a"]', description='feature "a": no')
    bad.field_violations.add(field='features["b"]', description='feature "b": no')
    info = error_details_pb2.ErrorInfo(
        reason="FEATURE_MISSING", domain="concord", metadata={"model_id": "m", "model_version": "2"}
    )
    for detail in (info, bad, error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))):
        status.details.add().Pack(detail)
    return status


@pytest.mark.parametrize("rejection", [detailed().SerializeToString()], ids=["detailed"])
def test_all_details_arrive(rejecting: FakeServer, connect: Connect) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        connect(rejecting.address).predict("m", {})
    error = caught.value
    # The code and message on the wire agree in a real server; here the details' message is the fuller one.
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "FEATURE_MISSING"
    assert error.message == 'feature "a": no (and 1 more)'
    assert error.violations == (
        Violation('features["a"]', 'feature "a": no'),
        Violation('features["b"]', 'feature "b": no'),
    )
    assert error.metadata == {"model_id": "m", "model_version": "2"}
    assert error.retry_delay == 1.5
    assert error.status == detailed()
    assert str(error) == 'INVALID_ARGUMENT FEATURE_MISSING: feature "a": no (and 1 more)'
    assert isinstance(error.__cause__, grpc.RpcError)


def _other_code() -> bytes:
    status = detailed()
    status.code = grpc.StatusCode.INTERNAL.value[0]
    serialized: bytes = status.SerializeToString()
    return serialized


@pytest.mark.parametrize("rejection", [b"\xff\xff no status", b"", _other_code()])
def test_details_that_are_none_leave_code_and_message(rejecting: FakeServer, connect: Connect) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        connect(rejecting.address).predict("m", {})
    assert (caught.value.message, caught.value.reason, caught.value.violations) == ("no", "", ())
    assert str(caught.value) == "INVALID_ARGUMENT: no"


def test_a_broken_detail_is_left_out() -> None:
    status = detailed()
    status.details[0].value = b"\xff\xff"
    status.details.append(AnyMessage(type_url="type.googleapis.com/unknown.Message", value=b"x"))
    error = error_from_status(status)
    assert error.reason == ""
    assert len(error.violations) == 2


@pytest.mark.parametrize(("code", "kind"), CLASSES.items())
def test_a_class_for_each_code(code: grpc.StatusCode, kind: type[ConcordError]) -> None:
    error = error_from_status(status_pb2.Status(code=code.value[0], message="m"))
    assert type(error) is kind
    assert error.code is code


def test_an_unknown_code_is_unknown() -> None:
    error = error_from_status(status_pb2.Status(code=4711, message="m"))
    assert type(error) is ConcordError
    assert error.code is grpc.StatusCode.UNKNOWN


def test_errors_survive_copying() -> None:
    error = copy.deepcopy(error_from_status(detailed()))
    assert isinstance(error, InvalidArgumentError)
    assert error.reason == "FEATURE_MISSING"
    assert error.retry_delay == 1.5


def test_every_error_is_public() -> None:
    for kind in set(CLASSES.values()):
        assert kind.__name__ in concord_client.__all__


def test_all_is_what_the_package_gives() -> None:
    public = {
        name
        for name, value in vars(concord_client).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)  # concord_client.command, once imported
    }
    assert public - {"annotations"} == set(concord_client.__all__)
