# SPDX-License-Identifier: Apache-2.0
"""gRPC reflection, as grpcio brings it: v1alpha, and v1 of the same messages on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

import grpc
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection, reflection_pb2

from concord_server.fault import Fault, Reason
from concord_server.server.guard import Guard

__all__ = ["handlers"]


def handlers(
    guard: Guard, services: Iterable[str], ended: asyncio.Event
) -> Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]:
    """The handlers by method, describing these services and themselves.

    Their streams end once `ended` is set: a caller who keeps one open would hold up the drain.
    """
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))

    async def info(requests: AsyncIterator[reflection_pb2.ServerReflectionRequest]) -> AsyncIterator[Message]:
        async for answer in servicer.ServerReflectionInfo(_until(ended, requests), None):
            yield answer

    methods = {}
    for service in (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection"):
        method = f"/{service}/ServerReflectionInfo"
        methods[method] = guard.bidirectional(method, reflection_pb2.ServerReflectionRequest, info)
    return methods


async def _until(
    ended: asyncio.Event, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest]
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    ending = asyncio.ensure_future(ended.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(requests, None))
            await asyncio.wait((coming, ending), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                raise Fault(Reason.SERVER_DRAINING, "the server is shutting down")
            request = coming.result()
            if request is None:
                return
            yield request
    finally:
        ending.cancel()
