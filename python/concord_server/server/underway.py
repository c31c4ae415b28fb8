# SPDX-License-Identifier: Apache-2.0
"""Which calls are under way: from a handler's begin until gRPC has handed its whole answer to the kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

__all__ = ["UnderWay", "ports"]

Context = grpc.aio.ServicerContext[bytes, bytes]


class UnderWay:
    """Knows the calls that are under way."""

    def __init__(self) -> None:
        self._calls: set[Context] = set()

    def now(self) -> frozenset[Context]:
        """Those that are under way."""
        return frozenset(self._calls)

    def noting(self, handler: Any) -> Any:
        """The same handler, whose calls are noted."""
        unary, stream, both = handler.unary_unary, handler.unary_stream, handler.stream_stream

        async def unary_unary(data: bytes, context: Context) -> bytes:
            self._begin(context)
            answer: bytes = await unary(data, context)
            return answer

        async def unary_stream(data: bytes, context: Context) -> None:
            self._begin(context)
            await stream(data, context)

        async def stream_stream(requests: AsyncIterator[bytes], context: Context) -> None:
            self._begin(context)
            await both(requests, context)

        return handler._replace(
            unary_unary=unary and unary_unary,
            unary_stream=stream and unary_stream,
            stream_stream=both and stream_stream,
        )

    def _begin(self, context: Context) -> None:
        self._calls.add(context)
        # Called when the answer is written, or the call is cancelled.
        context.add_done_callback(self._calls.discard)  # type: ignore[arg-type] # the stubs want one class alone


def ports(calls: Iterable[Context]) -> set[int]:
    """The ports that calls come from: for ending connections, more than one that share a port is one too few ended."""
    found = set()
    for call in calls:
        port = call.peer().rpartition(":")[2]
        if port.isdecimal():
            found.add(int(port))
    return found
