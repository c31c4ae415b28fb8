# SPDX-License-Identifier: Apache-2.0
"""Follows a repository: it is looked at in a period and, where the operating system tells of changes, soon after each.

The looks alone decide what is true.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from concord_server.repository.repository import Repository
from concord_server.repository.rhythm import Rhythm
from concord_server.repository.watch import Watch

__all__ = ["Follower"]


class Follower:
    """Follows a repository. All its methods are of one event loop."""

    def __init__(self, repository: Repository, period: float) -> None:
        """`period` is in seconds; 0 is never, whatever changes."""
        self._repository = repository
        self._period = period
        self._woken = asyncio.Event()
        self._changed = False

    def set_period(self, period: float) -> None:
        """Changes the period."""
        self._period = period
        self._woken.set()

    async def run(self) -> None:
        """Follows until it is cancelled."""
        while True:
            if self._period:
                watch = Watch(self._tell, "the repository")
                try:
                    while self._period:
                        await self._follow(self._period, watch)
                finally:
                    watch.close()
            self._woken.clear()
            await self._woken.wait()

    def _tell(self) -> None:
        self._changed = True
        self._woken.set()

    async def _follow(self, period: float, watch: Watch) -> None:
        """Follows while the period is this one."""
        rhythm = Rhythm(period, time.monotonic())
        self._tell()  # what has changed between the last look and the watch was not told
        while self._period == period:
            self._woken.clear()
            if self._changed:
                self._changed = False
                rhythm.changed(time.monotonic())
            due, look = rhythm.next
            if (left := due - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), left)
                continue
            begin = time.monotonic()
            # In a thread: a disk may be slow.
            more = await asyncio.to_thread(self._look if look else self._glance, watch)
            now = time.monotonic()
            if look:
                rhythm.looked(now)
            else:
                rhythm.glanced(now, now - begin)
            if more:
                self._tell()

    def _look(self, watch: Watch) -> bool:
        self._repository.look()
        return watch.update(self._repository.directories)

    def _glance(self, watch: Watch) -> bool:
        self._repository.glance()
        return watch.update(self._repository.directories)
