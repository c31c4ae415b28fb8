# SPDX-License-Identifier: Apache-2.0
"""The HTTP listener, for operators: /healthz, /readyz, /metrics and, on loopback, /debug/profile."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs

from concord_server import telemetry
from concord_server.fault import quote
from concord_server.server.health import Health
from concord_server.telemetry.profile import MOST_SECONDS, BusyError, Profile

__all__ = ["HttpListener", "Scrape"]

_log = telemetry.log(__name__)

Scrape = Callable[[str], Awaitable[tuple[str, bytes]]]
"""Gives the metrics to whom an Accept header says what he takes: their content type, and the text."""

_HEAD_SECONDS = 10
_WRITE_SECONDS = 30
_HEAD_BYTES = 16 << 10
_PROFILE_SECONDS = 10.0
_TEXT = "text/plain; charset=utf-8"


class _Answer(NamedTuple):
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


class _Request(NamedTuple):
    method: bytes
    path: bytes
    query: bytes
    accept: str


class HttpListener:
    """Answers one request a connection. Four fixed paths need no framework."""

    def __init__(self, health: Health, scrape: Scrape | None = None) -> None:
        self._health = health
        self._scrape = scrape
        self._profile = Profile()
        self._on_loopback = False
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens, and gives the port. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host or None, port, limit=_HEAD_BYTES)
        names = [socket.getsockname() for socket in self._server.sockets]
        self._on_loopback = all(ipaddress.ip_address(name[0]).is_loopback for name in names)
        bound: int = names[0][1]
        return bound

    def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Whatever comes or does not come, the connection ends; whose fault it was is not worth a line in the log.
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_HEAD_SECONDS):
                    request = _parsed(await reader.readuntil(b"\r\n\r\n"))
                answer = await self._answer(request)
                lines = (
                    f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
                    f"Content-Type: {answer.content_type}",
                    f"Content-Length: {len(answer.body)}",
                    "Connection: close",
                )
                with_body = request is None or request.method != b"HEAD"
                async with asyncio.timeout(_WRITE_SECONDS):
                    writer.write("\r\n".join((*lines, "", "")).encode() + (answer.body if with_body else b""))
                    await writer.drain()
        finally:
            writer.close()

    async def _answer(self, request: _Request | None) -> _Answer:
        if request is None:
            return _Answer(HTTPStatus.BAD_REQUEST, b"bad request")
        if request.method not in (b"GET", b"HEAD"):
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"method not allowed")
        match request.path:
            case b"/healthz":
                return _Answer(HTTPStatus.OK, b"ok")
            case b"/readyz":
                if self._health.serving:
                    return _Answer(HTTPStatus.OK, b"ok")
                return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"not serving")
            case b"/metrics" if self._scrape is not None:
                return await _metrics(self._scrape, request.accept)
            case b"/debug/profile" if self._on_loopback:
                return await self._profiled(request.query)
        return _Answer(HTTPStatus.NOT_FOUND, b"not found")

    async def _profiled(self, query: bytes) -> _Answer:
        text = parse_qs(query.decode("ascii", "replace")).get("seconds", [str(_PROFILE_SECONDS)])[-1]
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= MOST_SECONDS:
            why = f"seconds: expected a number over 0 and at most {MOST_SECONDS:g}, got {quote(text)}"
            return _Answer(HTTPStatus.BAD_REQUEST, why.encode("utf-8", "replace"))
        try:
            return _Answer(HTTPStatus.OK, (await self._profile.take(seconds)).encode())
        except BusyError:
            return _Answer(HTTPStatus.CONFLICT, b"a profile is being made")


async def _metrics(scrape: Scrape, accept: str) -> _Answer:
    try:
        content_type, text = await scrape(accept)
    except Exception as error:  # the scraper is told that something is wrong, the log what
        _log.error("metrics failed", cause=error)
        return _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error")
    return _Answer(HTTPStatus.OK, text, content_type)


def _parsed(head: bytes) -> _Request | None:
    """The request of a head; None where it is none."""
    line, *headers = head.split(b"\r\n")
    match line.split(b" "):
        case [method, target, version] if version.startswith(b"HTTP/1."):
            path, _, query = target.partition(b"?")
        case _:
            return None
    accept = [
        value.strip().decode("latin-1") for name, _, value in (h.partition(b":") for h in headers)
        if name.strip().lower() == b"accept"
    ]  # fmt: skip
    return _Request(method, path, query, ",".join(accept))
