# SPDX-License-Identifier: Apache-2.0
"""What every method has around it: bytes to messages and back, and faults to statuses.

Faults leave their tracebacks here: a frame that holds its own would keep the request, and the model, until the garbage
collector comes by.

gRPC hands over and takes bytes. It would answer a malformed message itself, as INTERNAL and without details, and
grpc.aio does not tell whether a message came compressed, by which the answer is compressed or not; so both are done
here.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from concord_server import telemetry
from concord_server.fault import (
    Fault,
    Reason,
    Violation,
    cancelled,
    deadline_exceeded,
    from_violations,
    internal,
    shown,
)
from concord_server.model import Call
from concord_server.server.request import answer_too_large
from concord_server.server.status import code_of, trailers_of
from concord_server.telemetry import Calls, Record

__all__ = ["Guard", "Received"]

_log = telemetry.log(__name__)

Q = TypeVar("Q", bound=Message)
Context = grpc.aio.ServicerContext[bytes, bytes]

# No message begins so: the first byte would be a field of a wire type that there is not.
_GZIP = b"\x1f\x8b"
# More than this is unpacked off the event loop.
_QUICK_BYTES = 64 << 10
_EARLY_SECONDS = 0.01


class Received(Generic[Q]):
    """A request and what belongs to its call."""

    def __init__(self, message: Q, begin: float, call: Call, size: int, record: Record) -> None:
        self.message = message
        self.size = size
        """Bytes of the message: a large one is worked on off the event loop."""
        self.begin = begin
        """Of the call, by time.perf_counter()."""
        self.call = call
        self.record = record
        """Where a handler tells who answers."""


class Guard:
    """Makes gRPC handlers of methods that take and give messages and raise faults."""

    def __init__(self, max_message_bytes: int, calls: Calls | None = None) -> None:
        """`calls` hears of every call's beginning and end."""
        self._calls = calls or Calls()
        self._limit = max_message_bytes
        # How much more gRPC itself lets in, so that we answer the near misses, with details.
        self.library_limit = min(max_message_bytes + max_message_bytes // 8 + 1024, (1 << 31) - 1)

    def unary(
        self,
        method: str,
        request_type: type[Q],
        behavior: Callable[[Received[Q]], Awaitable[Message]],
        quick: Callable[[bytes, Callable[[], float | None], Record], bytes | None] | None = None,
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method with one request and one answer. `quick` is asked first, and gives None where it knows none."""

        calls, of = self._calls, self._calls.method(method)

        async def handle(data: bytes, context: Context) -> bytes:
            record = calls.begin(of, context)
            message: Message | None = None
            try:
                if quick is not None and len(data) <= self._limit:
                    packed = quick(data, context.time_remaining, record)
                    if packed is not None:
                        context.disable_next_message_compression()
                        calls.end(record)
                        return packed
                compressed = data.startswith(_GZIP)
                message = await self._receive(data, request_type)
                size = message.ByteSize() if compressed else len(data)
                answer = await behavior(Received(message, record.begin, _call(context), size, record))
                packed = self._pack(answer)
            except Fault as fault:
                failure = fault.with_traceback(None)
            except Exception as error:
                failure = _defect(method, record if message is None else message, error)
            except asyncio.CancelledError:
                _gone(calls, record, context)
                raise
            else:
                if not compressed:
                    context.disable_next_message_compression()
                calls.end(record)
                return packed
            calls.end(record, code_of(failure).name, failure.reason)
            await _abort(context, failure)
            return b""

        return grpc.unary_unary_rpc_method_handler(handle)

    def server_streaming(
        self, method: str, request_type: type[Q], behavior: Callable[[Received[Q]], AsyncIterator[Message]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method with one request and a stream of answers."""

        calls, of = self._calls, self._calls.method(method)

        async def handle(data: bytes, context: Context) -> None:
            record = calls.begin(of, context)
            message: Message | None = None
            try:
                compressed = data.startswith(_GZIP)
                message = await self._receive(data, request_type)
                size = message.ByteSize() if compressed else len(data)
                async for answer in behavior(Received(message, record.begin, _call(context), size, record)):
                    if not compressed:
                        context.disable_next_message_compression()
                    await context.write(self._pack(answer))
                calls.end(record)
                return
            except Fault as fault:
                failure = fault.with_traceback(None)
            except Exception as error:
                failure = _defect(method, message, error)
            except asyncio.CancelledError:
                _gone(calls, record, context)
                raise
            calls.end(record, code_of(failure).name, failure.reason)
            await _abort(context, failure)

        return grpc.unary_stream_rpc_method_handler(handle)

    def streaming(
        self,
        method: str,
        request_type: type[Q],
        behavior: Callable[[Received[Q], Callable[[bytes], Awaitable[None]]], Awaitable[None]],
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method with one request and a stream of answers, which it writes itself, as bytes.

        A stream of many small answers costs half as much so as `server_streaming`.
        """

        calls, of, limit = self._calls, self._calls.method(method), self._limit

        async def handle(data: bytes, context: Context) -> None:
            record = calls.begin(of, context)
            message: Message | None = None
            compressed = data.startswith(_GZIP)

            async def write(packed: bytes) -> None:
                if len(packed) > limit:
                    raise answer_too_large(len(packed), limit)
                if not compressed:
                    context.disable_next_message_compression()
                await context.write(packed)

            try:
                message = await self._receive(data, request_type)
                size = message.ByteSize() if compressed else len(data)
                received = Received(message, record.begin, _call(context), size, record)
                await behavior(received, write)
                calls.end(record)
                return
            except Fault as fault:
                failure = fault.with_traceback(None)
            except Exception as error:
                failure = _defect(method, message, error)
            except asyncio.CancelledError:
                _gone(calls, record, context)
                raise
            calls.end(record, code_of(failure).name, failure.reason)
            await _abort(context, failure)

        return grpc.unary_stream_rpc_method_handler(handle)

    def bidirectional(
        self, method: str, request_type: type[Q], behavior: Callable[[AsyncIterator[Q]], AsyncIterator[Message]]
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A method with a stream of requests and a stream of answers."""

        calls, of = self._calls, self._calls.method(method)

        async def handle(stream: AsyncIterator[bytes], context: Context) -> None:
            record = calls.begin(of, context)

            async def requests() -> AsyncIterator[Q]:
                async for data in stream:
                    yield await self._receive(data, request_type)

            try:
                async for answer in behavior(requests()):
                    context.disable_next_message_compression()
                    await context.write(self._pack(answer))
                calls.end(record)
                return
            except Fault as fault:
                failure = fault.with_traceback(None)
            except Exception as error:
                failure = _defect(method, None, error)
            except asyncio.CancelledError:
                _gone(calls, record, context)
                raise
            calls.end(record, code_of(failure).name, failure.reason)
            await _abort(context, failure)

        return grpc.stream_stream_rpc_method_handler(handle)

    def unserved(self, name: str) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Answers a method that is not served, of whatever shape, without reading a message."""
        calls, of = self._calls, self._calls.unserved()
        fault = Fault(Reason.METHOD_UNIMPLEMENTED, f"{shown(name.removeprefix('/'))} is not served here")

        async def refuse(_requests: AsyncIterator[bytes], context: Context) -> None:
            record = calls.begin(of, context)
            calls.end(record, code_of(fault).name, fault.reason)
            await _abort(context, fault)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _receive(self, data: bytes, request_type: type[Q]) -> Q:
        if data.startswith(_GZIP):
            if len(data) > _QUICK_BYTES:
                data = await asyncio.to_thread(self._unpack, data, request_type)
            else:
                data = self._unpack(data, request_type)
        if len(data) > self._limit:
            raise self._too_large(str(len(data)))
        try:
            return request_type.FromString(data)
        except DecodeError:
            raise _malformed(data, request_type) from None

    def _unpack(self, data: bytes, request_type: type[Message]) -> bytes:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            unpacked = unpacker.decompress(data, self.library_limit + 1)
        except zlib.error:
            raise _malformed(data, request_type) from None
        if len(unpacked) > self.library_limit:
            raise self._too_large("more")
        if not unpacker.eof or unpacker.unused_data:
            raise _malformed(data, request_type)
        return unpacked

    def _too_large(self, got: str) -> Fault:
        return Fault(Reason.MESSAGE_TOO_LARGE, f"expected a message of at most {self._limit} bytes, got {got}")

    def _pack(self, answer: Message) -> bytes:
        packed = answer.SerializeToString()
        if len(packed) > self._limit:
            raise answer_too_large(len(packed), self._limit)
        return packed


def _call(context: Context) -> Call:
    remaining = context.time_remaining()
    return Call(None if remaining is None else time.monotonic() + remaining)


def _malformed(data: bytes, request_type: type[Message]) -> Fault:
    name = request_type.DESCRIPTOR.full_name
    text = f"expected a message of type {name}, got {len(data)} bytes that are none"
    return from_violations([Violation(Reason.REQUEST_MALFORMED, "", text)])


def _defect(method: str, message: Message | Record | None, error: Exception) -> Fault:
    """Keeps a defect from the caller's eyes; the log has it, under the request's id."""
    request_id = shown(getattr(message, "request_id", ""))
    _log.error("request failed", method=method, request_id=request_id, reason=str(Reason.INTERNAL), cause=error)
    return internal(error.with_traceback(None))


def _gone(calls: Calls, record: Record, context: Context) -> None:
    """Ends a call whose caller waits no longer: he hung up, or his deadline passed.

    When it passes a caller hangs up too, and is often heard before the server's own clock gets there: that one began
    when the call came in, with a timeout that gRPC had rounded up by as much as a hundredth.
    """
    remaining = context.time_remaining()
    if remaining is None:
        fault = cancelled()
    else:
        whole = time.perf_counter() - record.begin + remaining
        fault = deadline_exceeded() if remaining <= _EARLY_SECONDS + whole / 100 else cancelled()
    calls.end(record, code_of(fault).name, fault.reason)


async def _abort(context: Context, fault: Fault) -> None:
    """Ends the call: gRPC raises its own exception through the handler."""
    await context.abort(code_of(fault), fault.message, trailers_of(fault))
