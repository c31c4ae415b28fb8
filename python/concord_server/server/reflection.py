# SPDX-License-Identifier: Apache-2.0
"""gRPC reflection, as grpcio brings it: v1alpha, and v1 of the same messages on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

import grpc
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection, reflection_pb2

from concord_server.server.guard import Guard

__all__ = ["handlers"]


def handlers(guard: Guard, services: Iterable[str]) -> Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]:
    """The handlers by method, describing these services and themselves."""
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))

    async def info(requests: AsyncIterator[reflection_pb2.ServerReflectionRequest]) -> AsyncIterator[Message]:
        async for answer in servicer.ServerReflectionInfo(requests, None):
            yield answer

    methods = {}
    for service in (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection"):
        method = f"/{service}/ServerReflectionInfo"
        methods[method] = guard.bidirectional(method, reflection_pb2.ServerReflectionRequest, info)
    return methods
