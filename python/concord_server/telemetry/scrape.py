# SPDX-License-Identifier: Apache-2.0
"""Answers scrapers for all processes of a server, whichever process they reach."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from concord_server.telemetry.counts import Counts
from concord_server.telemetry.metrics import Metrics

__all__ = ["Scraped"]


class Scraped:
    """What scrapers get. Numbers are copied on the event loop, and made text in a thread: that takes milliseconds."""

    def __init__(
        self, counts: Counts, metrics: Metrics, others: Callable[[], Awaitable[Iterable[bytes]]] | None = None
    ) -> None:
        """`others` asks the other processes of the same server for what `packed` gives there."""
        self._counts = counts
        self._metrics = metrics
        self._others = others

    async def text(self, accept: str) -> tuple[str, bytes]:
        """The metrics of all processes together, for an Accept header: their content type, and the text."""
        others = () if self._others is None else await self._others()
        return await asyncio.to_thread(self._metrics.text, self._counts.copy(), others, accept)

    async def packed(self) -> bytes:
        """The metrics of this process, for `text` in another one."""
        return await asyncio.to_thread(self._metrics.packed, self._counts.copy())
