# SPDX-License-Identifier: Apache-2.0
"""The HTTP listener: /healthz answers while the process lives, /readyz tells whether the server is serving."""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus

from concord_server.server.health import Health

__all__ = ["HttpListener"]

_HEAD_SECONDS = 10
_HEAD_BYTES = 16 << 10


class HttpListener:
    """Answers one request a connection. Two fixed paths need no framework."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens, and gives the port. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host or None, port, limit=_HEAD_BYTES)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whatever comes or does not come, the connection ends; whose fault it was is not worth a line in the log.
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, text, with_body = self._answer(head.partition(b"\r\n")[0])
                body = text.encode()
                lines = (
                    f"HTTP/1.1 {status.value} {status.phrase}",
                    "Content-Type: text/plain; charset=utf-8",
                    f"Content-Length: {len(body)}",
                    "Connection: close",
                )
                writer.write("\r\n".join((*lines, "", "")).encode() + (body if with_body else b""))
                await writer.drain()
        writer.close()

    def _answer(self, request_line: bytes) -> tuple[HTTPStatus, str, bool]:
        match request_line.split(b" "):
            case [method, target, version] if version.startswith(b"HTTP/1."):
                path = target.partition(b"?")[0]
            case _:
                return HTTPStatus.BAD_REQUEST, "bad request", True
        if method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed", True
        with_body = method == b"GET"
        if path == b"/healthz":
            return HTTPStatus.OK, "ok", with_body
        if path == b"/readyz":
            if self._health.serving:
                return HTTPStatus.OK, "ok", with_body
            return HTTPStatus.SERVICE_UNAVAILABLE, "not serving", with_body
        return HTTPStatus.NOT_FOUND, "not found", with_body
