# SPDX-License-Identifier: Apache-2.0
"""Threads for the work that would hold up the event loop: ONNX Runtime lets go of the interpreter while it runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from concord_server.model import Call

__all__ = ["Executor"]

T = TypeVar("T")

_LEAST_THREADS = 4  # so that a few slow runs on a small machine leave room for the quick ones


class Executor:
    """A few threads and the queue before them."""

    def __init__(self, threads: int | None = None) -> None:
        count = threads or max(_LEAST_THREADS, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="run")
        self._running = 0

    async def run(self, call: Call, work: Callable[[float], T]) -> T:
        """Does `work`, which is told the seconds that it waited for a thread.

        Raises the call's Fault where it ended in the queue. When the caller is cancelled, so is the call; a run under
        way ends as soon as it can, and nobody waits for it.
        """
        queued = time.perf_counter()

        def job() -> T:
            self._running += 1
            try:
                call.check()
                return work(time.perf_counter() - queued)
            finally:
                self._running -= 1

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, job)
        except asyncio.CancelledError:
            call.cancel()
            raise

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self._running > 0

    def close(self) -> None:
        """Begins nothing more and waits for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
