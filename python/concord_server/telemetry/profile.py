# SPDX-License-Identifier: Apache-2.0
"""A profile of this process while it serves: the stacks of all threads, looked at a hundred times a second.

A thread looks, so the event loop goes on; and it sees what the event loop is at, as well as every other thread.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Final

__all__ = ["BusyError", "Profile"]

_INTERVAL_SECONDS = 0.01
_MOST_FRAMES = 100

MOST_SECONDS: Final = 60.0
"""The longest profile."""


class BusyError(Exception):
    """A profile is being made."""


class Profile:
    """Makes one profile at a time."""

    def __init__(self) -> None:
        self._busy = False

    async def take(self, seconds: float) -> str:
        """Looks for so many seconds, over 0 and at most MOST_SECONDS; waiting threads count as running ones do.

        Gives lines of `thread;outermost;...;innermost count`, as flame graph tools read them. Raises BusyError.
        """
        if self._busy:
            raise BusyError
        self._busy = True
        stop = threading.Event()
        try:
            return await asyncio.to_thread(_sample, seconds, stop)
        finally:
            stop.set()
            self._busy = False


def _sample(seconds: float, stop: threading.Event) -> str:
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds
    own = threading.get_ident()
    while time.monotonic() < end and not stop.wait(_INTERVAL_SECONDS):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own:
                seen[";".join((names.get(ident, "thread"), *_stack(frame)))] += 1
    return "".join(f"{stack} {count}\n" for stack, count in seen.most_common())


def _stack(innermost: FrameType | None) -> list[str]:
    """The functions of a stack, outermost first, by module: no path is in them."""
    frames: list[str] = []
    frame = innermost
    while frame is not None and len(frames) < _MOST_FRAMES:
        module = frame.f_globals.get("__name__", "?")
        frames.append(f"{module}.{frame.f_code.co_qualname}:{frame.f_lineno}")
        frame = frame.f_back
    return frames[::-1]
