# SPDX-License-Identifier: Apache-2.0
"""A process of several that share one address, as its supervisor sees it and as it sees itself.

The two talk over a socket pair, one JSON object a line: the supervisor says first where to listen, the worker says
that it is ready, and from then on answers what it is asked. When the socket closes, the other one is gone.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["VARIABLE", "Line", "Worker"]

VARIABLE = "CONCORD_SERVER_WORKER"
"""Names the environment variable that makes a process a worker: the descriptor of its socket."""

_MOST_BYTES = 64 << 20  # of one line: metrics of thousands of models


class Line:
    """One end of the talk."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Line:
        """Talks over a socket, which it owns from then on."""
        return cls(*await asyncio.open_connection(sock=end, limit=_MOST_BYTES))

    def say(self, **message: Any) -> None:
        """Sends a message; whether it arrives shows when the other one answers."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def hear(self) -> dict[str, Any] | None:
        """The next message; None once the other one has gone."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            return None
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Ends the talk."""
        self._writer.close()


class Worker:
    """This process as a worker."""

    def __init__(self, line: Line, first: dict[str, Any]) -> None:
        self._line = line
        self.port = int(first["port"])
        """Of the address that the workers share."""
        self.cores = int(first["cores"])
        """The processors that are this worker's share, at least 1."""
        self._answering: asyncio.Task[None] | None = None

    @staticmethod
    def is_one() -> bool:
        """Whether this process was started as a worker."""
        return VARIABLE in os.environ

    @classmethod
    async def started(cls) -> Worker:
        """This process, when it has heard its first message."""
        # Not for processes that this one starts.
        descriptor = int(os.environ.pop(VARIABLE))
        line = await Line.over(socket.socket(fileno=descriptor))
        first = await line.hear()
        if first is None:
            raise RuntimeError("the supervisor has gone")
        return cls(line, first)

    def follow(self, packed: Callable[[], Awaitable[bytes]], gone: Callable[[], None]) -> None:
        """Answers the supervisor from now on: `packed` gives the metrics, `gone` is called once he is gone."""

        async def answer() -> None:
            while await self._line.hear() is not None:  # there is one question
                self._line.say(metrics=base64.b64encode(await packed()).decode())
            gone()

        self._answering = asyncio.ensure_future(answer())

    def ready(self) -> None:
        """Says that it serves."""
        self._line.say(ready=True)
